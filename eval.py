"""Evaluate a checkpoint, ours or a released one, and put its numbers beside the paper's.

    python eval.py runs/rafdb-seed0/best.pth
    python eval.py models/rafdb_epoch21_acc0.897_bacc0.8275.pth --data datasets/raf-basic
    python eval.py --tables --runs runs

The data set and its folder come from the checkpoint (ours) or from the file's name (released)
unless they are given. All numbers come from one confusion matrix over the whole split. --tables
prints the paper's tables with the finished runs beside them.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import Parser, call_main
from common.errors import InputError
from common.files import make_folder, write_json, write_text
from datasets import DATASETS, FaceDataset, transforms
from results import published_for
from results.render import FORMATS, remarks
from results.runs import read_runs
from results.tables import make_tables

if TYPE_CHECKING:
    from torch import nn

    from engine.evaluate import ConfusionMatrix, Predictions

# How the released files are named, "affecnet" spelled so.
RELEASED_PREFIXES = {"rafdb": "rafdb", "affecnet8": "affectnet8", "affecnet7": "affectnet7"}
RELEASED_IMAGE_SIZE = 224
DEFAULT_RUNS = Path("runs")


@dataclass(frozen=True)
class Trained:
    """A network from a checkpoint, and what the file says about it."""

    path: Path
    network: nn.Module
    dataset: str | None  # None: neither the file nor its name says
    classes: list[str] | None  # None in released files
    image_size: int
    settings: dict[str, Any]  # the flags it was trained with; none in released files
    epoch: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says.

    Raises InputError for a checkpoint, data or flags that do not fit each other.
    """
    args = parse_arguments(arguments)
    if args.tables:
        print_tables(args.runs, args.format)
        return
    # What needs torch is imported after the flags: it takes seconds, which `--help` saves.
    from engine.evaluate import confusion_of
    from engine.report import metrics_json, metrics_text

    trained = read_trained(args.checkpoint)
    dataset = open_dataset(trained, args)
    check_outputs(args)
    left_out: list[str] = []
    predictions = evaluate(trained, dataset, args, left_out)
    matrix = confusion_of(predictions.logits, predictions.labels)
    print(
        f"{args.checkpoint}, epoch {trained.epoch}: {type(trained.network).__name__} on "
        f"{dataset.name} {dataset.split}, {dataset.root}"
        f"{f' (layout {dataset.layout})' if dataset.layout else ''}\n"
    )
    print(metrics_text(matrix, dataset.classes))
    for message in left_out:
        print(f"left out: {message}")
    if left_out:
        print(f"{len(left_out)} of {len(dataset):,} images were left out of all numbers")
    comparison = compare_with_paper(trained, dataset, matrix)
    for line in comparison_lines(comparison, dataset):
        print(line)
    content = {
        "checkpoint": str(args.checkpoint),
        "epoch": trained.epoch,
        "dataset": dataset.name,
        "split": dataset.split,
        "layout": dataset.layout,
        "image_size": args.image_size or trained.image_size,
        **metrics_json(matrix, dataset.classes),
        "paper": comparison,
        "left_out": left_out,
        "published_images": dataset.is_published() and not left_out,
    }
    if args.json:
        write_json(args.json, content)
        print(f"\nwrote {args.json}")
    if args.report:
        words = sys.argv[1:] if arguments is None else arguments
        command = shlex.join(["python", "eval.py", *words])
        write_report(args, content, (trained.network, dataset, predictions, command), matrix)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        nargs="?",
        metavar="CHECKPOINT",
        help="last.pth, best.pth or a released file",
    )
    add("--tables", action="store_true", help="print Tables 1 to 6 and Figure 5's numbers instead")
    add(
        "--runs",
        type=Path,
        default=DEFAULT_RUNS,
        metavar="DIR",
        help="with --tables: folder below which run folders are, or a csv of runs [runs]",
    )
    add(
        "--format",
        choices=list(FORMATS),
        default="text",
        help="with --tables: text, markdown, csv or json [text]",
    )
    add("--dataset", choices=list(DATASETS), help="data set [the checkpoint's]")
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="data folder [where it was trained, else the data set's own]",
    )
    add("--split", metavar="S", help="split to evaluate [the one the published numbers are on]")
    add("--layout", metavar="NAME", help="layout of the data folder [as trained, else recognised]")
    add("--json", type=Path, metavar="FILE", help="write the numbers there")
    add(
        "--report",
        type=Path,
        metavar="DIR",
        help="write a page, index.html, with report.json and confusion_matrix.png there",
    )
    add("--batch-size", type=int, default=64, metavar="N", help="images at a time [64]")
    add("--image-size", type=int, metavar="N", help="network input, pixels [as trained]")
    add(
        "--workers",
        type=int,
        default=-1,
        metavar="N",
        help="processes that load images (0: none; -1: one per core, 8 at most) [-1]",
    )
    add(
        "--device",
        default="auto",
        metavar="D",
        help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps [auto]",
    )
    add(
        "--amp",
        choices=("auto", "bf16", "off"),
        default="off",
        help="autocast: off (what published numbers are), bf16, or auto: bf16 where the hardware "
        "multiplies it [off]",
    )
    add(
        "--plain",
        action="store_true",
        help="run the network as it was trained, not its fused equivalent (slower)",
    )
    add(
        "--on-bad-image",
        default="stop",
        choices=("stop", "skip"),
        help="an image that cannot be read ends the evaluation, or is left out, listed and "
        "counted [stop]",
    )
    args = parser.parse_args(arguments)
    if args.tables == (args.checkpoint is not None):
        raise InputError("give either a CHECKPOINT or --tables; --help lists the flags")
    if args.batch_size < 1:
        raise InputError(f"--batch-size is {args.batch_size}; expected at least 1")
    if args.image_size is not None and not 32 <= args.image_size <= 4096:
        raise InputError(f"--image-size is {args.image_size}; expected 32 to 4096")
    if args.workers < -1:
        raise InputError(f"--workers is {args.workers}; expected at least 0, or -1")
    return args


def print_tables(runs: Path, form: str) -> None:
    """The paper's tables with our runs beside them; raises InputError for damaged run folders."""
    if runs.exists() or runs != DEFAULT_RUNS:
        finished, unfinished = read_runs(runs)
    else:
        finished, unfinished = [], []  # nothing has been run yet: the tables say what to run
    folder = runs if not runs.is_file() else DEFAULT_RUNS
    tables = make_tables(finished, folder)
    print(FORMATS[form](tables))
    for line in remarks(finished, unfinished, tables):
        print(line, file=sys.stderr)


def read_trained(path: Path) -> Trained:
    """A checkpoint as a network with what is known about it; raises InputError."""
    from engine.checkpoint import load_checkpoint
    from networks import network_for

    content = load_checkpoint(path)
    try:
        network = network_for(content["model_state_dict"])
    except InputError as error:
        raise InputError(f"checkpoint {path}: {error}") from error
    kinds = {"settings": dict, "class_names": list, "dataset": str, "iter": int}
    for key, kind in kinds.items():
        if not isinstance(content.get(key, kind()), kind):
            raise InputError(f"checkpoint {path}: its {key} is no {kind.__name__}, so not ours")
    settings = content.get("settings", {})
    classes = content.get("class_names")
    if not all(isinstance(text, str) for text in [*(classes or []), settings.get("data", "")]):
        raise InputError(f"checkpoint {path}: its class_names or data are no text, so not ours")
    by_name = next(
        (name for prefix, name in RELEASED_PREFIXES.items() if path.name.startswith(prefix)), None
    )
    return Trained(
        path=path,
        network=network,
        dataset=content.get("dataset", by_name),
        classes=list(classes) if classes else None,
        image_size=_image_size(settings, path),
        settings=settings,
        epoch=content.get("iter", 0),
    )


def _image_size(settings: dict[str, Any], path: Path) -> int:
    size = settings.get("image_size", RELEASED_IMAGE_SIZE)
    if not isinstance(size, int) or not 32 <= size <= 4096:
        raise InputError(f"checkpoint {path}: its image_size is {size!r}; expected 32 to 4096")
    return size


def open_dataset(trained: Trained, args: argparse.Namespace) -> FaceDataset:
    """The split to evaluate on; raises InputError where its classes are not the network's."""
    name = args.dataset or trained.dataset
    if name not in DATASETS:
        raise InputError(
            f"{trained.path} is a checkpoint for {name or 'an unknown data set'}; give --dataset "
            f"{', '.join(DATASETS)}"
        )
    kind = DATASETS[name]
    check_classes(trained, kind)
    same = name == trained.dataset
    trained_on = Path(trained.settings["data"]) if same and trained.settings.get("data") else None
    default = trained_on if trained_on and trained_on.is_dir() else kind.default_root
    if trained_on and trained_on != default and not args.data:
        warnings.warn(
            f"{trained_on}, where it was trained, is gone; evaluating on {default} (--data DIR "
            "for another)",
            stacklevel=2,
        )
    size = args.image_size or trained.image_size
    return kind(
        args.data or default,
        args.split or kind.evaluated_split,
        transforms.evaluation(size),
        **dataset_options(kind, trained.settings if same else {}, args),
    )


def dataset_options(
    kind: type[FaceDataset], settings: dict[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """The data set's options: as in training, but the layout of another folder is its own."""
    options = {name: settings[name] for name in kind.option_names if name in settings}
    if args.layout and "layout" not in kind.option_names:
        raise InputError(f"--layout is given, but {kind.name} has no layouts to choose from")
    if args.layout:
        options["layout"] = args.layout
    elif args.data:
        options.pop("layout", None)
    return options


def check_classes(trained: Trained, kind: type[FaceDataset]) -> None:
    """Refuse a network whose outputs do not stand for the data set's classes, in its order."""
    theirs = trained.classes or [f"class {i}" for i in range(trained.network.num_classes)]
    fits = (
        len(theirs) == len(kind.classes)
        if trained.classes is None
        else (theirs == list(kind.classes))
    )
    if not fits:
        raise InputError(
            f"the classes of {trained.path} do not fit {kind.name}: the checkpoint has "
            f"{', '.join(theirs)}; the data set has {', '.join(kind.classes)}; choose the "
            "--dataset it was trained on"
        )


def evaluate(
    trained: Trained, dataset: FaceDataset, args: argparse.Namespace, left_out: list[str]
) -> Predictions:
    """What the network says of the whole split; in float32 unless `--amp` says otherwise.

    With `--on-bad-image skip` what is said of images that cannot be used goes to `left_out`.
    """

    from common.devices import find_device
    from engine.device import wants_bf16
    from engine.evaluate import Predictions, predict
    from engine.loading import OrderedBatches, SeededImages, make_loader, worker_count
    from engine.progress import progress_bar
    from networks import inference_network

    device = find_device(args.device)
    images = SeededImages(dataset)
    loader = make_loader(
        images,
        OrderedBatches(len(images), args.batch_size),
        workers=worker_count(args.workers),
        device=device,
    )
    bf16 = wants_bf16(args.amp, device)
    kept: list[int] = []
    logits, labels = predict(
        inference_network(trained.network, device, bf16=bf16, plain=args.plain),
        loader,
        device,
        bf16=bf16,
        progress=progress_bar(len(images), "evaluation"),
        left_out=left_out if args.on_bad_image == "skip" else None,
        kept=kept,
    )
    return Predictions(logits, labels, kept)


def compare_with_paper(
    trained: Trained, dataset: FaceDataset, matrix: ConfusionMatrix
) -> list[dict[str, Any]]:
    """What the paper says of this network on this data set, and the difference, in percent."""
    method = {"DAN": "DAN", "ResNet18": "ResNet-18"}[type(trained.network).__name__]
    ours = matrix.metrics()
    return [
        {
            "metric": number.metric,
            "paper_percent": number.percent,
            "ours_percent": 100 * ours[number.metric],
            "difference": 100 * ours[number.metric] - number.percent,
            "source": number.source,
        }
        for number in published_for(dataset.name, method)
        if dataset.split == dataset.evaluated_split
    ]


def comparison_lines(comparison: list[dict[str, Any]], dataset: FaceDataset) -> list[str]:
    """The comparison as text; nothing where the data set is none of the paper's."""
    if not comparison:
        return []
    note = (
        ""
        if dataset.is_published()
        else (f", for the form alone (these {len(dataset):,} images are not the published split)")
    )
    lines = [
        f"{row['metric'].replace('_', ' '):<20} {row['ours_percent']:5.2f} %, paper "
        f"{row['paper_percent']:.2f} %, difference {row['difference']:+.2f} ({row['source']})"
        for row in comparison
    ]
    return ["", f"beside the paper{note}:", *lines]


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse places that cannot be written before the work is done, not after."""
    if args.json and (args.json.is_dir() or not args.json.parent.is_dir()):
        raise InputError(f"--json {args.json}: expected a file in a folder that exists")
    if args.report:
        make_folder(args.report)


def write_report(
    args: argparse.Namespace, content: dict[str, Any], evidence: tuple, matrix: ConfusionMatrix
) -> None:
    """report.json, confusion_matrix.png and index.html; evidence: what `make_report` takes."""
    from common.devices import find_device
    from engine.report import save_confusion_picture
    from results.page import page
    from results.report import make_report

    report = make_report(content, *evidence, device=find_device(args.device))
    write_json(args.report / "report.json", content)
    picture, whole = args.report / "confusion_matrix.png", args.report / "index.html"
    title = f"{args.checkpoint.name} on {content['dataset']} {content['split']}"
    save_confusion_picture(picture, matrix, content["classes"], title)
    write_text(whole, page(report))
    print(f"\nwrote {args.report / 'report.json'}, {picture} and {whole}")


if __name__ == "__main__":
    call_main(main)
