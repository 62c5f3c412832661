"""The paper's figures, and pictures of runs, as PNG and PDF.

    python -m tools.figures fig1 runs/rafdb-seed0/best.pth
    python -m tools.figures fig1 runs/rafdb-seed0/best.pth photo1.jpg folder/ --map spatial
    python -m tools.figures fig1 runs/rafdb-seed0/best.pth --beside runs/dacl/best.pth
    python -m tools.figures fig3 runs/without/last.pth runs/with/last.pth
    python -m tools.figures fig5 --runs runs
    python -m tools.figures confusion runs/rafdb-seed0/best.pth
    python -m tools.figures curves runs/rafdb-seed0 runs/rafdb-seed1

Each writes build/figures/<name>.png and .pdf, or --output STEM.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from common.cli import Parser, call_main
from common.devices import find_device
from common.errors import InputError
from datasets import DATASETS, FaceDataset, transforms
from datasets.reading import open_rgb
from engine.evaluate import Metrics
from networks import DAN
from networks.attention import grad_cam_maps, spatial_maps
from networks.rivals import RIVALS
from results.embedding import embed, sampled_features
from results.evidence import classes_in_turn, in_batches
from results.figures import heads_lines, heads_panels, image_files, read_confusion
from results.metrics import confusion_figure
from results.pictures import curves_figure, embedding_figure, heads_figure, map_sheet, save_figure
from results.runs import read_metrics, read_runs
from results.trained import Trained, open_dataset, predictions_of, read_trained

DEFAULT_FOLDER = Path("build/figures")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw as the command line says; raises InputError."""
    args = parse_arguments(arguments)
    draw = {"fig1": fig1, "fig3": fig3, "fig5": fig5, "confusion": confusion, "curves": curves}
    figure = draw[args.figure](args)
    for path in save_figure(figure, args.output or DEFAULT_FOLDER / args.figure):
        print(f"wrote {path}")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    one = commands.add_parser("fig1", help="where each head looks: Grad-CAM++ over images")
    one.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="of a DAN, or of a rival")
    one.add_argument(
        "images",
        type=Path,
        nargs="*",
        metavar="IMAGE",
        help="images or folders [--count images of the evaluated split, of all classes in turn]",
    )
    one.add_argument(
        "--map",
        choices=("gradcam", "spatial"),
        default="gradcam",
        help="Grad-CAM++ (needs requirements-figures.txt), or the map that the head multiplies "
        "the features with [gradcam]",
    )
    one.add_argument(
        "--beside",
        type=Path,
        metavar="CHECKPOINT",
        help="of another network, for the first column: the paper's has DACL there",
    )
    _data_flags(one, count=6)
    three = commands.add_parser("fig3", help="t-SNE of the features of two networks")
    for name, words in (("without", "without the affinity loss"), ("with_loss", "with it")):
        three.add_argument(
            name, type=Path, metavar=name.split("_")[0].upper(), help=f"checkpoint {words}"
        )
    _data_flags(three, count=1000)
    five = commands.add_parser("fig5", help="accuracy against the number of heads")
    five.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="folder with run folders, or a csv of runs [runs]",
    )
    matrix = commands.add_parser("confusion", help="the confusion matrix")
    matrix.add_argument("checkpoint", type=Path, nargs="?", metavar="CHECKPOINT")
    matrix.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="what eval.py --json wrote, instead of a checkpoint",
    )
    _data_flags(matrix)
    runs = commands.add_parser("curves", help="loss and accuracy by epoch")
    runs.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    for command in (one, three, five, matrix, runs):
        command.add_argument(
            "--output",
            type=Path,
            metavar="STEM",
            help=f"where to write, without .png and .pdf [{DEFAULT_FOLDER}/<figure>]",
        )
    args = parser.parse_args(arguments)
    if getattr(args, "count", 1) < 1:
        raise InputError(f"--count is {args.count}; expected at least 1")
    if getattr(args, "image_size", None) is not None and not 32 <= args.image_size <= 4096:
        raise InputError(f"--image-size is {args.image_size}; expected 32 to 4096")
    return args


def _data_flags(parser: Parser, count: int | None = None) -> None:
    """The flags that choose images, as eval.py has them."""
    add = parser.add_argument
    add("--dataset", choices=list(DATASETS), help="data set [the checkpoint's]")
    add("--data", type=Path, metavar="DIR", help="data folder [where it was trained]")
    add("--split", metavar="S", help="split [the one the published numbers are on]")
    add("--layout", metavar="NAME", help="layout of the data folder [as trained, else recognised]")
    add("--image-size", type=int, metavar="N", help="network input, pixels [as trained]")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, mps [auto]")
    if count is not None:
        add("--count", type=int, default=count, metavar="N", help=f"images [{count}]")
        add("--seed", type=int, default=0, metavar="N", help="which images [0]")


def fig1(args: argparse.Namespace) -> Figure:
    """Figure 1: each head's map beside the image."""
    trained = read_trained(args.checkpoint)
    if trained.method == "ResNet18":
        raise InputError(
            f"{args.checkpoint} is a ResNet-18, which has no heads; fig1 needs a DAN or a rival"
        )
    if args.images:
        files = image_files(args.images, args.count)
        images, labels = [open_rgb(file) for file in files], [file.name for file in files]
    else:
        dataset = _opened(trained, args)
        chosen = classes_in_turn(dataset.labels, args.count, args.seed)
        images = [dataset.read_image(i) for i in chosen]
        labels = [f"labelled {dataset.classes[dataset.labels[i]]}" for i in chosen]
    captions = [
        f"{label}, taken for {taken}"
        for label, taken in zip(labels, _taken_for(trained, images, args), strict=True)
    ]
    maps, names = _maps(trained, images, args)
    kind = "Grad-CAM++" if args.map == "gradcam" else "spatial maps"
    title = f"{kind} of {args.checkpoint}"
    if args.beside:
        others, theirs = _maps(read_trained(args.beside), images, args)
        others = F.interpolate(others, maps.shape[2:], mode="bilinear")  # of another image size
        maps, names = torch.cat([others, maps], dim=1), [*theirs, *names]
        title = f"{title} beside {args.beside}"
    return map_sheet(images, maps.numpy(), captions, title, names)


def _inputs(trained: Trained, images: Sequence[Image.Image], size: int | None) -> list[Tensor]:
    transform = transforms.evaluation(size or trained.image_size)
    return [transform(image) for image in images]


def _taken_for(
    trained: Trained, images: Sequence[Image.Image], args: argparse.Namespace
) -> list[str]:
    """The most probable class of each image, with its probability."""
    device = find_device(args.device)
    network, classes = trained.network.to(device).eval(), trained.class_names(args.dataset)
    inputs = _inputs(trained, images, args.image_size)
    with torch.no_grad():
        logits = in_batches(inputs, device, lambda batch: network(batch).logits)
    rows = logits.softmax(dim=1)
    return [f"{classes[int(row.argmax())]} {100 * row.max():.0f} %" for row in rows]


def _maps(
    trained: Trained, images: Sequence[Image.Image], args: argparse.Namespace
) -> tuple[Tensor, list[str]]:
    """Each head's map, or the only one of a network without heads: (images, k, h, w); names."""
    device = find_device(args.device)
    network = trained.network.to(device).eval()
    take = grad_cam_maps if args.map == "gradcam" else spatial_maps
    maps = in_batches(_inputs(trained, images, args.image_size), device, partial(take, network))
    if isinstance(network, DAN):
        return maps, [f"head {i + 1}" for i in range(maps.shape[1])]
    if args.map == "spatial" and hasattr(network, "map_names"):
        return maps, list(network.map_names)
    return maps, [str(trained.settings.get("arch", type(network).__name__)).upper()]


def _opened(trained: Trained, args: argparse.Namespace) -> FaceDataset:
    return open_dataset(
        trained,
        name=args.dataset,
        data=args.data,
        split=args.split,
        layout=args.layout,
        image_size=args.image_size,
    )


def fig3(args: argparse.Namespace) -> Figure:
    """Figure 3: the features of two networks on the same images, by true class."""
    panels, shown, device = [], None, find_device(args.device)
    for path in (args.without, args.with_loss):
        trained = read_trained(path)
        dataset = _opened(trained, args)
        features, labels = sampled_features(
            trained.network, dataset, device, count=args.count, seed=args.seed
        )
        if shown and not (shown[0].name == dataset.name and np.array_equal(shown[1], labels)):
            raise InputError(
                f"{args.without} and {path} were trained on different data; give --dataset and "
                "--data, or two checkpoints of one data set"
            )
        shown = (dataset, labels)
        found = embed(features, labels, seed=args.seed)
        loss = f"FCN loss: {trained.settings.get('fcn_loss', 'not known')}"
        if trained.settings.get("arch") in RIVALS:
            loss = trained.settings["arch"]
        print(
            f"{path} ({loss}), {len(labels):,} images of {dataset.name} "
            f"{dataset.split}: silhouette {found.features_silhouette:.4f} of the features, "
            f"{found.points_silhouette:.4f} in the plane"
        )
        title = f"{loss}\nsilhouette {found.features_silhouette:.3f} of the features"
        panels.append((title, found.points))
    dataset, labels = shown
    title = f"t-SNE of the FCN's features, {len(labels):,} images of {dataset.name} {dataset.split}"
    return embedding_figure(panels, labels, dataset.classes, title)


def fig5(args: argparse.Namespace) -> Figure:
    """Figure 5: accuracy against the number of heads."""
    finished, _ = read_runs(args.runs)
    panels = heads_panels(finished)
    print("\n".join(heads_lines(panels)))
    return heads_figure(panels)


def confusion(args: argparse.Namespace) -> Figure:
    """The confusion matrix of a checkpoint, or of the numbers of an earlier evaluation."""
    if (args.checkpoint is None) == (args.json is None):
        raise InputError("give either a CHECKPOINT or --json FILE")
    if args.json:
        return confusion_figure(*read_confusion(args.json))
    trained = read_trained(args.checkpoint)
    dataset = _opened(trained, args)
    logits, labels, _ = predictions_of(trained, dataset, find_device(args.device))
    title = f"{args.checkpoint.name} on {dataset.name} {dataset.split}"
    fractions = Metrics.of(logits, labels).fractions().tolist()
    return confusion_figure(fractions, dataset.classes, title)


def curves(args: argparse.Namespace) -> Figure:
    """Training curves of one run or more."""
    histories = {}
    for run in args.runs:
        if not (run / "metrics.csv").is_file():
            raise InputError(f"{run / 'metrics.csv'} does not exist; expected the folder of a run")
        histories[str(run)] = read_metrics(run / "metrics.csv")
    return curves_figure(histories)


if __name__ == "__main__":
    call_main(main)
