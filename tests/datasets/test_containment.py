"""What a label list or csv names lies in the data folder, whatever way it leads out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from engine.device import use_deterministic_algorithms
from PIL import Image

from common.errors import InputError
from datasets import RAFDB, AffectNet8, FERPlus
from tests.support.scripts import LABEL_FILE, Forked, write_rafdb

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")
VOTES = "image,usage,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
FACES = "subDirectory_filePath,face_x,face_y,face_width,face_height,expression\n"


@pytest.fixture
def secret(tmp_path) -> Path:
    """A picture outside every data folder."""
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "secret.jpg")
    return tmp_path / "secret.jpg"


def rafdb(root: Path, name: str) -> RAFDB:
    write_rafdb(root)
    (root / LABEL_FILE).write_text(f"{name} 1\n")
    return RAFDB(root, "train")


def ferplus(root: Path, name: str) -> FERPlus:
    (root / "train/angry").mkdir(parents=True)
    (root / "ferplus_votes.csv").write_text(f"{VOTES}{name},Training,9,0,0,0,0,0,0,0,0,0\n")
    return FERPlus(root, "train")


def affectnet(root: Path, name: str) -> AffectNet8:
    (root / "Manually_Annotated_Images/1").mkdir(parents=True)
    (root / "training.csv").write_text(f"{FACES}{name},0,0,8,8,1\n")
    return AffectNet8(root, "train")


KINDS = {"rafdb": rafdb, "ferplus": ferplus, "affectnet": affectnet}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("way", ["../secret.jpg", "../../../secret.jpg", "absolute"])
def test_a_name_that_leads_out_is_refused(kind, way, secret, tmp_path):
    with pytest.raises(InputError, match=r"secret\.jpg"):
        kind(tmp_path / "data", str(secret) if way == "absolute" else way)


@pytest.mark.parametrize("name", KINDS)
def test_a_link_that_leads_out_is_refused_when_it_is_read(name, secret, tmp_path):
    root = tmp_path / "data"
    if name == "rafdb":
        write_rafdb(root)
        link = root / "Image/aligned/train_00001_aligned.jpg"
        link.unlink()
        link.symlink_to(secret)
        dataset = RAFDB(root, "train")
    else:
        inside = {"ferplus": "train/angry/a.jpg", "affectnet": "1/a.jpg"}[name]
        base = root / ("Manually_Annotated_Images" if name == "affectnet" else "")
        (base / inside).parent.mkdir(parents=True)
        link = base / inside
        link.symlink_to(secret)
        text = (
            f"{VOTES}{inside},Training,9,0,0,0,0,0,0,0,0,0\n"
            if name == "ferplus"
            else f"{FACES}{inside},0,0,8,8,1\n"
        )
        (root / ("ferplus_votes.csv" if name == "ferplus" else "training.csv")).write_text(text)
        dataset = {"ferplus": FERPlus, "affectnet": AffectNet8}[name](root, "train")
    with pytest.raises(InputError, match=r"is a link to .*secret\.jpg, outside the data folder"):
        dataset[0]
    link.unlink()
    secret.rename(link)
    assert dataset[0][0].getpixel((0, 0))[0] > 200


def test_what_leads_out_is_refused_after_neighbours_that_do_not(secret, tmp_path):
    data = RAFDB(write_rafdb(tmp_path / "data"), "train")
    for index in (0, 1, 0):
        data[index]
    link = data.samples[2][0]
    link.unlink()
    link.symlink_to(secret)
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"is a link to .*secret\.jpg, outside the data folder"
        ):
            data[2]


def test_a_folder_of_images_that_leads_out_is_refused(secret, tmp_path):
    base = tmp_path / "data/Manually_Annotated_Images"
    base.mkdir(parents=True)
    (base / "1").symlink_to(secret.parent)
    (tmp_path / "data/training.csv").write_text(f"{FACES}1/secret.jpg,0,0,8,8,1\n")
    with pytest.raises(InputError, match="outside the data folder"):
        AffectNet8(tmp_path / "data", "train")[0]


def test_a_data_folder_on_another_disk_is_reached_through_links(tmp_path):
    write_rafdb(tmp_path / "disk")
    (tmp_path / "disk/Image/aligned").rename(tmp_path / "pictures")
    (tmp_path / "disk/Image/aligned").symlink_to(tmp_path / "pictures")
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    assert RAFDB(tmp_path / "data", "train")[0][0].size == (32, 32)


def test_deterministic_refuses_what_is_not():
    def main():
        use_deterministic_algorithms()
        print(torch.are_deterministic_algorithms_enabled(), os.environ["CUBLAS_WORKSPACE_CONFIG"])

    process = Forked(main)
    out, _ = process.communicate()
    process.end()
    assert out == b"True :4096:8\n"
