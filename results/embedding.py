"""Features of many images -> points in the plane (t-SNE), and how well the classes part."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common.errors import InputError
from common.progress import progress_bar
from datasets import FaceDataset
from engine.data import SeededImages, batches_on, evaluation_loader, stratified_order

PERPLEXITY = 30.0


class Embedding(NamedTuple):
    """t-SNE of features, with the silhouette score of the true classes, -1 to 1."""

    points: np.ndarray  # (N, 2)
    features_silhouette: float  # in the space of the features
    points_silhouette: float  # in the plane


def sampled_features(
    network: nn.Module, dataset: FaceDataset, device: torch.device, *, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled FCN features (N, D) and labels (N,) of `count` images, the classes in proportion."""
    chosen = sorted(stratified_order(dataset.labels, seed)[:count])
    images = SeededImages(dataset, chosen)
    loader = evaluation_loader(images, 64, workers=0, device=device)
    bar = progress_bar(len(images), "features")
    features = pooled_features(network.to(device), loader, device, progress=bar)
    return features.numpy(), np.array(images.labels)


@torch.inference_mode()
def pooled_features(
    network: nn.Module,
    loader: DataLoader,
    device: torch.device,
    *,
    progress: dict[str, Any] | None = None,
) -> Tensor:
    """The network's feature maps, averaged over their positions: (N, D) float32 on the CPU.

    progress: arguments of tqdm; no bar without them.
    """
    network.eval()
    pooled = []
    with tqdm(**(progress or {"disable": True})) as bar:
        for batch in batches_on(loader, device):
            pooled.append(network(batch.images).features.mean(dim=(2, 3)).float().cpu())
            bar.update(len(batch))
    return torch.cat(pooled)


def embed(features: np.ndarray, labels: np.ndarray, *, seed: int) -> Embedding:
    """t-SNE of features (N, D) to the plane, from PCA, and silhouette scores of labels (N,).

    The silhouette is the mean over images of (b - a) / max(a, b): a the mean distance to the
    other images of its class, b to those of the nearest other class (Rousseeuw, 1987).

    Raises InputError for fewer than two classes, and for no more images than classes.
    """
    classes = len(np.unique(labels))
    if not 2 <= classes < len(labels):
        raise InputError(
            f"{len(labels)} images of {classes} classes; t-SNE and its score need two classes or "
            "more, and more images than classes"
        )
    perplexity = min(PERPLEXITY, (len(labels) - 1) / 3)
    points = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(features)
    return Embedding(
        points,
        float(silhouette_score(features, labels)),
        float(silhouette_score(points, labels)),
    )
