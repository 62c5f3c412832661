"""Fit a temperature to held-out training faces and store it in the checkpoint.

    python -m tools.calibrate runs/fer2013-seed0/last.pth

The temperature divides the logits and minimises the negative log-likelihood of the labels. No
prediction changes, only how sure the network says it is. The faces are those that the run's
--holdout kept out of training; a run without it needs --holdout here, and then the network has
seen the faces, so that the temperature is too low. eval.py shows the errors before and after.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser, call_main
from common.devices import find_device
from common.errors import InputError
from datasets import FaceDataset
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.data import chosen_images
from results.calibration import Calibration, fit_temperature
from results.trained import Trained, open_dataset, predictions_of, read_trained


def main(arguments: Sequence[str] | None = None) -> None:
    """Calibrate a checkpoint as the command line says; raises InputError."""
    args = parse_arguments(arguments)
    trained, device = read_trained(args.checkpoint), find_device(args.device)
    dataset = open_dataset(trained, name=args.dataset, data=args.data, split="train")
    content = load_checkpoint(args.checkpoint)
    held_out = held_out_images(trained, dataset, args.holdout, content.get("training_images"))
    logits, labels, _ = predictions_of(
        trained, dataset, device, indices=held_out, workers=args.workers
    )
    content["temperature"] = fit_temperature(logits, labels)
    save_checkpoint(args.checkpoint, content)
    seen = ", which the network has seen in training" if args.holdout else ""
    print(f"{len(held_out):,} faces of {dataset.root}{seen}")
    for words, temperature in (("before", 1.0), ("after", content["temperature"])):
        print(f"{words:<6}  {Calibration.of(logits, labels, temperature).text()}")
    print(f"wrote the temperature {content['temperature']:.4f} into {args.checkpoint}")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="last.pth, best.pth or a released file")
    add("--dataset", metavar="NAME", help="data set [the checkpoint's]")
    add("--data", type=Path, metavar="DIR", help="data folder [where it was trained]")
    add(
        "--holdout",
        type=float,
        default=0.0,
        metavar="X",
        help="fraction of each class of the training split, for a run that held out none",
    )
    add(
        "--workers",
        type=int,
        default=-1,
        metavar="N",
        help="DataLoader workers [-1: as in eval.py]",
    )
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, mps [auto]")
    args = parser.parse_args(arguments)
    if not 0 <= args.holdout < 1:
        raise InputError(f"--holdout is {args.holdout}; expected 0 up to, not including, 1")
    return args


def held_out_images(
    trained: Trained, dataset: FaceDataset, asked: float, training_images: int | None
) -> list[int]:
    """Indices of the training faces that the run held out, or else of the share `asked` for.

    Faces that are not evaluated, as their label is not clear, are left out.

    Raises InputError where a run held faces out and some are asked for, or neither, and where the
    training split is not the run's.
    """
    if trained.fold:
        raise InputError(
            f"the run of {trained.path} held fold {trained.fold} out to be evaluated on; a "
            "temperature needs faces of its own: calibrate a run with --holdout"
        )
    held = trained.settings.get("holdout", 0.0)
    if bool(held) == bool(asked):
        raise InputError(
            f"the run of {trained.path} held out {held:g} of its training faces; "
            + ("leave --holdout out" if held else "give --holdout 0.1 for a tenth, all seen by it")
        )
    limit = trained.settings.get("limit", 0)
    chosen, held_out = chosen_images(dataset.labels, held or asked, limit)
    if held and len(chosen) != training_images:
        raise InputError(
            f"{trained.path} was trained on {training_images} images, {dataset.root} now gives "
            f"{len(chosen)}; give the data of its training with --data"
        )
    return dataset.with_clear_label(held_out)


if __name__ == "__main__":
    call_main(main)
