"""Numbers and maps -> matplotlib figures; no pyplot, so no window and no global state."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from common.errors import InputError
from common.files import make_folder, write_whole

from .text import without_math

#: For classes, runs and series; readable in grey and by most colour-blind people (Wong, 2011).
COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#8a6d00",
)
MAP_COLORS = "turbo"
MAP_OPACITY = 0.5
SHEET_SIDE = 240  # pixels of an image in a sheet at 150 dpi
CAPTION_HEIGHT = 0.2  # inches below a row of a sheet


def save_figure(figure: Figure, stem: Path, kinds: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write `stem`.png (150 dpi) and `stem`.pdf, making the folder; returns the paths."""
    make_folder(stem.parent)
    written = []
    for kind in kinds:
        # Without the time of writing, equal figures are equal files.
        extra = {"metadata": {"CreationDate": None}} if kind == "pdf" else {}
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150, **extra)
        path = stem.with_name(f"{stem.name}.{kind}")
        write_whole(path, lambda stream, buffer=buffer: stream.write(buffer.getvalue()))
        written.append(path)
    return written


def overlay(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """A map laid over an RGB image: heat (h, w), from 0 up, is enlarged and scaled to its peak."""
    peak = float(heat.max())
    scaled = Image.fromarray((heat / peak if peak > 0 else heat).astype(np.float32))
    large = np.asarray(scaled.resize(image.size, Image.Resampling.BILINEAR)).clip(0, 1)
    colors = colormaps[MAP_COLORS](large)[..., :3]
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
    mixed = (1 - MAP_OPACITY) * pixels + MAP_OPACITY * colors
    return Image.fromarray((255 * mixed).round().astype(np.uint8))


def enlarged(image: Image.Image, side: int) -> Image.Image:
    """An image with its longer side at least `side` pixels: maps over tiny images stay smooth."""
    scale = max(1.0, side / max(image.size))
    return image.resize([max(1, round(scale * length)) for length in image.size])


def map_sheet(
    images: Sequence[Image.Image],
    maps: np.ndarray,
    captions: Sequence[str],
    title: str,
    names: Sequence[str] | None = None,
) -> Figure:
    """One row per image: the image, then each head's map over it (Figure 1).

    maps: (images, heads, h, w); captions: one per row; names: of the maps, "head 1" and so on.
    """
    rows, heads = maps.shape[:2]
    names = names or [f"head {i + 1}" for i in range(heads)]
    figure = Figure(figsize=(1.6 * (heads + 1) + 0.2, 1.85 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, heads + 1, squeeze=False)
    for row, image in enumerate(images):
        large = enlarged(image, SHEET_SIDE)
        cells = [large, *(overlay(large, heat) for heat in maps[row])]
        for column, (axes, picture) in enumerate(zip(grid[row], cells, strict=True)):
            axes.imshow(picture)
            axes.set_axis_off()
            if row == 0 and column:
                axes.set_title(without_math(names[column - 1]), fontsize=9)
        # Under the row and beyond the picture, which is narrower than class names.
        axes, caption = grid[row][0], without_math(captions[row])
        text = axes.text(0, -0.04, caption, transform=axes.transAxes, fontsize=8, va="top")
        text.set_in_layout(False)
    below = CAPTION_HEIGHT / 2 / figure.get_figheight()  # the last row's
    figure.get_layout_engine().set(h_pad=CAPTION_HEIGHT / 2, rect=(0, below, 1, 1 - below))
    figure.suptitle(without_math(title), fontsize=10)
    return figure


def embedding_figure(
    panels: Sequence[tuple[str, np.ndarray]], labels: np.ndarray, classes: Sequence[str], title: str
) -> Figure:
    """Points of an embedding side by side, coloured by true class (Figure 3).

    panels: (title, points (N, 2)); labels (N,) are the same for all.
    """
    figure = Figure(figsize=(4.6 * len(panels), 5.2), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(panels)).flat, panels, strict=True):
        for label, class_name in enumerate(classes):
            chosen = points[labels == label]
            color = COLORS[label % len(COLORS)]
            axes.scatter(*chosen.T, s=9, color=color, linewidths=0, label=without_math(class_name))
        axes.set_title(without_math(name), fontsize=10)
        # The coordinates of t-SNE have no meaning of their own.
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", adjustable="datalim")
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, markerscale=2.5, fontsize=9)
    figure.suptitle(without_math(title), fontsize=11)
    return figure


def heads_figure(panels: Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]]) -> Figure:
    """Accuracy against the number of heads (Figure 5), mean and standard deviation over seeds.

    panels: title -> series, for instance "last epoch" -> heads -> one accuracy (a fraction) per
    seed.
    """
    figure = Figure(figsize=(6, 4.2 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False)
    for axes, (title, series) in zip(grid.flat, panels.items(), strict=True):
        for place, (name, values) in enumerate(series.items()):
            heads = sorted(values)
            means = [100 * mean(values[k]) for k in heads]
            spread = [100 * stdev(values[k]) if len(values[k]) > 1 else math.nan for k in heads]
            # Side by side, so that the bars of two series can be told apart.
            shift = 0.06 * (place - (len(series) - 1) / 2)
            style = {"marker": "os^D"[place % 4], "color": COLORS[place % len(COLORS)]}
            places = [k + shift for k in heads]
            axes.errorbar(places, means, spread, capsize=4, label=without_math(name), **style)
        first = next(iter(series.values()))
        axes.set_xticks(sorted(first), [f"{k}\n{_seeds(first[k])}" for k in sorted(first)])
        axes.set_xlabel("number of heads")
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(fontsize=9)
        axes.set_title(without_math(title), fontsize=10)
    return figure


def _seeds(values: Sequence[float]) -> str:
    return f"{len(values)} seed{'' if len(values) == 1 else 's'}"


def curves_figure(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Loss, and accuracy with mean class accuracy, by epoch; a colour per run.

    histories: name of the run -> the rows of its metrics.csv.

    Raises InputError where no run has an epoch.
    """
    if not any(histories.values()):
        raise InputError("there is no epoch to draw; expected runs with rows in metrics.csv")
    figure = Figure(figsize=(10, 4.2 + 0.2 * len(histories)), layout="constrained")
    loss, scores = figure.subplots(1, 2)
    for place, (name, rows) in enumerate(histories.items()):
        epochs = [row["epoch"] for row in rows]
        style = {"color": COLORS[place % len(COLORS)], "marker": "o", "markersize": 3}
        loss.plot(epochs, [row["loss"] for row in rows], label=without_math(name), **style)
        for metric, line in (("accuracy", "-"), ("mean_class_accuracy", "--")):
            values = [100 * row[metric] for row in rows]
            scores.plot(epochs, values, line, label=f"{metric.replace('_', ' ')}", **style)
    loss.set_ylabel("training loss")
    scores.set_ylabel("evaluated split, %")
    for axes in (loss, scores):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", fontsize=9)
    scores.legend(scores.lines[:2], ["accuracy", "mean class accuracy"], fontsize=9)
    return figure
