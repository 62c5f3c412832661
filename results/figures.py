"""The paper's figures from our checkpoints and runs: what is drawn in them, as numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from common.errors import InputError

from .runs import FinishedRun
from .tables import Spread, grouped

BATCH = 8  # images at a time; Grad-CAM++ keeps the whole graph of them
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
            f"{len(runs)} finished runs, but none that differ in the number of heads and seed "
            "alone; train some with --heads, or with: python -m tools.reproduce fig5"
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


def in_batches(
    network: nn.Module,
    images: Sequence[Tensor],
    device: torch.device,
    take_maps: Callable[[nn.Module, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Logits (N, C) and maps (N, k, h, w) of images (3, S, S), a few at a time; on the CPU."""

    logits, maps = [], []
    for start in range(0, len(images), BATCH):
        batch = torch.stack(list(images[start : start + BATCH])).to(device)
        with torch.no_grad():
            logits.append(network(batch).logits.float().cpu())
        maps.append(take_maps(network, batch).float().cpu())
    return torch.cat(logits), torch.cat(maps)


def confusion_from_json(content: Any, source: Path) -> tuple[list[list[float]], list[str], str]:
    """(fractions (C, C), class names, title) of what `eval.py --json` wrote; raises InputError."""
    try:
        fractions = np.array(content["confusion_matrix"], dtype=np.float64)
        classes = [str(name) for name in content["classes"]]
        words = [str(content[key]) for key in ("checkpoint", "dataset", "split")]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source} is not what eval.py --json writes ({error!r})") from error
    shares = ((fractions >= 0) & (fractions <= 1)).all()
    if fractions.shape != (len(classes), len(classes)) or not classes or not shares:
        raise InputError(
            f"{source}: {len(classes)} classes, but a confusion matrix of shape {fractions.shape} "
            "that is none of fractions; expected what eval.py --json writes"
        )
    return fractions.tolist(), classes, f"{Path(words[0]).name} on {words[1]} {words[2]}"
