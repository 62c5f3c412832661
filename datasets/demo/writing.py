"""What the writers share: which faces to draw, in several processes, and whether all are done."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.errors import InputError
from common.files import make_folder, write_json, write_text

from ..alignment import LANDMARKS
from ..base import DEMO_FILE
from .action_units import SYNONYMS
from .face import VERSION, SyntheticFace, draw_face

LANDMARK_FILE = "landmarks.csv"


class Row(NamedTuple):
    """An image that was written."""

    name: str  # below the root, as landmarks.csv has it
    landmarks: np.ndarray  # (5, 2), pixels
    yaw: float  # degrees


class Job(NamedTuple):
    """One image to draw."""

    split: str
    number: int  # in its split, from 1
    label: int  # from 0


@dataclass(frozen=True)
class Plan:
    """A data set of synthetic faces: where, which and how many.

    Raises InputError for a negative seed, fewer than one worker, or (`jobs`) too few images.
    """

    root: Path
    layout: str  # what demo.json calls it
    classes: Sequence[str]  # in label order
    counts: Mapping[str, int]  # split -> images
    seed: int
    workers: int | None  # processes; None is one per core
    last_file: str | Path = LANDMARK_FILE  # while it is missing, the data set is unfinished
    options: Mapping[str, object] = field(default_factory=dict)  # more that demo.json tells

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers is {self.workers}; expected 1 or more")

    def jobs(self, frequencies: Mapping[str, Sequence[int]]) -> list[Job]:
        """All images: labels in proportion to each split's frequencies, shuffled by the seed."""
        jobs = []
        for split, count in self.counts.items():
            counts = shares(frequencies[split], count)
            labels = np.repeat(np.arange(len(counts)), counts)
            self.generator(split, 0).shuffle(labels)  # the images count from 1
            jobs += [Job(split, i, label) for i, label in enumerate(labels.tolist(), start=1)]
        return jobs

    def generator(self, split: str, number: int) -> np.random.Generator:
        """An image's own: neither the number of processes nor the counts change its person."""
        return np.random.default_rng([self.seed, list(self.counts).index(split), number])

    def draw(self, job: Job, **options: Any) -> tuple[SyntheticFace, np.random.Generator]:
        """The face of a job, and its generator for what else is random; options: `draw_face`'s."""
        rng = self.generator(job.split, job.number)
        name = self.classes[job.label]
        return draw_face(SYNONYMS.get(name, name), rng, **options), rng

    def write(self, jobs: Sequence[Job], write_face: Callable[[Plan, Job], Row]) -> list[Row]:
        """Write demo.json and all faces; returns their rows, none where they are there already.

        Raises InputError where the root holds something else; nothing is overwritten.
        """
        about = {"drawn_by": "datasets.demo", "layout": self.layout, "version": VERSION}
        about |= {"seed": self.seed, **self.counts, **self.options}
        if _is_finished(self.root, about, self.root / self.last_file):
            print(f"{self.root} already holds these {len(jobs)} faces, seed {self.seed}")
            return []
        make_folder(self.root)
        write_json(self.root / DEMO_FILE, about)
        label = f"drawing {self.root}"
        return list(_in_processes(partial(write_face, self), jobs, self.workers, label))


def check_seed(seed: int) -> None:
    """Raises InputError for a seed below 0."""
    if seed < 0:
        raise InputError(f"seed is {seed}; expected 0 or more")


def shares(weights: Sequence[int], count: int) -> np.ndarray:
    """`count` divided in proportion to the weights: largest remainders, at least one each.

    Raises InputError where the count is too small for that.
    """
    if count < len(weights):
        least = len(weights)
        raise InputError(f"{count} images are too few for a split; expected at least {least}")
    exact = np.asarray(weights) * count / sum(weights)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: count - counts.sum()]] += 1
    while (counts == 0).any():  # one for each empty class, taken from the largest
        counts[np.argmin(counts)] += 1
        counts[np.argmax(counts)] -= 1
    return counts


def save(path: Path, image: Image.Image, **options: Any) -> None:
    """Save an image in a folder that need not be there yet; options: Pillow's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def write_landmarks(root: Path, rows: Sequence[Row]) -> None:
    """landmarks.csv: image names and their landmarks in pixels, as tools.align_sfew reads them."""
    columns = ("image", *(f"{name}_{axis}" for name in LANDMARKS for axis in "xy"))
    table = ((row.name, *coordinates(row.landmarks)) for row in rows)
    write_table(root / LANDMARK_FILE, columns, table)


def coordinates(points: np.ndarray) -> list[str]:
    """x and y of every point (N, 2), to a hundredth of a pixel."""
    return [f"{value:.2f}" for value in points.ravel()]


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A csv with a first line of column names."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _is_finished(root: Path, about: Mapping[str, object], last_file: Path) -> bool:
    """Whether root holds exactly these faces; anything else but a part of them is an error."""
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; give a new or empty folder")
    if not root.exists() or not any(root.iterdir()):
        return False
    try:
        found = json.loads((root / DEMO_FILE).read_text())
    except (OSError, ValueError):
        found = None
    if found == about:
        return last_file.exists()
    what = f"other synthetic faces ({json.dumps(found)})" if found else "files of something else"
    raise InputError(f"{root} holds {what}; give a new or empty folder, or delete that one")


def _in_processes(
    function: Callable[[Job], Row], jobs: Sequence[Job], workers: int | None, label: str
) -> Iterator[Row]:
    """Yields function(job) in order, computed by several processes, under a progress bar."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    bar = partial(tqdm, total=len(jobs), desc=label, unit="face", disable=None)
    if workers == 1:
        yield from bar(map(function, jobs))
        return
    with ProcessPoolExecutor(workers) as pool:
        # The jobs go first: the pool must have started before the bar's own thread does.
        results = pool.map(function, jobs, chunksize=32)
        yield from bar(results)
