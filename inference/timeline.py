"""The expressions of every person over time, in memory that does not grow with the video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.pictures import COLORS
from results.text import without_math

from .tracking import PATIENCE, Followed

MAX_BINS = 1000
SHOWN = 8  # persons, those seen longest


class Timeline:
    """Mean probabilities of each person in bins of time, which widen as the video goes on."""

    def __init__(self, class_names: Sequence[str], width: float = 0.04):
        """width: of a bin at the start, seconds."""
        self.class_names, self.width = class_names, width
        #: person -> bin -> sum of the probabilities, and how many, as the last element.
        self.persons: dict[int, dict[int, np.ndarray]] = {}
        self._times: list[float] = []  # of the first frame and the last
        self._frames = 0

    def add(self, time: float, faces: Sequence[Followed]) -> None:
        """A frame at a time in seconds that was analysed, and the faces in it."""
        self._times, self._frames = [*self._times[:1], time], self._frames + 1
        while time / self.width >= MAX_BINS:
            self._widen()
        # A frame that lies on a bin's edge, up to rounding, belongs to the later bin.
        place = int(time / self.width + 1e-6)
        for number, face in faces:
            bins = self.persons.setdefault(number, {})
            bins[place] = bins.get(place, 0) + np.append(face.probabilities, 1.0)

    @property
    def _interval(self) -> float:
        """Mean seconds between two frames."""
        return (self._times[-1] - self._times[0]) / max(1, self._frames - 1)

    def _widen(self) -> None:
        self.width *= 2
        for number, bins in self.persons.items():
            joined: dict[int, np.ndarray] = {}
            for place, values in bins.items():
                joined[place // 2] = joined.get(place // 2, 0) + values
            self.persons[number] = joined

    def of(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Times (T,) in seconds at which the bins begin, and mean probabilities (T, C)."""
        bins = sorted(self.persons[number].items())
        sums = np.array([values for _, values in bins])
        return np.array([place for place, _ in bins]) * self.width, sums[:, :-1] / sums[:, -1:]

    def figure(self, title: str) -> Figure:
        """A row per person, of whom there is one: each expression's share, stacked, over time."""
        frames = {
            number: sum(values[-1] for values in bins.values())
            for number, bins in self.persons.items()
        }
        shown = sorted(sorted(frames, key=frames.get, reverse=True)[:SHOWN])
        figure = Figure(figsize=(10, 1.0 + 1.3 * len(shown)), layout="constrained")
        grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axes, number in zip(grid, shown, strict=True):
            self._draw(axes, number)
        grid[-1].set_xlabel("time, seconds")
        legend = grid[0].get_legend_handles_labels()
        figure.legend(*legend, loc="outside lower center", ncols=4, fontsize=9)
        left_out = len(frames) - len(shown)
        more = f" ({left_out} more persons, seen for a shorter time)" if left_out else ""
        figure.suptitle(without_math(title) + more, fontsize=10)
        return figure

    def _draw(self, axes: Axes, number: int) -> None:
        starts, shares = self.of(number)
        # What was seen holds until the next look; a time in which the face was lost stays empty.
        hold = max(self.width, self._interval)
        gaps = np.flatnonzero(np.diff(starts) > max(PATIENCE, 3 * hold)) + 1
        ends = np.append(starts[gaps - 1], starts[-1]) + hold
        edges = np.append(np.insert(starts, gaps, ends[:-1]), ends[-1])
        shares = 100 * np.insert(shares, gaps, np.nan, axis=0)
        tops = shares.cumsum(axis=1)
        for i, name in enumerate(self.class_names):
            axes.stairs(
                tops[:, i],
                edges,
                baseline=tops[:, i] - shares[:, i],
                fill=True,
                color=COLORS[i % len(COLORS)],
                label=without_math(name),
            )
        axes.margins(x=0)
        axes.set_ylim(0, 100)
        axes.set_ylabel(f"person {number}\n%", fontsize=9)
