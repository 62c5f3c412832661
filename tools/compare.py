"""Is a method better than a reference on the same images? Tests over images and seeds.

    python -m tools.compare runs/resnet18-seed0 runs/dan-seed0
    python -m tools.compare 'runs/rafdb/resnet18-seed*' 'runs/rafdb/dan-seed*'

Each method is a checkpoint, a run folder, a folder of run folders of several seeds, or a pattern of
those in quotes. The first is the reference, with which the others are compared: difference in
accuracy, its 95 % interval and a p value, on all images and for each class.

One network each: percentile bootstrap over images and the exact McNemar test. They answer for these
two networks, not for other seeds. Several seeds of a method: interval and test of Student's t from
the variance over images and that between seeds, as crossed random effects, so that they answer for
the method. Several methods: p values are also given after Holm's correction.

Runs with --fold 1/K to K/K are one network of their seed: every training image is judged by the run
that held it out, and the comparison is over all of them.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy
import torch

from common.cli import Parser, call_main
from common.devices import find_device
from common.errors import InputError
from common.files import make_folder, write_json
from common.machine import use_threads
from datasets import DATASETS
from results.against_reference import comparison_numbers, comparison_text, write_comparison
from results.methods import answers_of, check_comparable, check_same_images, read_method


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare methods as the command line says; raises InputError."""
    args = parse_arguments(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "tools.compare", *words])
    device = find_device(args.device)
    use_threads(args.threads, device)
    methods = [read_method(place, "best.pth" if args.best else "last.pth") for place in args.method]
    check_comparable(methods, args.dataset)
    opening = {"name": args.dataset, "data": args.data, "split": args.split}
    predicting = {"batch_size": args.batch_size, "workers": args.workers, "tta": args.tta}
    answers = []
    for method in methods:
        answers.append(answers_of(method, device, opening=opening, predicting=predicting))
        check_same_images(answers[0], answers[-1])
    dataset = answers[0].dataset
    numbers = {
        "dataset": dataset.name,
        "split": dataset.split,
        "tta": args.tta,
        **comparison_numbers(methods, answers, dataset.classes),
    }
    print(f"{numbers['images']:,} images of {dataset.name} {dataset.split}, {dataset.root}\n")
    print(comparison_text(numbers))
    if args.json:
        write_json(args.json, numbers)
        print(f"\nwrote {args.json}")
    if args.report:
        facts = {
            **{made["name"]: ", ".join(made["checkpoints"]) for made in numbers["methods"]},
            "data": f"{dataset.root}, {dataset.name} {dataset.split}",
            "device": str(device),
            "Python": platform.python_version(),
            **{made.__name__: made.__version__ for made in (torch, np, scipy)},
        }
        paths = write_comparison(args.report, numbers, command, facts)
        print(f"\nwrote {', '.join(map(str, paths))}")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("method", nargs="+", metavar="METHOD", help="the reference, then one method or more")
    add("--best", action="store_true", help="take best.pth of run folders, not last.pth")
    add("--dataset", choices=list(DATASETS), help="data set [the checkpoints']")
    add("--data", type=Path, metavar="DIR", help="data folder [where each was trained]")
    add("--split", metavar="S", help="split to evaluate [the one the published numbers are on]")
    add("--tta", action="store_true", help="with test-time augmentation, as in eval.py")
    add("--json", type=Path, metavar="FILE", help="write the numbers there")
    add(
        "--report", type=Path, metavar="DIR", help="write a page, index.html, and its numbers there"
    )
    add("--batch-size", type=int, default=64, metavar="N", help="images at a time [64]")
    add("--workers", type=int, default=-1, metavar="N", help="as in eval.py [-1]")
    add("--threads", type=int, default=0, metavar="N", help="as in eval.py [0]")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, mps [auto]")
    args = parser.parse_args(arguments)
    if len(args.method) < 2:
        raise InputError(f"only {args.method[0]} is given; expected a reference and a method")
    for name, lowest in (("batch_size", 1), ("workers", -1), ("threads", 0)):
        value = getattr(args, name)
        if value < lowest:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag} is {value}; expected at least {lowest}")
    if args.json and (args.json.is_dir() or not args.json.parent.is_dir()):
        raise InputError(f"--json {args.json}: expected a file in a folder that exists")
    if args.report:
        make_folder(args.report)
    return args


if __name__ == "__main__":
    call_main(main)
