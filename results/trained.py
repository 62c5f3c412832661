"""A checkpoint, ours or a released one -> its network, and the network's output on a data set."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.devices import wants_bf16
from common.errors import InputError
from common.naming import name_of
from common.progress import progress_bar
from datasets import DATASETS, FaceDataset, Framing, transforms
from engine.data import SeededImages, evaluation_loader
from engine.evaluate import Predictions, predict
from engine.folds import fold_checksum, fold_images, is_fold
from networks import fast_network
from networks.pretrained import Checkpoint, read_checkpoint
from networks.rivals import RIVALS

from .views import MeanOverViews


@dataclass(frozen=True)
class Trained(Checkpoint):
    """A network from a checkpoint, what the file says about it, and what its data set adds."""

    framing: Framing

    @property
    def averaged(self) -> str:
        """Which weights these are, where they are a moving average; else empty."""
        decay = self.settings.get("ema", 0.0)
        return f", moving average of the weights (--ema {decay:g})" if decay else ""

    @property
    def method(self) -> str:
        """The network and, where training was another method's, that `--arch`."""
        name, arch = name_of(self.network), self.settings.get("arch")
        return f"{name} (--arch {arch})" if arch in RIVALS else name

    @property
    def fold(self) -> str:
        """The fold that training held out, such as 2/5; empty without --fold."""
        return self.settings.get("fold", "")

    def class_names(self, dataset: str | None = None) -> list[str]:
        """Names in the order of the logits: the file's, a data set's, or numbers.

        dataset: a name; that of the checkpoint where it is None.
        """
        kind = DATASETS.get(dataset or self.dataset or "")
        return super().class_names(kind.classes if kind else ())


def read_trained(path: Path) -> Trained:
    """Read a checkpoint; raises InputError where it is not one, or is another project's."""
    found = read_checkpoint(path)
    try:
        framing = framing_of(found.dataset, found.framing)
    except InputError as error:
        raise InputError(f"checkpoint {path}: {error}") from error
    trained = Trained(**{**vars(found), "framing": framing})
    if not isinstance(trained.fold, str) or not is_fold(trained.fold):
        raise InputError(f"checkpoint {path}: its fold is {trained.fold!r}; expected such as 2/5")
    return trained


def framing_of(dataset: str | None, given: Mapping[str, Any] | None) -> Framing:
    """The framing that a checkpoint holds; in older and released files its data set's.

    Raises InputError where it is not a framing.
    """
    if given is not None:
        return Framing.from_dict(given)
    return DATASETS[dataset].framing if dataset in DATASETS else Framing()


def open_dataset(
    trained: Trained,
    *,
    name: str | None = None,
    data: Path | None = None,
    split: str | None = None,
    layout: str | None = None,
    image_size: int | None = None,
    same_classes: bool = True,
) -> FaceDataset:
    """The split to evaluate on; options that are None default to training's or the published.

    name: of the data set, a key of `DATASETS`. data: its folder. image_size: pixels.
    same_classes: without it, `results.class_map` goes between the two.

    Raises InputError where the data set's classes have to be the network's and are not.
    """
    name = name or trained.dataset
    if name not in DATASETS:
        raise InputError(
            f"{trained.path} is a checkpoint for {name or 'an unknown data set'}; give --dataset "
            f"{', '.join(DATASETS)}"
        )
    kind = DATASETS[name]
    if same_classes:
        _check_classes(trained, kind)
    # AffectNet with 7 and with 8 classes lie in one folder, and FER2013 and FER+ do.
    same_folder = DATASETS.get(trained.dataset or name, kind).default_root == kind.default_root
    settings = trained.settings if same_folder else {}
    options = {key: settings[key] for key in kind.option_names if key in settings}
    if layout and "layout" not in kind.option_names:
        raise InputError(f"--layout is given, but {kind.name} has no layouts to choose from")
    if layout:
        options["layout"] = layout
    elif data:
        options.pop("layout", None)  # another folder may have another layout
    return kind(
        data or _trained_on(settings, kind),
        split or ("train" if name == trained.dataset and trained.fold else kind.evaluated_split),
        transforms.evaluation(image_size or trained.image_size),
        **options,
    )


def _trained_on(settings: dict[str, Any], kind: type[FaceDataset]) -> Path:
    """The folder that a checkpoint was trained on, if it is still there; else the default."""
    folder = Path(settings["data"]) if settings.get("data") else kind.default_root
    if folder.is_dir() or folder == kind.default_root:
        return folder
    warnings.warn(
        f"{folder}, where it was trained, is gone; evaluating on {kind.default_root} (--data DIR "
        "for another)",
        stacklevel=3,
    )
    return kind.default_root


def _check_classes(trained: Trained, kind: type[FaceDataset]) -> None:
    """Raise InputError where the network's classes or their order are not the data set's."""
    theirs = trained.classes or [f"class {i}" for i in range(trained.network.num_classes)]
    same = theirs == list(kind.classes)
    if not (same if trained.classes else len(theirs) == len(kind.classes)):
        raise InputError(
            f"the classes of {trained.path} do not fit {kind.name}: the checkpoint has "
            f"{', '.join(theirs)}; the data set has {', '.join(kind.classes)}; choose the "
            "--dataset it was trained on"
        )


def held_out_fold(trained: Trained, dataset: FaceDataset) -> list[int] | None:
    """Indices of the fold that training evaluated; None where another split or data set is given.

    Raises InputError where the data do not give the fold of the training.
    """
    if not trained.fold or (dataset.name, dataset.split) != (trained.dataset, "train"):
        return None
    held_out = dataset.with_clear_label(fold_images(dataset, trained.fold)[1])
    if fold_checksum(dataset, held_out) != trained.fold_checksum:
        raise InputError(
            f"{trained.path} held out other images than fold {trained.fold} of {dataset.root} now "
            "has; give the data of its training with --data, and its version of scikit-learn"
        )
    return held_out


def predictions_of(
    trained: Trained,
    dataset: FaceDataset,
    device: torch.device,
    *,
    batch_size: int = 64,
    workers: int = -1,
    amp: str = "off",
    fast: bool = False,
    tta: bool = False,
    indices: Sequence[int] | None = None,
    skipped: list[str] | None = None,
) -> Predictions:
    """The network's output on a whole split: as trained, in float32, unless flags say otherwise.

    amp, fast, tta: as the flags of eval.py. indices: of the images, instead of the whole split, or
    of the fold that a run with --fold held out. skipped: as in `engine.evaluate.predict`.
    """
    indices = held_out_fold(trained, dataset) if indices is None else indices
    images, bf16 = SeededImages(dataset, indices), wants_bf16(amp, device)
    network = fast_network(trained.network, device, bf16=bf16) if fast else trained.network
    network = MeanOverViews(network) if tta else network
    return predict(
        network.to(device),
        evaluation_loader(images, batch_size, workers=workers, device=device),
        device,
        bf16=bf16,
        progress=progress_bar(len(images), "evaluation"),
        skipped=skipped,
    )
