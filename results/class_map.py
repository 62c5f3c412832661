"""A network on a data set with other classes: they are paired by meaning, happy = happiness.

A class that one side lacks cannot be right. `UNSHARED` says what becomes of it; "both" is how
results across data sets are usually reported: on the classes that the two share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from datasets import FaceDataset
from datasets.expressions import meaning
from engine.evaluate import Predictions

from .trained import Trained

#: What is left out -> in words.
UNSHARED = {
    "both": "neither images nor arg max have the classes that one side lacks",
    "images": "images of classes that the network lacks are left out; its arg max is over all of "
    "its classes",
    "argmax": "the arg max is over the shared classes; images of classes that the network lacks "
    "count as wrong",
}
#: The logit of a class that the network lacks: finite, but its probability is 0.
NEVER = -1e4


@dataclass(frozen=True)
class ClassMap:
    """Which classes are evaluated, and where a network and a data set have them."""

    classes: tuple[str, ...]  # evaluated: the data set's in its order, then the network's own
    logits: tuple[int | None, ...]  # of each, the network's logit; None: it has none
    labels: tuple[int | None, ...]  # of each class of the data set, among `classes`; None: left out
    unused: tuple[str, ...]  # classes of the network that the arg max leaves out
    pairs: tuple[tuple[str, str], ...]  # shared: the network's name, the data set's
    unshared: str = "both"

    @classmethod
    def between(
        cls, network: Sequence[str], dataset: Sequence[str], unshared: str = "both"
    ) -> ClassMap:
        """The map of a network's classes, in logit order, to a data set's, in label order.

        Raises InputError where they share fewer than two meanings, or one side has one twice.
        """
        where = {meaning(name): i for i, name in enumerate(network)}
        meanings = [meaning(name) for name in dataset]
        shared = [name for name in meanings if name in where]
        if len(where) < len(network) or len(set(meanings)) < len(meanings) or len(shared) < 2:
            raise InputError(
                f"the classes cannot be mapped by their names: the checkpoint has "
                f"{', '.join(network)}; the data set has {', '.join(dataset)}; expected two or "
                "more expressions that both have once"
            )
        kept = [i for i, name in enumerate(meanings) if name in where or unshared == "argmax"]
        own = [i for name, i in where.items() if name not in meanings]
        added = own if unshared == "images" else []
        return cls(
            classes=(*(dataset[i] for i in kept), *(network[i] for i in added)),
            logits=(*(where.get(meanings[i]) for i in kept), *added),
            labels=tuple(kept.index(i) if i in kept else None for i in range(len(dataset))),
            unused=tuple(network[i] for i in own if i not in added),
            pairs=tuple(
                (network[where[name]], dataset[i])
                for i, name in enumerate(meanings)
                if name in where
            ),
            unshared=unshared,
        )

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        same = tuple(range(len(self.classes)))
        return not self.unused and self.logits == same and self.labels == same

    def of(self, predictions: Predictions) -> Predictions:
        """Predictions over the evaluated classes, without the images that are left out.

        Raises InputError where no image is left.
        """
        if self.is_identity:
            return predictions
        labels = torch.tensor([-1 if label is None else label for label in self.labels])
        labels = labels[predictions.labels]
        kept = labels >= 0
        if not kept.any():
            raise InputError("every image is of a class that the checkpoint lacks")
        indices = [i for i, keep in zip(predictions.indices, kept.tolist(), strict=True) if keep]
        return Predictions(self.mapped(predictions.logits[kept]), labels[kept], indices)

    def mapped(self, logits: Tensor) -> Tensor:
        """A network's logits (N, C) as those of the evaluated classes (N, E)."""
        known = torch.cat([logits, logits.new_full((len(logits), 1), NEVER)], dim=1)
        return known[:, [-1 if i is None else i for i in self.logits]]

    def left_out(self, dataset: FaceDataset) -> dict[str, int]:
        """Images of each class of the data set that is left out."""
        counts = zip(dataset.classes, dataset.class_counts(), self.labels, strict=True)
        return {name: count for name, count, label in counts if label is None}


def is_other(trained: Trained, dataset: str | None) -> bool:
    """Whether a data set, by name, is another one than a checkpoint's with known classes.

    Released files that were renamed have no classes: they are taken to be for the data set.
    """
    return trained.classes is not None and dataset not in (None, trained.dataset)


def map_classes(trained: Trained, dataset: FaceDataset, unshared: str = "both") -> ClassMap:
    """The map from a checkpoint to a data set.

    Classes without names are taken for the data set's, if they are as many.

    Raises InputError where they cannot be mapped.
    """
    names = trained.classes
    if names is None and trained.network.num_classes == len(dataset.classes):
        names = dataset.classes
    try:
        return ClassMap.between(names or trained.class_names(), dataset.classes, unshared)
    except InputError as error:
        raise InputError(f"{trained.path} on {dataset.name}: {error}") from error


def map_text(made: ClassMap, trained: Trained, dataset: FaceDataset) -> list[str]:
    """What is evaluated on another data set than that of training, in lines."""
    pairs = ", ".join(a if a == b else f"{a} = {b}" for a, b in made.pairs)
    lines = [
        f"trained on {trained.dataset or 'unknown data'}; {len(made.pairs)} shared classes, by "
        f"meaning: {pairs}"
    ]
    left_out = made.left_out(dataset)
    missing = [made.classes[i] for i, logit in enumerate(made.logits) if logit is None]
    if left_out:
        images = ", ".join(f"{count:,} of {name}" for name, count in left_out.items())
        lines.append(f"left out: images of classes that the checkpoint lacks ({images})")
    if missing:
        lines.append(f"always wrong: images of {', '.join(missing)}, which the checkpoint lacks")
    if made.unused:
        lines.append(
            f"left out of the arg max: {', '.join(made.unused)}, which {dataset.name} lacks"
        )
    if left_out or missing or made.unused or len(made.classes) > len(made.pairs):
        lines.append(f"--unshared {made.unshared}: {UNSHARED[made.unshared]}")
    if trained.framing != dataset.framing:
        lines.append(f"{dataset.name} frames faces in another way than the training data")
    return lines


def map_json(made: ClassMap, trained: Trained, dataset: FaceDataset) -> dict[str, Any]:
    """The same as plain types."""
    return {
        "trained_on": trained.dataset,
        "shared": [list(pair) for pair in made.pairs],
        "unshared": made.unshared,
        "images_left_out": made.left_out(dataset),
        "left_out_of_arg_max": list(made.unused),
        "same_framing": trained.framing == dataset.framing,
        "text": map_text(made, trained, dataset),
    }
