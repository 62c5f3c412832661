"""What every data set does, images of every PIL mode, and images that cannot be opened."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.batch import Sample
from common.errors import InputError
from datasets import DATASETS, FER2013, RAFDB, SFEW, AffectNet8, FaceDataset, FERPlus, transforms
from datasets.base import DEMO_FILE
from datasets.reading import open_rgb, to_rgb
from tests.support.layouts import (
    grey,
    write_annotations,
    write_csv,
    write_ferplus_images,
    write_sfew,
)
from tests.support.scripts import LABEL_FILE, write_rafdb

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")


def test_data_sets_are_found_by_the_name_that_eval_takes():
    assert DATASETS["rafdb"] is RAFDB
    assert DATASETS["fer2013"] is FER2013


@pytest.mark.parametrize(("dataset", "layout"), [(RAFDB, LABEL_FILE), (FER2013, "class folders")])
def test_a_missing_folder_and_an_unknown_split_are_refused(dataset, layout, tmp_path):
    with pytest.raises(InputError, match=rf"missing does not exist.*{dataset.name}.*{layout}"):
        dataset(tmp_path / "missing", "train")
    with pytest.raises(InputError, match="no split 'val'; expected one of train, test"):
        dataset(tmp_path, "val")


def published_warnings(build: Callable[[], FaceDataset]) -> list[str]:
    """The warnings that reading a data set and then using it gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = build()
        list(dataset)
        dataset.class_counts()
    return [str(warning.message) for warning in caught]


def test_counts_that_differ_from_the_published_ones_give_one_warning(data):
    (said,) = published_warnings(lambda: RAFDB(data, "train"))
    for part in ("rafdb train", "21 images, per class 3 3 3 3 3 3 3", "published are 12,271"):
        assert part in said


@pytest.mark.parametrize("published", [((3,) * 7,), ((9,) * 7, (3,) * 7)])
def test_published_counts_are_not_complained_about(published, data, monkeypatch):
    monkeypatch.setattr(RAFDB, "published_counts", {"train": published})
    assert published_warnings(lambda: RAFDB(data, "train")) == []
    assert RAFDB(data, "train").is_published()
    assert not RAFDB(data, "test").is_published()


@pytest.mark.parametrize(
    ("kind", "write", "deeper"),
    [
        (RAFDB, write_rafdb, ""),
        (RAFDB, write_rafdb, "raf-basic"),
        (AffectNet8, write_annotations, ""),
        (SFEW, write_sfew, ""),
    ],
)
def test_synthetic_faces_are_not_the_published_ones(kind, write, deeper, tmp_path, monkeypatch):
    """Even where they are as many."""
    root = write(tmp_path / deeper)
    counts = kind(tmp_path, "train").class_counts()
    monkeypatch.setattr(kind, "published_counts", {"train": (counts,)})
    assert kind(tmp_path, "train").is_published()
    (root / DEMO_FILE).write_text("{}")
    assert not kind(tmp_path, "train").is_published()


def test_the_transform_is_applied_to_the_rgb_image(data):
    dataset = RAFDB(data, "train", lambda image: (image.mode, image.size))
    assert dataset[6] == Sample(("RGB", (32, 32)), 6, {})


# ---- links


@pytest.fixture
def secret(tmp_path) -> Path:
    """A picture outside every data folder."""
    grey(200).save(tmp_path / "secret.jpg")
    return tmp_path / "secret.jpg"


def leads_out(link: Path, target: Path) -> None:
    """Put a link to a file elsewhere in the place of an image."""
    link.unlink()
    link.symlink_to(target)


@pytest.mark.parametrize(
    ("kind", "write"),
    [(RAFDB, write_rafdb), (AffectNet8, write_csv), (FERPlus, write_ferplus_images)],
)
def test_a_listed_image_that_is_a_link_out_of_the_data_folder_is_refused(
    kind, write, secret, tmp_path
):
    root = tmp_path / "data"
    root.mkdir()
    paths = [path for path, _ in kind(write(root), "train").samples]
    leads_out(paths[2], secret)
    dataset = kind(root, "train")
    for index in (0, 1, 0):  # neighbours, in the same folder or not
        dataset[index]
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"is a link to .*secret\.jpg, outside the data folder"
        ):
            dataset[2]


def test_an_image_whose_link_was_replaced_by_the_file_is_read(secret, tmp_path):
    dataset = RAFDB(write_rafdb(tmp_path / "data"), "train")
    link = dataset.samples[0][0]
    leads_out(link, secret)
    with pytest.raises(InputError, match="outside the data folder"):
        dataset[0]
    link.unlink()
    secret.rename(link)
    assert np.asarray(dataset[0].image).mean() == pytest.approx(200, abs=1)


def test_a_data_folder_on_another_disk_is_reached_through_links(tmp_path):
    write_rafdb(tmp_path / "disk")
    (tmp_path / "disk/Image/aligned").rename(tmp_path / "pictures")
    (tmp_path / "disk/Image/aligned").symlink_to(tmp_path / "pictures")
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    assert RAFDB(tmp_path / "data", "train")[0].image.size == (32, 32)


# ---- open_rgb


WHITE, BLACK, RED, BLUE = [255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]
GREYS = [BLACK, [200, 200, 200], WHITE]
PALE_BLUE = [153, 153, 255]  # blue at 40 % on white


def row(mode: str, *samples: object, dtype: type = np.uint8) -> Image.Image:
    """An image of one row, from its samples as they are in memory."""
    return Image.frombytes(mode, (len(samples), 1), np.array(samples, dtype).tobytes())


def palette() -> Image.Image:
    """A red pixel and a blue one."""
    image = row("P", 0, 1)
    image.putpalette([*RED, *BLUE])
    return image


def pixels(image: Image.Image) -> list[list[int]]:
    """The first row of an RGB image."""
    assert image.mode == "RGB"
    return np.asarray(image)[0].tolist()


#: mode -> (image, its pixels as RGB, tolerance of the colour conversion)
MODES = {
    "1": (Image.new("1", (1, 1), 1), [WHITE], 0),
    "L": (row("L", 0, 200, 255), GREYS, 0),
    "P": (palette(), [RED, BLUE], 0),
    "RGB": (row("RGB", [1, 2, 3]), [[1, 2, 3]], 0),
    "RGBA": (row("RGBA", [*RED, 255], [*RED, 0], [*BLUE, 102]), [RED, WHITE, PALE_BLUE], 0),
    "RGBa": (row("RGBa", [*RED, 255], [0, 0, 0, 0]), [RED, WHITE], 0),
    "RGBX": (row("RGBX", [1, 2, 3, 0]), [[1, 2, 3]], 0),
    "LA": (row("LA", [0, 255], [0, 51], [7, 0]), [BLACK, [204, 204, 204], WHITE], 0),
    "CMYK": (row("CMYK", [0, 255, 255, 0], [0, 0, 0, 255]), [RED, BLACK], 0),
    "YCbCr": (row("YCbCr", [76, 85, 255], [29, 255, 107]), [RED, BLUE], 1),
    "HSV": (row("HSV", [0, 255, 255], [170, 255, 255], [0, 0, 0]), [RED, BLUE, BLACK], 0),
    "LAB": (row("LAB", [255, 0, 0], [0, 0, 0], [136, 80, 67]), [WHITE, BLACK, RED], 12),
    "I;16": (row("I;16", 0, 200 * 257, 65535, dtype="<u2"), GREYS, 0),
    "I;16B": (row("I;16B", 0, 200 * 257, 65535, dtype=">u2"), GREYS, 0),
    "I": (row("I", -5, 200 * 257, 70000, dtype=np.int32), GREYS, 0),
    "F": (row("F", -1.0, 200.4, 300.0, dtype=np.float32), GREYS, 0),
}

#: name -> (mode, file type, options of saving, expected pixels where they differ from MODES)
FILES = {
    "bitmap": ("1", "png", {}, None),
    "grey": ("L", "png", {}, None),
    "grey, one level transparent": ("L", "png", {"transparency": 0}, [WHITE, *GREYS[1:]]),
    "palette": ("P", "png", {}, None),
    "palette, one color transparent": ("P", "png", {"transparency": 0}, [WHITE, BLUE]),
    "palette with alpha": ("P", "png", {"transparency": bytes([255, 102])}, [RED, PALE_BLUE]),
    "palette gif": ("P", "gif", {"transparency": 0}, [WHITE, BLUE]),
    "color": ("RGB", "png", {}, None),
    "color, one transparent": ("RGB", "png", {"transparency": (1, 2, 3)}, [WHITE]),
    "alpha": ("RGBA", "png", {}, None),
    "grey with alpha": ("LA", "png", {}, None),
    "print colors": ("CMYK", "tiff", {}, None),
    "video colors": ("YCbCr", "tiff", {}, None),
    "perceptual colors": ("LAB", "tiff", {}, None),
    "16 bits": ("I;16", "png", {}, None),
    "16 bits tiff": ("I;16B", "tiff", {}, None),
    "32 bits": ("I", "tiff", {}, None),
    "floating point": ("F", "tiff", {}, None),
}


@pytest.mark.parametrize(("image", "expected", "tolerance"), MODES.values(), ids=MODES)
def test_every_mode_becomes_rgb(image, expected, tolerance):
    np.testing.assert_allclose(pixels(to_rgb(image)), expected, atol=tolerance)


@pytest.mark.parametrize(("mode", "suffix", "options", "expected"), FILES.values(), ids=FILES)
def test_a_file_of_every_mode_opens_as_rgb(mode, suffix, options, expected, tmp_path):
    image, usual, tolerance = MODES[mode]
    path = tmp_path / f"image.{suffix}"
    image.save(path, **options)
    with Image.open(path) as stored:
        assert stored.mode == mode, "the file does not keep the mode that is to be tested"
    np.testing.assert_allclose(pixels(open_rgb(path)), expected or usual, atol=tolerance)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [(1, [[10, 20, 30]]), (3, [[30, 20, 10]]), (6, [[10], [20], [30]]), (8, [[30], [20], [10]])],
)
def test_camera_rotation_is_applied(orientation, expected, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    row("L", 10, 20, 30).save(tmp_path / "photo.png", exif=exif)
    upright = np.asarray(open_rgb(tmp_path / "photo.png"))
    assert upright[:, :, 0].tolist() == expected


def test_an_animation_gives_its_first_frame(tmp_path):
    first, second = Image.new("RGB", (2, 2), tuple(RED)), Image.new("RGB", (2, 2), tuple(BLUE))
    first.save(tmp_path / "face.gif", save_all=True, append_images=[second])
    with Image.open(tmp_path / "face.gif") as stored:
        assert stored.n_frames == 2
    assert pixels(open_rgb(tmp_path / "face.gif")) == [RED, RED]


# ---- images that cannot be opened


def noise_bytes(folder: Path, suffix: str) -> bytes:
    path = folder / f"whole.{suffix}"
    values = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "tiff", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9])
def test_a_truncated_image_is_named(suffix, share, tmp_path):
    whole = noise_bytes(tmp_path, suffix)
    path = tmp_path / f"face.{suffix}"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=rf"face\.{suffix} cannot be decoded .*replace it"):
        open_rgb(path)


@pytest.mark.parametrize(
    "broken",
    [
        lambda path: path.write_text("no image"),
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64)),
    ],
    ids=["text", "folder", "png header"],
)
def test_what_is_not_an_image_is_named(broken, tmp_path):
    broken(tmp_path / "face.jpg")
    with pytest.raises(InputError, match=r"face\.jpg cannot be decoded"):
        open_rgb(tmp_path / "face.jpg")


def test_an_error_of_any_kind_from_the_decoder_names_the_image(tmp_path, monkeypatch):
    """Pillow's AVIF decoder reports damaged files as a RuntimeError."""

    def damaged(*args: object) -> None:
        raise RuntimeError("Failed to decode image: Missing or empty image item")

    grey(0).save(tmp_path / "face.png")
    monkeypatch.setattr(Image.Image, "load", damaged)
    with pytest.raises(InputError, match=r"face\.png cannot be decoded"):
        open_rgb(tmp_path / "face.png")


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(InputError, match=r"face\.jpg does not exist"):
        open_rgb(tmp_path / "face.jpg")


def test_a_huge_image_is_refused_not_decoded(tmp_path, monkeypatch):
    grey(0, (100, 100)).save(tmp_path / "face.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"face\.png cannot be decoded .*pixels"):
        open_rgb(tmp_path / "face.png")


def png_header(width: int, height: int) -> bytes:
    """A grey PNG of any declared size in a few bytes."""
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [head, data, b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        for chunk in chunks
    )


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("size", [(30_000, 3_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(size, tmp_path, monkeypatch):
    grey(0).save(tmp_path / "good.png")
    open_rgb(tmp_path / "good.png")  # Pillow decodes an image of its own at its first use
    (tmp_path / "face.png").write_bytes(png_header(*size))
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"face\.png cannot be decoded .*\d+.* pixels"):
        open_rgb(tmp_path / "face.png")


def test_a_very_wide_image_of_legal_size_is_decoded(tmp_path):
    wide = np.zeros((2, 30_000), np.uint8)
    wide[:, 15_000:] = 200
    Image.fromarray(wide).save(tmp_path / "face.png")
    found = np.asarray(open_rgb(tmp_path / "face.png"))
    assert found.shape == (2, 30_000, 3)
    assert (found == wide[..., None]).all()


def test_one_pixel_is_an_image(tmp_path):
    Image.new("RGB", (1, 1), (10, 20, 30)).save(tmp_path / "face.png")
    assert np.asarray(open_rgb(tmp_path / "face.png")).tolist() == [[[10, 20, 30]]]
    tensor = transforms.evaluation(32)(open_rgb(tmp_path / "face.png"))
    assert tensor.shape == (3, 32, 32)
    for channel, value in enumerate((10, 20, 30)):
        expected = (value / 255 - transforms.MEAN[channel]) / transforms.STD[channel]
        np.testing.assert_allclose(tensor[channel], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["face.jpg", "face.txt", "face"])
def test_the_content_tells_the_format_and_not_the_name(name, tmp_path):
    row("RGB", [1, 2, 3], [4, 5, 6]).save(tmp_path / name, format="PNG")
    assert pixels(open_rgb(tmp_path / name)) == [[1, 2, 3], [4, 5, 6]]


def test_a_print_file_with_adobes_inverted_colors_is_upright(tmp_path):
    """CMYK in JPEG is stored inverted; read as it stands it would be a negative."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red.save(tmp_path / "face.jpg", quality=100)
    np.testing.assert_allclose(np.asarray(open_rgb(tmp_path / "face.jpg"))[8, 8], RED, atol=3)


def test_no_other_program_is_started_for_an_image(tmp_path, monkeypatch):
    """Pillow would hand PostScript, whatever the file is called, to Ghostscript."""
    script = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    (tmp_path / "face.jpg").write_text(script)
    with Image.open(tmp_path / "face.jpg") as image:
        assert image.format == "EPS", "the file does not test what it should"
    with pytest.raises(InputError, match=r"face\.jpg cannot be decoded"):
        open_rgb(tmp_path / "face.jpg")


def test_a_data_set_names_the_image_that_it_cannot_decode(tmp_path):
    write_rafdb(tmp_path, train=7, test=7)
    (tmp_path / "Image/aligned/train_00002_aligned.jpg").write_bytes(b"\xff\xd8\xff")
    dataset = RAFDB(tmp_path, "train")
    assert dataset[0].label == 0
    with pytest.raises(InputError, match=r"train_00002_aligned\.jpg cannot be decoded"):
        dataset[1]
