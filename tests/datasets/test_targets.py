"""Poses and masks: read from files, moved with the image, refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from common.errors import InputError
from common.image_cache import cache_images
from datasets import FER2013, RAFDB, SFEW, transforms
from datasets.targets import FaceTargets, Yaw, ellipse_mask, known_yaws
from tests.support.layouts import write_sfew
from tests.support.scripts import write_fer2013_csv, write_rafdb

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")
NAMES = [f"Image/aligned/train_{i:05d}_aligned" for i in range(1, 8)]


@pytest.fixture
def data(tmp_path) -> Path:
    """Seven training images in RAF-DB's layout."""
    return write_rafdb(tmp_path / "data", train=7, test=7)


def write_poses(data: Path, yaws: list[object], names: list[str] = NAMES) -> None:
    rows = [f"{name}.jpg,{yaw}" for name, yaw in zip(names, yaws, strict=True)]
    (data / "poses.csv").write_text("\n".join(["image,yaw", *rows]) + "\n")


def write_masks(data: Path) -> None:
    """The clean picture is the image; its mask is white where its red is above the median."""
    for name in NAMES:
        image = Image.open(data / f"{name}.jpg")
        for folder in ("masks", "clean"):
            (data / folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(data / f"clean/{name}.png")
        red = np.asarray(image.getchannel("R"))
        Image.fromarray(255 * (red > np.median(red)).astype(np.uint8)).save(
            data / f"masks/{name}.png"
        )


def training_set(data: Path, transform=None, names: tuple[str, ...] = ("yaw", "face")) -> RAFDB:
    dataset = RAFDB(data, "train", transform)
    dataset.add_targets(names)
    return dataset


# --------------------------------------------------------------------------------------------
# Moving with the image


@pytest.mark.parametrize(
    "train_transform", [transforms.rafdb_train, transforms.affectnet_train, transforms.sfew_train]
)
def test_image_mask_clean_picture_and_yaw_move_together(data, train_transform):
    write_poses(data, [10 * i for i in range(7)])
    write_masks(data)
    dataset = training_set(data, train_transform(32))
    dataset.transform.transforms = [
        step for step in dataset.transform.transforms if not isinstance(step, v2.RandomErasing)
    ]
    flipped, median = [], np.median(np.asarray(dataset.read_image(3))[..., 0])
    for seed in range(20):
        torch.manual_seed(seed)
        image, _, targets = dataset[3]
        torch.manual_seed(seed)
        alone = dataset.transform(dataset.read_image(3))
        assert torch.equal(image, alone)  # the targets draw no random numbers
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (transforms.MEAN, transforms.STD))
        torch.testing.assert_close(targets["clean"], image * std + mean, atol=1e-5, rtol=0)
        assert torch.equal(targets["mask"][0] > 0.5, targets["clean"][0] * 255 > median + 0.1)
        assert targets["mask"].shape == (1, 32, 32)
        assert abs(targets["yaw"].item()) == 30
        assert {type(target) for target in targets.values()} == {torch.Tensor}
        flipped.append(targets["yaw"].item() < 0)
    assert 4 < sum(flipped) < 16


@pytest.mark.parametrize("name", transforms.AUGMENTATIONS)
def test_no_augmentation_changes_the_colours_of_mask_and_clean_picture(name):
    targets = {"mask": Image.new("L", (32, 32), 255), "clean": Image.new("RGB", (32, 32), "gray")}
    values = {"mask": set(), "clean": set()}
    for seed in range(10):
        torch.manual_seed(seed)
        image = Image.new("RGB", (32, 32), "gray")
        _, made = transforms.AUGMENTATIONS[name](32)(image, targets)
        for kind, target in made.items():
            middle = 255 * target[:, 12:20, 12:20]
            values[kind] |= set(middle.round().unique().int().tolist())
    assert values == {"mask": {255}, "clean": {128}}


def test_a_flip_mirrors_the_yaw_and_nothing_else_changes_it():
    image, targets = Image.new("RGB", (8, 8)), {"yaw": torch.tensor(20.0).as_subclass(Yaw)}
    for step in (v2.RandomRotation(20), v2.RandomAffine(20), v2.Resize((4, 4))):
        assert step(image, targets)[1]["yaw"] == 20
    assert v2.RandomHorizontalFlip(p=1)(image, targets)[1]["yaw"] == -20
    assert targets["yaw"] == 20


def test_erasing_spares_the_targets(data):
    write_masks(data)
    erase = v2.RandomErasing(p=1, scale=(0.9, 0.9), ratio=(1, 1), value=9)
    dataset = training_set(data, v2.Compose([*transforms.evaluation(32).transforms, erase]))
    image, _, targets = dataset[0]
    assert (image == 9).float().mean() > 0.8
    assert targets["clean"].max() <= 1
    assert targets["mask"].max() <= 1


def test_targets_are_the_same_with_images_from_memory(data):
    write_poses(data, [0] * 7)
    write_masks(data)
    plain = training_set(data, transforms.affectnet_train(24))
    (kept, _), _ = cache_images([(training_set(data, plain.transform), range(7))] * 2)
    for seed in range(6):
        samples = []
        for dataset in (plain, kept):
            torch.manual_seed(seed)
            samples.append(dataset[seed])
        one, other = samples
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.targets["yaw"], other.targets["yaw"])
        for name in ("mask", "clean"):
            torch.testing.assert_close(one.targets[name], other.targets[name], atol=0.005, rtol=0)


# --------------------------------------------------------------------------------------------
# Poses


def test_poses_go_by_the_path_of_the_image(data):
    yaws = [-90, -12.5, 0, 3, 44, 60, 90]
    write_poses(data, yaws[::-1], NAMES[::-1])
    assert known_yaws(RAFDB(data, "train")).tolist() == yaws


def test_without_poses_there_is_no_target_and_a_line_says_so(data, capsys):
    dataset = training_set(data, names=("yaw",))
    assert dataset[0].targets == {}
    said = capsys.readouterr().out
    assert "no poses.csv or faces.csv" in said
    assert "the loss on the pose is off" in said


@pytest.mark.parametrize(
    ("yaws", "names", "message"),
    [
        ([0, 91, 0, 0, 0, 0, 0], NAMES, r"row 3 of .*poses.csv has the yaw 91.*-90 to 90 degrees"),
        ([0, 0, "left", 0, 0, 0, 0], NAMES, "row 4 of .*has the yaw left"),
        ([0] * 6, NAMES[:6], "no yaw for 1 of 7 images of the split train, the first is .*00007"),
        ([0] * 7, [f"other/{n}" for n in NAMES], "no yaw for 7 of 7.*path below"),
        ([0] * 8, [*NAMES, NAMES[2]], "lists image .*00003.* more than once"),
    ],
)
def test_poses_that_do_not_fit_are_one_line(data, yaws, names, message):
    write_poses(data, yaws, names)
    with pytest.raises(InputError, match=message):
        training_set(data, names=("yaw",))
    RAFDB(data, "train")  # nobody asked for them


def test_yaws_come_from_the_landmarks_of_faces_csv(tmp_path):
    """The nose is right of the middle in the first picture; a picture without a face is no crop."""
    root = write_sfew(tmp_path)
    dataset = SFEW(root, "train")
    names = [path.relative_to(root).with_suffix(".jpg").as_posix() for path, _ in dataset.samples]
    columns = "left_eye_x,left_eye_y,right_eye_x,right_eye_y,nose_x,nose_y"
    lines = [f"image,result,{columns},left_mouth_x,left_mouth_y,right_mouth_x,right_mouth_y"]
    for number, name in enumerate(names):
        lines.append(f"{name},aligned,10,10,30,10,{25 if number == 0 else 20},20,12,30,28,30")
    lines.append("Train/Angry/nobody.jpg,no face,,,,,,,,,,")
    (root / "faces.csv").write_text("\n".join(lines))
    yaws = known_yaws(dataset)
    assert yaws[0] == pytest.approx(30)  # 5 of 20 pixels to the side: asin(5 / (0.5 * 20))
    assert (yaws[1:] == 0).all()
    (root / "faces.csv").write_text("\n".join([*lines[:-1], f"{names[0]},aligned{',x' * 10}"]))
    with pytest.raises(InputError, match="landmarks that no yaw can be read from"):
        known_yaws(dataset)


def test_images_that_are_no_files_have_no_poses(tmp_path):
    root = write_fer2013_csv(tmp_path / "fer")
    (root / "poses.csv").write_text("image,yaw\nx.png,0\n")
    with pytest.raises(InputError, match="is no file of its own"):
        known_yaws(FER2013(root, "train"))


# --------------------------------------------------------------------------------------------
# Masks


def test_without_masks_an_aligned_face_is_an_ellipse(data, capsys):
    image, _, targets = training_set(data, names=("face",))[0]
    assert targets["clean"] is image
    assert targets["mask"].size == image.size
    assert "the mask to be an ellipse" in " ".join(capsys.readouterr().out.split())


def test_the_ellipse_is_upright_and_from_forehead_to_chin():
    mask = np.asarray(ellipse_mask((200, 100))) / 255
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    assert columns.mean() / 200 == pytest.approx(0.5, abs=0.01)
    assert np.ptp(columns) / 200 == pytest.approx(2.1 * 0.335, abs=0.01)
    assert rows.max() / 100 == pytest.approx(0.75 + 0.55 * 0.335, abs=0.01)
    assert mask[39, 66] == mask[39, 133] == mask[75, 73] == 1  # eyes and mouth


def missing_mask(data: Path) -> None:
    (data / f"masks/{NAMES[4]}.png").unlink()


def missing_folder(data: Path) -> None:
    (data / "clean").rename(data / "other")


def other_images(data: Path) -> None:
    (data / "masks/Image").rename(data / "masks/Picture")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing_mask, "masks.*00005_aligned.png does not exist, but there is .*00005"),
        (missing_folder, "clean.*00001_aligned.png does not exist"),
        (other_images, "masks.*00001_aligned.png does not exist"),
    ],
)
def test_masks_that_are_missing_are_one_line(data, damage, message):
    write_masks(data)
    damage(data)
    with pytest.raises(InputError, match=message):
        FaceTargets(RAFDB(data, "train"))


@pytest.mark.parametrize("mode", ["empty", "labels", "colours"])
def test_a_picture_that_is_no_mask_is_one_line(data, mode):
    write_masks(data)
    made = {
        "empty": Image.new("L", (32, 32)),
        "labels": Image.new("L", (32, 32), 1),
        "colours": Image.open(data / f"{NAMES[0]}.jpg"),
    }[mode]
    made.save(data / f"masks/{NAMES[0]}.png")
    dataset = training_set(data, names=("face",))
    with pytest.raises(InputError, match=r"00001_aligned.png is no mask.*255 on the face"):
        _ = dataset[0]
