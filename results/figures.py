"""The paper's figures from our checkpoints and runs: what is drawn in them, as numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import InputError

from .runs import FinishedRun
from .tables import Spread, grouped

HeadsPanels = dict[str, dict[str, dict[int, list[float]]]]


def heads_panels(runs: Sequence[FinishedRun]) -> HeadsPanels:
    """Figure 5's series, one panel for each group of comparable runs with two numbers of heads.

    Title -> series -> heads -> one accuracy (a fraction) per seed.

    Raises InputError where no runs can be compared.
    """
    panels: HeadsPanels = {}
    for group in grouped(runs):
        counts = sorted({run.settings.get("heads") or 0 for run in group.runs} - {0})
        chosen = {k: group.of({"heads": k}) for k in counts}
        chosen = {k: found for k, found in chosen.items() if found}
        if len(chosen) > 1:
            title = group.title()
            if title in panels:  # the same data under another protocol
                title = f"{title} ({group.protocol()})"
            panels[title] = {
                "last epoch": {k: [r.last["accuracy"] for r in f] for k, f in chosen.items()},
                "best epoch, chosen on the evaluated split": {
                    k: [r.best["accuracy"] for r in f] for k, f in chosen.items()
                },
            }
    if not panels:
        raise InputError(
            f"finished runs: {len(runs)}, but no two that differ in nothing but the number of "
            "heads; train some with --heads, or with: python -m tools.reproduce fig5"
        )
    return panels


def heads_lines(panels: HeadsPanels) -> list[str]:
    """Figure 5's numbers as text."""
    lines = []
    for title, series in panels.items():
        lines.append(title)
        for name, values in series.items():
            cells = ", ".join(
                f"{k} head{'s' if k > 1 else ''} {Spread.of(found)} (seeds: {len(found)})"
                for k, found in sorted(values.items())
            )
            lines.append(f"  {name}: {cells}")
    return lines


def image_files(places: Sequence[Path], count: int) -> list[Path]:
    """The given image files, and those in given folders by name; the first `count` of them.

    Raises InputError for a place that does not exist and where there is no image.
    """
    known = Image.registered_extensions()
    files: list[Path] = []
    for place in places:
        if not place.exists():
            raise InputError(f"{place} does not exist; expected an image or a folder of images")
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        files += [file for file in inside if not place.is_dir() or file.suffix.lower() in known]
    if not files:
        raise InputError(f"{', '.join(map(str, places))}: no image there")
    return files[:count]


def read_confusion(path: Path) -> tuple[list[list[float]], list[str], str]:
    """(fractions (C, C), class names, title) from a file of `eval.py --json`.

    Raises InputError where it is missing or something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fractions = np.array(content["confusion_matrix"], dtype=np.float64)
        classes = [str(name) for name in content["classes"]]
        checkpoint, dataset, split = (str(content[k]) for k in ("checkpoint", "dataset", "split"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not what eval.py --json writes ({error!r})") from error
    shares = ((fractions >= 0) & (fractions <= 1)).all()
    if fractions.shape != (len(classes), len(classes)) or not classes or not shares:
        raise InputError(
            f"{path}: {len(classes)} classes, but a confusion matrix of shape {fractions.shape} "
            "that is none of fractions; expected what eval.py --json writes"
        )
    return fractions.tolist(), classes, f"{Path(checkpoint).name} on {dataset} {split}"
