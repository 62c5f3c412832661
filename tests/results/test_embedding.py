"""t-SNE and silhouette scores, and the features that they are made from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_samples

from common.errors import InputError
from datasets import RAFDB, transforms
from networks import DAN
from results.embedding import embed, sampled_features


@pytest.mark.filterwarnings("ignore:.*published are")
def test_sampled_features_are_those_of_each_image(data):
    torch.manual_seed(0)
    dan = DAN(7, 1).eval()
    dataset = RAFDB(data, "test", transforms.evaluation(32))
    cpu = torch.device("cpu")
    features, labels = sampled_features(dan, dataset, cpu, count=7, seed=3)
    assert sorted(labels) == list(range(7))  # the classes in proportion
    with torch.no_grad():
        whole = [dan(dataset[i].image[None]).features[0].mean((1, 2)) for i in range(14)]
    for feature, label in zip(features, labels, strict=True):
        gaps = [float(np.abs(feature - one.numpy()).max()) for one in whole]
        nearest = int(np.argmin(gaps))
        assert gaps[nearest] < 1e-4
        assert dataset.labels[nearest] == label
    again, _ = sampled_features(dan, dataset, cpu, count=7, seed=3)
    other, _ = sampled_features(dan, dataset, cpu, count=7, seed=4)
    assert (again == features).all()
    assert not np.allclose(other, features, atol=1e-3)


def test_classes_that_part_score_higher_and_a_seed_repeats():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    noise = rng.normal(size=(60, 5)).astype(np.float32)
    apart = noise + 8 * labels[:, None].astype(np.float32)
    one, other = embed(apart, labels, seed=1), embed(noise, labels, seed=1)
    assert one.points.shape == (60, 2)
    assert min(one.features_silhouette, one.points_silhouette) > 0.5
    assert max(other.features_silhouette, other.points_silhouette) < 0.1
    assert (embed(apart, labels, seed=1).points == one.points).all()
    # By the definition, for the first image.
    far = np.linalg.norm(apart - apart[0], axis=1)
    a = far[labels == 0].sum() / 19
    b = min(far[labels == c].mean() for c in (1, 2))
    assert silhouette_samples(apart, labels)[0] == pytest.approx((b - a) / max(a, b), rel=1e-5)
    with pytest.raises(InputError, match="two classes"):
        embed(noise, np.zeros(60), seed=0)
