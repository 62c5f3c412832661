"""A checkpoint, ours or a released one -> its network, and the network's output on a data set."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.devices import wants_bf16
from common.errors import InputError
from common.progress import progress_bar
from datasets import DATASETS, FaceDataset, Framing, transforms
from engine.checkpoint import load_checkpoint
from engine.data import SeededImages, evaluation_loader
from engine.evaluate import Predictions, predict
from networks import fast_network, network_for
from networks.rivals import RIVALS

from .views import MeanOverViews

# How the released files are named, "affecnet" spelled so.
RELEASED_PREFIXES = {"rafdb": "rafdb", "affecnet8": "affectnet8", "affecnet7": "affectnet7"}
RELEASED_IMAGE_SIZE = 224
#: The entries of a checkpoint that describe it, with their types.
KINDS = {"settings": dict, "class_names": list, "dataset": str, "iter": int, "framing": dict}


@dataclass(frozen=True)
class Trained:
    """A network from a checkpoint, and what the file says about it."""

    path: Path
    network: nn.Module
    dataset: str | None  # None: neither the file nor its name says
    classes: list[str] | None  # None in released files
    image_size: int
    settings: dict[str, Any]  # the flags it was trained with; none in released files
    epoch: int
    framing: Framing  # how its images show a face
    temperature: float = 1.0  # divides the logits where probabilities are wanted

    @property
    def averaged(self) -> str:
        """Which weights these are, where they are a moving average; else empty."""
        decay = self.settings.get("ema", 0.0)
        return f", moving average of the weights (--ema {decay:g})" if decay else ""

    @property
    def method(self) -> str:
        """The network's class and, where training was another method's, that `--arch`."""
        name, arch = type(self.network).__name__, self.settings.get("arch")
        return f"{name} (--arch {arch})" if arch in RIVALS else name

    def class_names(self, dataset: str | None = None) -> list[str]:
        """Names in the order of the logits: the file's, a data set's, or numbers.

        dataset: a name; that of the checkpoint where it is None.
        """
        count = self.network.num_classes
        kind = DATASETS.get(dataset or self.dataset or "")
        names = self.classes or list(kind.classes if kind else ())
        return names if len(names) == count else [f"class {i}" for i in range(count)]


def read_trained(path: Path) -> Trained:
    """Read a checkpoint; raises InputError where it is not one, or is another project's."""
    content = load_checkpoint(path)
    for key, kind in KINDS.items():
        if not isinstance(content.get(key, kind()), kind):
            raise InputError(f"checkpoint {path}: its {key} is not a {kind.__name__}, so not ours")
    settings = content.get("settings", {})
    try:
        network = network_for(content["model_state_dict"], settings)
    except InputError as error:
        raise InputError(f"checkpoint {path}: {error}") from error
    classes = content.get("class_names")
    if not all(isinstance(text, str) for text in [*(classes or []), settings.get("data", "")]):
        raise InputError(f"checkpoint {path}: its class_names or data are not text, so not ours")
    size = settings.get("image_size", RELEASED_IMAGE_SIZE)
    if not isinstance(size, int) or not 32 <= size <= 4096:
        raise InputError(f"checkpoint {path}: its image_size is {size!r}; expected 32 to 4096")
    temperature = content.get("temperature", 1.0)
    if type(temperature) not in (int, float) or not 0 < temperature < float("inf"):
        raise InputError(f"checkpoint {path}: its temperature is {temperature!r}; expected above 0")
    by_name = next(
        (name for prefix, name in RELEASED_PREFIXES.items() if path.name.startswith(prefix)), None
    )
    dataset = content.get("dataset", by_name)
    return Trained(
        path=path,
        network=network,
        dataset=dataset,
        classes=list(classes) if classes else None,
        image_size=size,
        settings=settings,
        epoch=content.get("iter", 0),
        framing=_framing(content, dataset, path),
        temperature=float(temperature),
    )


def _framing(content: dict[str, Any], dataset: str | None, path: Path) -> Framing:
    """The checkpoint's framing; in older and released files its data set's."""
    if "framing" not in content:
        return DATASETS[dataset].framing if dataset in DATASETS else Framing()
    try:
        return Framing.from_dict(content["framing"])
    except InputError as error:
        raise InputError(f"checkpoint {path}: {error}") from error


def open_dataset(
    trained: Trained,
    *,
    name: str | None = None,
    data: Path | None = None,
    split: str | None = None,
    layout: str | None = None,
    image_size: int | None = None,
) -> FaceDataset:
    """The split to evaluate on; options that are None default to training's or the published.

    name: of the data set, a key of `DATASETS`. data: its folder. image_size: pixels.

    Raises InputError where the data set's classes are not the network's.
    """
    name = name or trained.dataset
    if name not in DATASETS:
        raise InputError(
            f"{trained.path} is a checkpoint for {name or 'an unknown data set'}; give --dataset "
            f"{', '.join(DATASETS)}"
        )
    kind = DATASETS[name]
    _check_classes(trained, kind)
    settings = trained.settings if name == trained.dataset else {}
    options = {key: settings[key] for key in kind.option_names if key in settings}
    if layout and "layout" not in kind.option_names:
        raise InputError(f"--layout is given, but {kind.name} has no layouts to choose from")
    if layout:
        options["layout"] = layout
    elif data:
        options.pop("layout", None)  # another folder may have another layout
    return kind(
        data or _trained_on(settings, kind),
        split or kind.evaluated_split,
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

    amp, fast, tta: as the flags of eval.py. indices: of the images, instead of the whole split.
    skipped: as in `engine.evaluate.predict`.
    """
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
