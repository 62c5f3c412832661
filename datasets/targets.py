"""Annotations that a method asks for besides the label, by name; see `TARGETS`.

Images are named by their path below the data folder, as in Train/Angry/face.png:

poses.csv (columns image, yaw)    degrees, positive where the face looks to the image's right
faces.csv                         of tools.align_sfew: the yaw from its five landmarks
masks/..., clean/...              PNG files at the image's path: white on the face; clean picture
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from common.errors import InputError

from .alignment import LANDMARKS, POINT_COLUMNS, TEMPLATE, yaw_of
from .reading import open_rgb, read_csv

POSES, FACES, MASKS, CLEAN = "poses.csv", "faces.csv", "masks", "clean"
#: (index of an image, the image) -> its further targets, by name.
AddTargets = Callable[[int, Image.Image], Mapping[str, Any]]


class Yaw(tv_tensors.TVTensor):
    """A yaw in degrees, a scalar, which a horizontal flip mirrors."""


@F.register_kernel(F.horizontal_flip, Yaw)
def _mirror(yaw: Yaw) -> Yaw:
    return tv_tensors.wrap(-yaw.as_subclass(Tensor), like=yaw)


class YawTarget:
    """The target "yaw", degrees; none, and a line that says so, where the data have no yaw."""

    def __init__(self, dataset: Any):
        self.yaws = known_yaws(dataset)
        if self.yaws is None:
            where = f"no {POSES} or {FACES} in {dataset.folder}"
            print(f"{where}: the loss on the pose is off", flush=True)

    def __call__(self, index: int, image: Image.Image) -> dict[str, Yaw]:
        return {} if self.yaws is None else {"yaw": self.yaws[index].as_subclass(Yaw)}


def known_yaws(dataset: Any) -> Tensor | None:
    """The yaw (N,) float32 of every image of a split, degrees; None where no file has them.

    Raises InputError for an image without a yaw, or one that is not in -90 to 90.
    """
    for name, read in ((POSES, _read_poses), (FACES, _read_faces)):
        table = dataset.folder / name
        if table.is_file():
            return _of_images(dataset, table, read(table))
    return None


def _read_poses(table: Path) -> pd.Series:
    rows = read_csv(table, ("image", "yaw")).dropna(how="all")
    yaws = pd.to_numeric(rows["yaw"], errors="coerce")
    wrong = ~yaws.between(-90, 90)
    if wrong.any():
        row = wrong.idxmax()
        raise InputError(
            f"row {row + 2} of {table} has the yaw {rows['yaw'][row]}; expected -90 to 90 degrees"
        )
    return yaws.set_axis(rows["image"])


def _read_faces(table: Path) -> pd.Series:
    rows = read_csv(table, ("image", *POINT_COLUMNS))
    rows = rows.dropna(subset=list(POINT_COLUMNS))  # pictures without a face
    try:
        points = rows[list(POINT_COLUMNS)].to_numpy(dtype=np.float64).reshape(-1, len(LANDMARKS), 2)
        yaws = [yaw_of(five) for five in points]
    except ValueError as error:
        raise InputError(f"{table} has landmarks that no yaw can be read from ({error})") from error
    crops = [Path(name).with_suffix(".png").as_posix() for name in rows["image"]]
    return pd.Series(yaws, index=crops, dtype=np.float64)


def _of_images(dataset: Any, table: Path, yaws: pd.Series) -> Tensor:
    """The yaws of a split's images, in order."""
    if yaws.index.has_duplicates:
        twice = yaws.index[yaws.index.duplicated()][0]
        raise InputError(f"{table} lists image {twice} more than once; expected one row each")
    found = yaws.reindex([_path(dataset, index) for index in range(len(dataset))])
    missing = found.index[found.isna()]
    if len(missing):
        raise InputError(
            f"{table} has no yaw for {len(missing):,} of {len(found):,} images of the split "
            f"{dataset.split}, the first is {missing[0]}; expected a row for each, with its path "
            f"below {dataset.folder}"
        )
    return torch.from_numpy(found.to_numpy(dtype=np.float32))


def _path(dataset: Any, index: int) -> str:
    """An image's path below the data folder; raises InputError where images are no files."""
    path = dataset.samples[index][0]
    if dataset.describe(index) != str(path):
        raise InputError(
            f"{dataset.describe(index)} is no file of its own, so {POSES} and {MASKS}/ cannot name "
            "it; expected a layout with an image file per face"
        )
    return path.relative_to(dataset.folder).as_posix()


class FaceTargets:
    """The targets "mask", white on the face, and "clean", the picture to reconstruct.

    From the folders masks/ and clean/; without them, a line says so, the mask is an ellipse from
    the alignment's template, and the clean picture is the image itself.

    Raises InputError where there is one folder without the other, or no file for an image.
    """

    def __init__(self, dataset: Any):
        folders = [dataset.folder / name for name in (MASKS, CLEAN)]
        self.files: list[list[Path]] = []  # of each image, its mask and its clean picture
        if not any(folder.is_dir() for folder in folders):
            print(
                f"no {MASKS}/ and {CLEAN}/ in {dataset.folder}: faces are taken to be aligned, the "
                "mask to be an ellipse, and the image itself to be clean",
                flush=True,
            )
            return
        for index in range(len(dataset)):
            name = Path(_path(dataset, index)).with_suffix(".png")
            self.files.append([folder / name for folder in folders])
            for file in self.files[-1]:
                if not file.is_file():
                    raise InputError(
                        f"{file} does not exist, but there is {dataset.describe(index)}; expected "
                        f"a file in {MASKS}/ and in {CLEAN}/ for every image"
                    )

    def __call__(self, index: int, image: Image.Image) -> dict[str, Image.Image]:
        if not self.files:
            return {"mask": ellipse_mask(image.size), "clean": image}
        mask_file, clean_file = self.files[index]
        clean = _resized(open_rgb(clean_file), image.size)
        return {"mask": read_mask(mask_file, image.size), "clean": clean}


def read_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """A mask as an 8-bit grey image of `size` pixels; raises InputError where it is none."""
    pixels = np.asarray(open_rgb(path))
    mask = pixels[..., 0]
    if (pixels != mask[..., None]).any() or mask.max() < 128:
        raise InputError(
            f"{path} is no mask: it has colours, or values no higher than {pixels.max()}; expected "
            "a grey image, 255 on the face and 0 beside it"
        )
    return _resized(Image.fromarray(mask), size)


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def ellipse_mask(size: tuple[int, int]) -> Image.Image:
    """The face of an aligned crop of `size` (width, height) pixels: white in an ellipse.

    In distances between the eyes of the template: a face is 2.1 wide; it reaches 1.2 above the
    eyes, a forehead, and 0.55 below the mouth, a chin.
    """
    eyes, mouth = TEMPLATE[:2].mean(axis=0), TEMPLATE[3:].mean(axis=0)
    unit = TEMPLATE[1, 0] - TEMPLATE[0, 0]
    left, right = eyes[0] - 1.05 * unit, eyes[0] + 1.05 * unit
    box = np.array([(left, eyes[1] - 1.2 * unit), (right, mouth[1] + 0.55 * unit)]) * size
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse([*map(tuple, box)], fill=255)
    return mask


#: By the name that `Method.targets` has.
TARGETS: Mapping[str, Callable[[Any], AddTargets]] = {"yaw": YawTarget, "face": FaceTargets}
