"""A checkpoint file, ours or a released one -> its network, and what the file says about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import InputError
from common.files import load_checkpoint

from .method import network_for

#: Weights that come with this project, and those that are taken where none are asked for.
SHIPPED = Path(__file__).parents[1] / "models"
DEFAULT_WEIGHTS = "dan_ferplus"
RELEASED_IMAGE_SIZE = 224
AFFECTNET8 = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger", "Contempt")
#: How the released files are named, "affecnet" spelled so: their data set, and its classes in label
#: order, which the files do not hold.
RELEASED = {
    "rafdb": ("rafdb", ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")),
    "affecnet8": ("affectnet8", AFFECTNET8),
    "affecnet7": ("affectnet7", AFFECTNET8[:7]),
}
#: The entries of a checkpoint that describe it, with their types.
KINDS = {
    **{"settings": dict, "class_names": list, "dataset": str, "iter": int, "framing": dict},
    "fold_checksum": int,
}


@dataclass(frozen=True)
class Checkpoint:
    """A network from a file, and what the file says about it."""

    path: Path
    network: nn.Module
    dataset: str | None  # None: neither the file nor its name says
    classes: list[str] | None  # in label order; None: likewise
    image_size: int  # pixels
    settings: dict[str, Any]  # the flags it was trained with; none in released files
    epoch: int
    framing: dict[str, Any] | None  # how its images show a face, see `datasets.Framing`
    temperature: float  # divides the logits where probabilities are wanted
    fold_checksum: int | None  # of the images that --fold held out, see `engine.folds`

    def class_names(self, otherwise: Sequence[str] = ()) -> list[str]:
        """Names in the order of the logits: the file's, else `otherwise`, else numbers."""
        count = self.network.num_classes
        names = list(self.classes or otherwise)
        return names if len(names) == count else [f"class {i}" for i in range(count)]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file; raises InputError where it is no checkpoint, or is another project's."""
    path = Path(path)
    content = load_checkpoint(path)
    try:
        _check_described(content)
        network = network_for(content["model_state_dict"], content.get("settings"))
    except InputError as error:
        raise InputError(f"checkpoint {path}: {error}") from error
    released = (known for prefix, known in RELEASED.items() if path.name.startswith(prefix))
    # Our own files say what they are, whatever they are called.
    dataset, classes = (
        (content["dataset"], ()) if "dataset" in content else next(released, (None, ()))
    )
    if len(classes) != network.num_classes:
        classes = ()  # another network than the released one
    return Checkpoint(
        path=path,
        network=network,
        dataset=dataset,
        classes=list(content.get("class_names") or classes) or None,
        image_size=content.get("settings", {}).get("image_size", RELEASED_IMAGE_SIZE),
        settings=content.get("settings", {}),
        epoch=content.get("iter", 0),
        framing=content.get("framing"),
        temperature=float(content.get("temperature", 1.0)),
        fold_checksum=content.get("fold_checksum"),
    )


def _check_described(content: dict[str, Any]) -> None:
    """Raise InputError where an entry that describes a checkpoint is not of its type or range."""
    for key, kind in KINDS.items():
        if not isinstance(content.get(key, kind()), kind):
            raise InputError(f"its {key} is not a {kind.__name__}, so not ours")
    settings = content.get("settings", {})
    texts = [*content.get("class_names", []), settings.get("data", "")]
    if not all(isinstance(text, str) for text in texts):
        raise InputError("its class_names or data are not text, so not ours")
    size = settings.get("image_size", RELEASED_IMAGE_SIZE)
    if not isinstance(size, int) or not 32 <= size <= 4096:
        raise InputError(f"its image_size is {size!r}; expected 32 to 4096")
    temperature = content.get("temperature", 1.0)
    if type(temperature) not in (int, float) or not 0 < temperature < float("inf"):
        raise InputError(f"its temperature is {temperature!r}; expected above 0")


def load_model(path: str | Path) -> nn.Module:
    """The network of a checkpoint, ours or a released one, in eval mode on the CPU.

    It has `.class_names` in the order of the logits and `.image_size` in pixels, and what
    `inference.predict_faces` needs besides: `.dataset`, `.framing`, `.temperature`. Nothing in the
    file is executed.

    Raises InputError where the file is no checkpoint, or is another project's.
    """
    checkpoint = read_checkpoint(path)
    network = checkpoint.network.eval()
    network.class_names = checkpoint.class_names()
    for name in ("image_size", "dataset", "framing", "temperature"):
        setattr(network, name, getattr(checkpoint, name))
    return network


def shipped_weights(name: str = DEFAULT_WEIGHTS) -> Path:
    """The file of weights that come with this project.

    Raises InputError where they do not.
    """
    path = SHIPPED / f"{name}.pth"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.pth"))) or "none"
        raise InputError(
            f"the weights {name} are not in {SHIPPED} (there: {known}); give a checkpoint "
            "(--checkpoint FILE), which a train script wrote, or a released one"
        )
    return path
