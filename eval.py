"""Evaluate a checkpoint, ours or a released one, and put its numbers beside the paper's.

    python eval.py runs/rafdb-seed0/best.pth
    python eval.py models/rafdb_epoch21_acc0.897_bacc0.8275.pth --data datasets/raf-basic
    python eval.py runs/rafdb-seed0/best.pth --dataset fer2013 --data datasets/fer2013
    python eval.py --tables --runs runs

The data set and its folder come from the checkpoint (ours) or from the file's name (released)
unless they are given. All metrics come from one confusion matrix over the whole split, and from
the network as trained, in float32, unless --fast or --amp is given; --tta gives a second row of
them. A run with --ema has the moving average of its weights evaluated. Another data set than the
checkpoint's is evaluated on the classes that both have; --subset and --corruptions add tables
(docs/evaluating.md). --tables prints the paper's tables with the finished runs beside them, and the
comparisons of tools.reproduce.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from common.cli import Parser, call_main
from common.devices import find_device
from common.errors import InputError
from common.files import make_folder, write_json
from common.machine import use_threads
from datasets import DATASETS, FaceDataset
from datasets.corruptions import chosen_corruptions
from datasets.subsets import Subset, read_subset
from engine.evaluate import Metrics, Predictions
from results import PublishedNumber, published_for
from results.calibration import Calibration
from results.class_map import UNSHARED, ClassMap, is_other, map_classes, map_json, map_text
from results.comparisons import every_table
from results.cross import Pair
from results.metrics import metrics_json, metrics_text
from results.page import write_report
from results.poses import pose_logits_of, pose_metrics, pose_text, yaws_for
from results.render import FORMATS, remarks
from results.report import make_report
from results.robustness import corruption_numbers, reference_pair
from results.runs import read_runs
from results.subsets import subset_numbers, subset_text
from results.trained import Trained, open_dataset, predictions_of, read_trained
from results.views import VIEWS

DEFAULT_RUNS = Path("runs")


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate a checkpoint, or print the tables.

    Raises InputError for a checkpoint, data or flags that do not fit each other.
    """
    args = parse_arguments(arguments)
    if args.tables:
        print_tables(args.runs, args.format)
        return
    words = sys.argv[1:] if arguments is None else arguments
    evaluate(args, shlex.join(["python", "eval.py", *words]))


def evaluate(args: argparse.Namespace, command: str) -> None:
    """Print the numbers of a checkpoint and write the files asked for; `command` was typed."""
    trained, device = read_trained(args.checkpoint), find_device(args.device)
    use_threads(args.threads, device)
    dataset = open_dataset(
        trained,
        name=args.dataset,
        data=args.data,
        split=args.split,
        layout=args.layout,
        image_size=args.image_size,
        same_classes=not is_other(trained, args.dataset),
    )
    pair = Pair(trained, dataset, map_classes(trained, dataset, args.unshared))
    check_outputs(args)
    extras = Extras.of(args, pair)
    results = measure(args, pair, device, extras.subsets)
    comparison = compare(results, pair)
    print_results(pair, results, comparison, extras.subsets)
    content = as_json(args, pair, results, comparison)
    if extras.corruptions:
        content["corruptions"] = corruption_numbers(
            pair,
            results.predictions,
            extras.corruptions,
            device,
            seconds=results.seconds,
            reference=extras.reference,
            **{name: getattr(args, name) for name in ("batch_size", "workers", "amp", "fast")},
        )
    if args.json:
        write_json(args.json, content)
        print(f"\nwrote {args.json}")
    if args.report:
        report = make_report(
            content, trained.network, dataset, results.predictions, command, device=device
        )
        paths = write_report(args.report, report)
        print(f"\nwrote {', '.join(map(str, paths))}")


class Extras(NamedTuple):
    """Subsets, corruptions and reference, checked before inference starts."""

    subsets: list[Subset]
    corruptions: list[str]
    reference: Pair | None

    @classmethod
    def of(cls, args: argparse.Namespace, pair: Pair) -> Extras:
        """Those that flags ask for; raises InputError where they do not fit checkpoint and data."""
        return cls(
            [read_subset(path, pair.dataset) for path in args.subset],
            [] if args.corruptions is None else chosen_corruptions(args.corruptions),
            reference_pair(args.reference, pair) if args.reference else None,
        )


class Results(NamedTuple):
    """The numbers of a checkpoint on a split."""

    predictions: Predictions
    seconds: float  # of inference
    skipped: list[str]
    metrics: Metrics
    calibrations: dict[str, Calibration]
    poses: dict[str, Any] | None  # None: the data set knows none
    subsets: list[dict[str, Any]]
    tta: Metrics | None
    published: bool  # whether these are the images that the published numbers are on


def measure(
    args: argparse.Namespace, pair: Pair, device: torch.device, subsets: Sequence[Subset]
) -> Results:
    """Run the network over the split, and once more with --tta's views."""
    trained, dataset, class_map = pair.trained, pair.dataset, pair.class_map
    skipped: list[str] = []
    yaws = yaws_for(trained.network, dataset)
    with pose_logits_of(trained.network) as pose_logits:
        start = time.perf_counter()
        raw = predict_split(args, trained, dataset, device, skipped)
        seconds = time.perf_counter() - start
    predictions = class_map.of(raw)
    all_images = len(predictions.labels) == len(raw.labels)
    known_poses = pose_logits if all_images else []
    return Results(
        predictions=predictions,
        seconds=seconds,
        skipped=skipped,
        metrics=Metrics.of(predictions.logits, predictions.labels),
        calibrations=calibrations_of(trained, predictions),
        poses=pose_metrics(trained.network, yaws, predictions, known_poses),
        subsets=subset_numbers(subsets, predictions),
        tta=tta_metrics(args, trained, dataset, device, class_map) if args.tta else None,
        published=dataset.is_published() and all_images and not skipped,
    )


def print_results(
    pair: Pair, results: Results, comparison: list[dict[str, Any]], subsets: Sequence[Subset]
) -> None:
    """All numbers, beside the paper's where it has any for this network and split."""
    print_numbers(pair, results.metrics, results.skipped)
    print(more_text(results.tta, results.calibrations))
    if results.poses:
        print(pose_text(results.poses))
    if subsets:
        print(subset_text(subsets, results.subsets, results.metrics))
    if papers_numbers(pair):
        print(comparison_text(comparison, results.metrics.images))


def as_json(
    args: argparse.Namespace, pair: Pair, results: Results, comparison: list[dict[str, Any]]
) -> dict[str, Any]:
    """All numbers by name."""
    trained, dataset, class_map = pair.trained, pair.dataset, pair.class_map
    other = is_other(trained, dataset.name)
    return {
        **about(args, trained, dataset),
        "classes": list(class_map.classes),
        **({"class_map": map_json(class_map, trained, dataset)} if other else {}),
        **metrics_json(results.metrics),
        **({"poses": results.poses} if results.poses else {}),
        **({"subsets": results.subsets} if results.subsets else {}),
        "paper": comparison,
        "tta": None if results.tta is None else {"views": VIEWS, **metrics_json(results.tta)},
        "calibration": {name: made.json() for name, made in results.calibrations.items()},
        "skipped": results.skipped,
        "published_images": results.published,
    }


def about(args: argparse.Namespace, trained: Trained, dataset: FaceDataset) -> dict[str, Any]:
    """What is evaluated on what, for the json."""
    return {
        "checkpoint": str(args.checkpoint),
        "epoch": trained.epoch,
        "dataset": dataset.name,
        "split": split_name(trained, dataset),
        "layout": dataset.layout,
        "image_size": args.image_size or trained.image_size,
    }


def predict_split(
    args: argparse.Namespace,
    trained: Trained,
    dataset: FaceDataset,
    device: torch.device,
    skipped: list[str],
    *,
    tta: bool = False,
) -> Predictions:
    """The network's output on the split as the flags say; fills `skipped`."""
    return predictions_of(
        trained,
        dataset,
        device,
        batch_size=args.batch_size,
        workers=args.workers,
        amp=args.amp,
        fast=args.fast,
        tta=tta,
        skipped=skipped if args.on_bad_image == "skip" else None,
    )


def tta_metrics(
    args: argparse.Namespace,
    trained: Trained,
    dataset: FaceDataset,
    device: torch.device,
    class_map: ClassMap,
) -> Metrics:
    """The metrics with test-time augmentation; unreadable images have been listed before."""
    mean = class_map.of(predict_split(args, trained, dataset, device, [], tta=True))
    return Metrics.of(mean.logits, mean.labels)


def calibrations_of(trained: Trained, predictions: Predictions) -> dict[str, Calibration]:
    """The probabilities "before" calibration and, where the file has a temperature, "after"."""
    logits, labels, _ = predictions
    found = {"before": Calibration.of(logits, labels)}
    if trained.temperature != 1:
        found["after"] = Calibration.of(logits, labels, trained.temperature)
    return found


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
    add(
        "--tables",
        action="store_true",
        help="print Tables 1 to 6, Figure 5's numbers and our comparisons instead",
    )
    add(
        "--runs",
        type=Path,
        default=DEFAULT_RUNS,
        metavar="DIR",
        help="with --tables: folder that contains run folders, or a csv of runs [runs]",
    )
    add(
        "--format",
        choices=list(FORMATS),
        default="text",
        help="with --tables: text, markdown, csv or json [text]",
    )
    add("--dataset", choices=list(DATASETS), help="data set [the checkpoint's]")
    add(
        "--unshared",
        choices=list(UNSHARED),
        default="both",
        help="with another --dataset, classes that one side lacks are left out of the images, of "
        "the arg max, or of both, as is usual across data sets [both]",
    )
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
        help="DataLoader workers (0: none; -1: on a GPU one per core, on a CPU one for every four "
        "--threads; 8 at most) [-1]",
    )
    add(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="threads for the network on a CPU (0: one per core) [0]",
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
        help="mixed precision: off (as for the published numbers), bf16, or auto: bf16 where the "
        "hardware natively supports it [off]",
    )
    add(
        "--fast",
        action="store_true",
        help="run a fused network: faster, the same numbers up to rounding",
    )
    add(
        "--tta",
        action="store_true",
        help=f"evaluate a second time with the mean probabilities of {VIEWS} views of each image: "
        "whole, four corners, centre, and each mirrored",
    )
    add(
        "--on-bad-image",
        default="stop",
        choices=("stop", "skip"),
        help="an unreadable image ends the evaluation (stop), or is skipped, listed and counted "
        "[stop]",
    )
    add(
        "--subset",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="lists of images, such as RAN's of occluded and of turned faces: the metrics of each "
        "beside the whole split's",
    )
    add(
        "--corruptions",
        nargs="*",
        metavar="NAME",
        help="evaluate on corrupted images too: noise, blur, compression, light, weather and "
        "geometry in five severities; names or families choose some [all]",
    )
    add(
        "--reference",
        type=Path,
        metavar="CHECKPOINT",
        help="with --corruptions: the network that the mean corruption error is relative to",
    )
    args = parser.parse_args(arguments)
    if args.reference and args.corruptions is None:
        raise InputError("--reference is for --corruptions; give both")
    if args.tables == (args.checkpoint is not None):
        raise InputError("give either a CHECKPOINT or --tables; --help lists the flags")
    if args.batch_size < 1:
        raise InputError(f"--batch-size is {args.batch_size}; expected at least 1")
    if args.image_size is not None and not 32 <= args.image_size <= 4096:
        raise InputError(f"--image-size is {args.image_size}; expected 32 to 4096")
    if args.workers < -1:
        raise InputError(f"--workers is {args.workers}; expected at least 0, or -1")
    if args.threads < 0:
        raise InputError(f"--threads is {args.threads}; expected at least 0")
    return args


def print_tables(runs: Path, form: str) -> None:
    """The paper's tables with our runs beside them; raises InputError for damaged run folders."""
    if runs.exists() or runs != DEFAULT_RUNS:
        finished, unfinished = read_runs(runs)
    else:
        finished, unfinished = [], []  # nothing has been run yet: the tables say what to run
    folder = runs if not runs.is_file() else DEFAULT_RUNS
    tables = every_table(finished, folder)
    print(FORMATS[form](tables))
    for line in remarks(finished, unfinished, tables):
        print(line, file=sys.stderr)


def print_numbers(pair: Pair, metrics: Metrics, skipped: Sequence[str]) -> None:
    """What was evaluated, its metrics, and the images that were skipped."""
    trained, dataset, class_map = pair.trained, pair.dataset, pair.class_map
    print(
        f"{trained.path}, epoch {trained.epoch}: {trained.method}{trained.averaged} on "
        f"{dataset.name} {split_name(trained, dataset)}, {dataset.root}"
        f"{f' (layout {dataset.layout})' if dataset.layout else ''}\n"
    )
    if is_other(trained, dataset.name):
        print("\n".join([*map_text(class_map, trained, dataset), ""]))
    print(metrics_text(metrics, class_map.classes))
    for line in skipped:
        print(f"skipped: {line}")
    if skipped:
        print(f"{len(skipped)} of {len(dataset):,} images were skipped; the metrics exclude them")


def more_text(tta: Metrics | None, calibrations: dict[str, Calibration]) -> str:
    """The metrics with test-time augmentation, and how well the probabilities are calibrated."""
    lines = [
        f"{made.text()}{f', at temperature {made.temperature:.4f}' if name == 'after' else ''}"
        for name, made in calibrations.items()
    ]
    if tta is not None:
        lines.append(
            f"with test-time augmentation ({VIEWS} views): accuracy {100 * tta.accuracy:.2f} %, "
            f"mean class accuracy {100 * tta.mean_class_accuracy:.2f} %, macro F1 "
            f"{100 * tta.macro_f1:.2f} %"
        )
    return "\n".join(["", *lines])


def split_name(trained: Trained, dataset: FaceDataset) -> str:
    """The split, and where it is the fold that training held out, which."""
    fold = f" fold {trained.fold}" if trained.fold and dataset.split == "train" else ""
    return f"{dataset.split}{fold}"


def papers_numbers(pair: Pair) -> list[PublishedNumber]:
    """The paper's numbers for this network on this split; none for a rival (docs/rivals.md)."""
    trained, dataset = pair.trained, pair.dataset
    if dataset.split != dataset.evaluated_split or is_other(trained, dataset.name):
        return []
    method = {"DAN": "DAN", "ResNet18": "ResNet-18"}.get(trained.method)
    return published_for(dataset.name, method) if method else []


def compare(results: Results, pair: Pair) -> list[dict[str, Any]]:
    """Our numbers beside the paper's, in percent, and the difference; none for other images."""
    ours = results.metrics.scores()
    return [
        {
            "metric": number.metric,
            "paper_percent": number.percent,
            "ours_percent": 100 * ours[number.metric],
            "difference": 100 * ours[number.metric] - number.percent,
            "source": number.source,
        }
        for number in (papers_numbers(pair) if results.published else ())
    ]


def comparison_text(comparison: Sequence[dict[str, Any]], images: int) -> str:
    """The comparison, or why there is none although the paper has numbers."""
    if not comparison:
        return f"\nnot beside the paper: these {images:,} images are not the published split"
    lines = [
        f"{row['metric'].replace('_', ' '):<20} {row['ours_percent']:5.2f} %, paper "
        f"{row['paper_percent']:.2f} %, difference {row['difference']:+.2f} ({row['source']})"
        for row in comparison
    ]
    return "\n".join(["", "beside the paper:", *lines])


def check_outputs(args: argparse.Namespace) -> None:
    """Raise InputError for outputs that cannot be written, before the evaluation."""
    if args.json and (args.json.is_dir() or not args.json.parent.is_dir()):
        raise InputError(f"--json {args.json}: expected a file in a folder that exists")
    if args.report:
        make_folder(args.report)


if __name__ == "__main__":
    call_main(main)
