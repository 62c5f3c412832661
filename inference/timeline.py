"""The expressions of every person over time, in memory that does not grow with the video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from results.pictures import COLORS
from results.text import without_math

from .faces import PredictedFace

MAX_BINS = 1000
SHOWN = 8  # persons, those seen longest


class Timeline:
    """Mean probabilities of each person in bins of time, which widen as the video goes on."""

    def __init__(self, class_names: Sequence[str], width: float = 0.04):
        """width: of a bin at the start, seconds."""
        self.class_names, self.width = class_names, width
        #: person -> bin -> sum of the probabilities, and how many, as the last element.
        self.persons: dict[int, dict[int, np.ndarray]] = {}

    def add(self, time: float, number: int, face: PredictedFace) -> None:
        """A face of a person at a time in seconds."""
        while time / self.width >= MAX_BINS:
            self._widen()
        bins = self.persons.setdefault(number, {})
        # A frame that lies on a bin's edge, up to rounding, belongs to the later bin.
        place = int(time / self.width + 1e-6)
        bins[place] = bins.get(place, 0) + np.append(face.probabilities, 1.0)

    def _widen(self) -> None:
        self.width *= 2
        for number, bins in self.persons.items():
            joined: dict[int, np.ndarray] = {}
            for place, values in bins.items():
                joined[place // 2] = joined.get(place // 2, 0) + values
            self.persons[number] = joined

    def of(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Times (T,) in seconds, the middles of the bins, and mean probabilities (T, C)."""
        bins = sorted(self.persons[number].items())
        sums = np.array([values for _, values in bins])
        times = (np.array([place for place, _ in bins]) + 0.5) * self.width
        return times, sums[:, :-1] / sums[:, -1:]

    def figure(self, title: str) -> Figure:
        """A row per person: how probable each expression is, stacked, over time."""
        frames = {
            number: sum(values[-1] for values in bins.values())
            for number, bins in self.persons.items()
        }
        shown = sorted(sorted(frames, key=frames.get, reverse=True)[:SHOWN])
        figure = Figure(figsize=(10, 1.0 + 1.3 * max(1, len(shown))), layout="constrained")
        grid = figure.subplots(max(1, len(shown)), 1, sharex=True, squeeze=False)
        for axes, number in zip(grid.flat, shown, strict=False):
            self._draw(axes, number)
        grid[-1][0].set_xlabel("time, seconds")
        handles, names = grid[0][0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=9)
        left_out = len(frames) - len(shown)
        more = f" ({left_out} more persons, seen for a shorter time)" if left_out else ""
        figure.suptitle(without_math(title) + more, fontsize=10)
        return figure

    def _draw(self, axes: object, number: int) -> None:
        times, shares = self.of(number)
        # A gap in which the face was not there stays empty.
        gaps = np.flatnonzero(np.diff(times) > max(1.0, 3 * self.width)) + 1
        times = np.insert(times, np.repeat(gaps, 1), np.nan)
        shares = np.insert(shares, gaps, np.nan, axis=0)
        colors = [COLORS[i % len(COLORS)] for i in range(len(self.class_names))]
        labels = [without_math(name) for name in self.class_names]
        axes.stackplot(times, 100 * shares.T, colors=colors, labels=labels, linewidth=0)
        axes.set_ylim(0, 100)
        axes.set_ylabel(f"person {number}\n%", fontsize=9)
