"""FER+ (Barsoum et al., 2016): FER2013's faces with ten people's votes in place of its labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from common.errors import InputError
from common.flags import flag

from .base import DatasetChoice, FaceDataset
from .fer2013 import CSV_COLUMNS, CSV_NAMES, FER2013, decode_pixels
from .reading import read_csv

EXPRESSIONS = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
)
VOTE_COLUMNS = (*EXPRESSIONS, "unknown", "NF")  # NF: no face
ROWS_FILE = "fer2013new.csv"  # Microsoft's, row by row with fer2013.csv
IMAGES_FILE = "ferplus_votes.csv"  # the same votes, with a column `image` for class folders
NO_LABEL = -1


def majority_labels(votes: np.ndarray) -> np.ndarray:
    """Labels (N,) from votes (N, 10) by the majority rule of FER+; NO_LABEL: image not used.

    A choice with a single vote counts as an outlier and is removed. Then the choice with the most
    votes is the label if it has more than half of the remaining votes; otherwise, or where it is
    "unknown" or "no face", the image is not used.
    """
    votes = np.where(votes > 1, votes, 0)
    winner = votes.argmax(axis=1)
    clear = votes.max(axis=1) > 0.5 * votes.sum(axis=1)
    return np.where(clear & (winner < len(EXPRESSIONS)), winner, NO_LABEL)


def vote_distribution(votes: np.ndarray) -> np.ndarray | None:
    """Distribution (8,) over the expressions from the votes (10,) on one image; None: not used.

    The rule by which Microsoft's code makes training targets in its "probability" and
    "cross-entropy" modes. Choices with a single vote are removed. Then choices are taken by
    decreasing votes, ties together, until they have three quarters of the votes or there are three
    of them. Taking stops at "unknown" or "no face". The image is not used if nothing was taken
    before that, if more than three choices were taken, or if these have half of the votes or less.
    """
    votes = np.where(votes > 1, votes, 0).astype(np.float64)
    left, taken, gathered = votes.copy(), np.zeros_like(votes), 0.0
    while gathered < 0.75 * votes.sum() and np.count_nonzero(taken) < 3:
        best = np.flatnonzero(left == left.max())
        expressions = best[best < len(EXPRESSIONS)]
        taken[expressions] = votes[expressions]
        if len(expressions) < len(best):
            if not taken.any():
                return None
            break
        gathered += votes[best].sum()
        left[best] = 0
    if taken.sum() <= 0.5 * votes.sum() or np.count_nonzero(taken) > 3:
        return None
    return taken[: len(EXPRESSIONS)] / taken.sum()


class FERPlus(FER2013):
    """FER2013's faces with the labels of FER+, eight expressions in the published order.

    votes="majority" labels every image by `majority_labels`; votes="soft" gives the training
    split the target "soft_labels" of `vote_distribution` (and those images for which there is
    one), and as label the expression with the largest share. The other splits are always labelled
    by majority, as in Microsoft's code, and of training images that a run holds out, those without
    a majority label are not evaluated.
    """

    name = "ferplus"
    classes = EXPRESSIONS
    published_counts = {}
    option_names = ("votes",)

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: Callable[[Image.Image], Any] | None = None,
        *,
        votes: str = "majority",
        **options: Any,
    ):
        if votes not in ("majority", "soft"):
            raise InputError(f"votes is {votes!r}; expected majority or soft")
        self.soft = votes == "soft" and split == "train"
        self.shares: np.ndarray | None = None  # (N, 8) float32 where the labels are soft
        self._clear: np.ndarray | None = None  # (N,) bool where the labels are soft: by majority
        super().__init__(root, split, transform, **options)

    @classmethod
    def layout_help(cls) -> str:
        return (
            f"{' or '.join(CSV_NAMES)} with {ROWS_FILE} beside it, row by row; or class folders "
            f"with {IMAGES_FILE} beside them, whose columns are image (train/angry/NAME.jpg), "
            f"usage, {', '.join(VOTE_COLUMNS)}"
        )

    def load(self) -> None:
        self.pixels = None
        self._names: list[str] | None = None  # FER+'s own, where class folders have others
        table = self.find_csv()
        if table is not None and (self.root / ROWS_FILE).is_file():
            self.layout = "csv"
            self._load_rows(table, self.root / ROWS_FILE)
        elif (self.root / IMAGES_FILE).is_file():
            self.layout, self.listed = "class folders", True
            self._load_images(self.root / IMAGES_FILE)
        else:
            raise InputError(
                f"{self.root} holds neither {CSV_NAMES[0]} with {ROWS_FILE} nor {IMAGES_FILE}; "
                f"{self.name} is read from {self.layout_help()}"
            )

    def _load_rows(self, table: Path, votes_table: Path) -> None:
        """fer2013.csv and fer2013new.csv: row i of one is row i of the other."""
        faces = read_csv(table, CSV_COLUMNS)
        votes = read_csv(votes_table, ("Usage", *VOTE_COLUMNS))
        if len(faces) != len(votes) or (faces["Usage"] != votes["Usage"]).any():
            raise InputError(
                f"{votes_table} has {len(votes):,} rows and does not go with the {len(faces):,} "
                f"of {table} row by row (Usage differs); expected the two as published"
            )
        numbers = np.flatnonzero(votes["Usage"].isin(self.usages()))
        kept = self._take_votes(_votes(votes, votes_table)[numbers])
        numbers = numbers[kept]
        self.samples = [(table, label) for label in self.labels]
        self._rows = (numbers + 2).tolist()
        self.pixels = decode_pixels(faces["pixels"].iloc[numbers], self._rows, table)

    def _load_images(self, table: Path) -> None:
        """ferplus_votes.csv: every row names an image of the class folders."""
        rows = read_csv(table, ("image", "usage", *VOTE_COLUMNS))
        votes = _votes(rows, table)
        chosen = rows["usage"].isin(self.usages()).to_numpy()
        good = [
            i for i in np.flatnonzero(chosen) if self._exists(str(rows["image"].iloc[i]), i, table)
        ]
        kept = self._take_votes(votes[good])
        paths = [self.root / str(image) for image in rows["image"].iloc[good]]
        self.unused = [path for path, use in zip(paths, kept, strict=True) if not use]
        used = (path for path, use in zip(paths, kept, strict=True) if use)
        self.samples = list(zip(used, self.labels, strict=True))
        if "ferplus_name" in rows:
            names = rows["ferplus_name"].astype(str).iloc[good]
            self._names = [Path(name).stem for name, use in zip(names, kept, strict=True) if use]

    def _exists(self, image: str, row: int, table: Path) -> bool:
        path = Path(image)
        if path.is_absolute() or ".." in path.parts:
            self.reject(
                "path",
                f"row {row + 2} of {table} names {image!r}, outside {self.root}; expected a path "
                "such as train/angry/NAME.jpg",
            )
            return False
        if not (self.root / path).is_file():
            self.reject(
                "missing",
                f"image {self.root / path} does not exist, but row {row + 2} of {table} lists it",
            )
            return False
        return True

    def _take_votes(self, votes: np.ndarray) -> np.ndarray:
        """Set the labels from votes (N, 10); returns which images have one, (N,) bool."""
        labels = majority_labels(votes)
        if self.soft:
            shares = [vote_distribution(row) for row in votes]
            kept = np.array([share is not None for share in shares], dtype=bool)
            known = [share for share in shares if share is not None]
            self.shares = np.array(known, dtype=np.float32).reshape(-1, len(EXPRESSIONS))
            self.labels = self.shares.argmax(axis=1).tolist()
            self._clear = labels[kept] != NO_LABEL
            return kept
        self.labels = labels[labels != NO_LABEL].tolist()
        return labels != NO_LABEL

    def list_names(self, index: int) -> tuple[str, ...]:
        """The file's name, and FER+'s own."""
        own = () if self._names is None else (self._names[index],)
        return (*super().list_names(index), *own)

    def with_clear_label(self, indices: Sequence[int]) -> list[int]:
        """Those of these images that have a majority label."""
        if self._clear is None:
            return list(indices)
        return [i for i in indices if self._clear[i]]

    def targets(self, index: int) -> dict[str, Tensor]:
        """The distribution (8,) of the votes as "soft_labels", if the labels are soft."""
        return {} if self.shares is None else {"soft_labels": torch.from_numpy(self.shares[index])}


@dataclass(frozen=True, kw_only=True)
class FER2013Labels(DatasetChoice):
    """FER2013 for a recipe, with the source and the form of the labels as flags."""

    labels: str = flag(
        "fer2013", choices=("fer2013", "ferplus"), help="labels: FER2013's own, or FER+'s votes"
    )
    votes: str = flag(
        "majority",
        choices=("majority", "soft"),
        help="with --labels ferplus: majority label, or soft labels from the votes",
    )

    @property
    def dataset(self) -> type[FaceDataset]:
        """The data set with those labels."""
        return {"fer2013": FER2013, "ferplus": FERPlus}[self.labels]

    def __call__(
        self, root: str | Path, split: str, transform: Callable[[Image.Image], Any] | None = None
    ) -> FaceDataset:
        """A split of it; raises InputError for soft votes with FER2013's own labels."""
        if self.labels == "ferplus":
            return FERPlus(root, split, transform, votes=self.votes)
        if self.votes != "majority":
            raise InputError(
                "--votes soft needs --labels ferplus; FER2013's own labels are not votes"
            )
        return FER2013(root, split, transform)


def _votes(rows: pd.DataFrame, table: Path) -> np.ndarray:
    """The vote columns as (N, 10) numbers; raises InputError where one is not a count."""
    columns = rows[list(VOTE_COLUMNS)]
    votes = columns.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~((votes >= 0) & (votes == np.floor(votes)) & np.isfinite(votes)).all(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"row {row + 2} of {table} has the votes {' '.join(map(str, columns.iloc[row]))}; "
            "expected ten whole numbers from 0 up"
        )
    return votes
