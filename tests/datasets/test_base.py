"""RAF-DB and FER2013 in their layouts, images of every PIL mode, and bad input."""

from __future__ import annotations

import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from datasets import DATASETS, FER2013, RAFDB, FaceDataset, transforms
from datasets.base import open_rgb, to_rgb

LABEL_FILE = "EmoLabel/list_patition_label.txt"
FER_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
RAFDB_LINES = (
    "test_0001.jpg 1",
    "train_00001.jpg 7",
    "train_00002.jpg 1",
    "train_00003.jpg 4",
    "test_0002.jpg 6",
)


def subset_is_fine(function: Callable) -> Callable:
    """The tiny data sets of these tests are none of the published sizes."""
    return pytest.mark.filterwarnings("ignore:.*published are")(function)


def grey_image(level: int, size: tuple[int, int] = (4, 4)) -> Image.Image:
    return Image.new("RGB", size, (level, level, level))


# ---- RAF-DB


def write_rafdb(root: Path, lines: Iterable[str] = RAFDB_LINES) -> Path:
    """RAF-DB's layout; the image of line i is grey of level 20 i."""
    images = root / "Image" / "aligned"
    images.mkdir(parents=True)
    (root / "EmoLabel").mkdir()
    (root / LABEL_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for i, line in enumerate(lines):
        if line.split():
            stem = line.split()[0].removesuffix(".jpg")
            grey_image(20 * i).save(images / f"{stem}_aligned.jpg")
    return root


def contents(dataset: FaceDataset) -> list[tuple[int, int]]:
    """(grey level in steps of 20, label) of every image."""
    return [(round(np.asarray(image).mean() / 20), label) for image, label in dataset]


@subset_is_fine
@pytest.mark.parametrize("base", [".", "raf-basic", "basic"])
def test_rafdb_reads_the_official_layout(base, tmp_path):
    write_rafdb(tmp_path / base)
    train, test = RAFDB(tmp_path, "train"), RAFDB(str(tmp_path), "test")
    assert contents(train) == [(1, 6), (2, 0), (3, 3)]
    assert contents(test) == [(0, 0), (4, 5)]
    names = [path.name for path, _ in train.samples]
    assert names == [f"train_0000{i}_aligned.jpg" for i in (1, 2, 3)]
    assert train.labels == [6, 0, 3]
    assert train.class_counts() == (1, 0, 0, 1, 0, 0, 1)
    assert len(train) == 3
    assert train.describe(1).endswith("train_00002_aligned.jpg")


@subset_is_fine
def test_rafdb_labels_1_to_7_become_0_to_6(tmp_path):
    write_rafdb(tmp_path, [f"train_{i}.jpg {i}" for i in range(1, 8)])
    assert RAFDB(tmp_path, "train").labels == list(range(7))


@subset_is_fine
def test_rafdb_tolerates_blank_lines_and_windows_line_ends(tmp_path):
    write_rafdb(tmp_path)
    (tmp_path / LABEL_FILE).write_bytes(
        b"\r\n".join(line.encode() for line in RAFDB_LINES) + b"\r\n\r\n"
    )
    assert RAFDB(tmp_path, "train").labels == [6, 0, 3]


@subset_is_fine
def test_the_transform_is_applied_to_the_rgb_image(tmp_path):
    dataset = RAFDB(write_rafdb(tmp_path), "train", lambda image: (image.mode, image.size))
    assert dataset[0] == (("RGB", (4, 4)), 6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train_00009.jpg", r"line 6 .*'train_00009\.jpg'; expected 'train_00001\.jpg 5'"),
        ("train_00009.jpg 5 extra", "line 6 .*expected 'train_00001"),
        ("face_00009.jpg 5", "line 6 .*expected 'train_00001"),
        ("train_00009.jpg 0", r"label '0' on line 6 .* out of range; expected 1 to 7 \(Surprise"),
        ("train_00009.jpg 8", "label '8' on line 6"),
        ("train_00009.jpg -1", "label '-1' on line 6"),
        ("train_00009.jpg x", "label 'x' on line 6"),
        ("train_00009.jpg 1.5", "label '1.5' on line 6"),
        ("train_/../../secret.jpg 1", "line 6 .*expected a file name"),
        ("train_x/../test_0001.jpg 1", "line 6 .*expected a file name"),
    ],
)
def test_rafdb_refuses_a_malformed_line_by_number(line, message, tmp_path):
    write_rafdb(tmp_path)
    with (tmp_path / LABEL_FILE).open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
    with pytest.raises(InputError, match=message) as refusal:
        RAFDB(tmp_path, "train")
    assert LABEL_FILE in str(refusal.value)


def test_rafdb_names_a_listed_image_that_is_missing(tmp_path):
    write_rafdb(tmp_path)
    (tmp_path / "Image/aligned/train_00002_aligned.jpg").unlink()
    with pytest.raises(InputError, match=r"train_00002_aligned\.jpg does not exist, but line 3"):
        RAFDB(tmp_path, "train")


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("EmoLabel", rf"{LABEL_FILE} not found.*rafdb is read from {LABEL_FILE}"),
        (LABEL_FILE, f"{LABEL_FILE} not found"),
        ("Image", r"Image/aligned does not exist.*unpack aligned\.zip"),
    ],
)
def test_rafdb_says_what_it_looked_for(remove, message, tmp_path):
    path = write_rafdb(tmp_path) / remove
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=message):
        RAFDB(tmp_path, "train")


def test_rafdb_refuses_a_label_file_that_is_no_text(tmp_path):
    write_rafdb(tmp_path)
    (tmp_path / LABEL_FILE).write_bytes(b"\xff\xfe\x00train")
    with pytest.raises(InputError, match=r"list_patition_label\.txt is no text file"):
        RAFDB(tmp_path, "train")


def test_an_empty_split_is_refused(tmp_path):
    write_rafdb(tmp_path, ["train_00001.jpg 1"])
    with pytest.raises(InputError, match=r"split test below .* holds no images"):
        RAFDB(tmp_path, "test")


# ---- FER2013


def write_fer_folders(root: Path) -> Path:
    """One grey 48x48 image per class and split, at level 20 label; all of test/ is public."""
    for split, prefix in (("train", "Training"), ("test", "PublicTest")):
        for label, name in enumerate(FER_CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            Image.new("L", (48, 48), 20 * label).save(folder / f"{prefix}_{label}.jpg")
    Image.new("L", (48, 48), 200).save(root / "test/happy/PrivateTest_7.jpg")
    (root / "train/happy/.DS_Store").write_bytes(b"hidden")
    return root


@subset_is_fine
def test_fer2013_reads_class_folders_in_label_order(tmp_path):
    write_fer_folders(tmp_path)
    train, test = FER2013(tmp_path, "train"), FER2013(tmp_path, "test")
    assert contents(train) == [(label, label) for label in range(7)]
    assert train.class_counts() == (1,) * 7
    assert test.class_counts() == (1, 1, 1, 2, 1, 1, 1)
    assert train[0][0].mode == "RGB"


@subset_is_fine
def test_fer2013_folder_names_may_have_any_case(tmp_path):
    write_fer_folders(tmp_path)
    for name in FER_CLASSES:
        (tmp_path / "train" / name).rename(tmp_path / "train" / name.upper())
    assert contents(FER2013(tmp_path, "train")) == [(label, label) for label in range(7)]


@subset_is_fine
def test_fer2013_tells_the_test_parts_apart_by_file_name(tmp_path):
    write_fer_folders(tmp_path)
    assert FER2013(tmp_path, "public").labels == list(range(7))
    assert contents(FER2013(tmp_path, "private")) == [(10, 3)]


def test_fer2013_names_a_class_folder_that_is_missing(tmp_path):
    shutil.rmtree(write_fer_folders(tmp_path) / "train" / "sad")
    with pytest.raises(InputError, match=r"train has no folder Sad; expected .*Angry, Disgust"):
        FER2013(tmp_path, "train")


def test_fer2013_says_what_it_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"neither train/ nor fer2013\.csv.*class folders"):
        FER2013(tmp_path, "train")


def test_fer2013_refuses_to_choose_between_two_layouts(tmp_path):
    write_fer_csv(write_fer_folders(tmp_path) / "fer2013.csv")
    with pytest.raises(InputError, match=r"holds both fer2013\.csv and class folders"):
        FER2013(tmp_path, "train")


def fer_pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 48), dtype=np.uint8)


def fer_row(emotion: object, seed: int, usage: str, pixels: str | None = None) -> str:
    if pixels is None:
        pixels = " ".join(map(str, fer_pixels(seed).ravel()))
    return f"{emotion},{pixels},{usage}"


FER_ROWS = (
    fer_row(0, 0, "Training"),
    fer_row(3, 1, "PublicTest"),
    fer_row(6, 2, "Training"),
    fer_row(5, 3, "PrivateTest"),
    fer_row(1, 4, "PublicTest"),
)


def write_fer_csv(path: Path, rows: Iterable[str] = FER_ROWS, header: str = "emotion,pixels,Usage"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def icml_row(row: str) -> str:
    """As in icml_face_data.csv: emotion, Usage, pixels, a space after each comma."""
    emotion, pixels, usage = row.split(",")
    return f"{emotion}, {usage}, {pixels}"


@subset_is_fine
@pytest.mark.parametrize(
    ("split", "labels", "seeds"),
    [
        ("train", [0, 6], [0, 2]),
        ("test", [3, 5, 1], [1, 3, 4]),
        ("public", [3, 1], [1, 4]),
        ("private", [5], [3]),
    ],
)
@pytest.mark.parametrize("form", ["fer2013.csv", "icml_face_data.csv"])
def test_fer2013_reads_the_csv_exactly(form, split, labels, seeds, tmp_path):
    if form == "fer2013.csv":
        write_fer_csv(tmp_path / form)
    else:
        write_fer_csv(tmp_path / form, map(icml_row, FER_ROWS), "emotion, Usage, pixels")
    dataset = FER2013(tmp_path, split)
    assert dataset.labels == labels
    for (image, _), seed in zip(dataset, seeds, strict=True):
        assert image.mode == "RGB"
        assert (np.asarray(image) == fer_pixels(seed)[:, :, None]).all()


@subset_is_fine
def test_fer2013_describes_a_csv_image_by_the_row_an_editor_shows(tmp_path):
    write_fer_csv(tmp_path / "fer2013.csv")
    dataset = FER2013(tmp_path, "train")
    assert [dataset.describe(i) for i in (0, 1)] == [
        f"{tmp_path / 'fer2013.csv'} row {row}" for row in (2, 4)
    ]


PIXELS = "1 " * 2303


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            fer_row(9, 0, "Training"),
            r"row 7 of .*fer2013\.csv has emotion 9; expected 0 to 6 \(Angry",
        ),
        (fer_row(-1, 0, "Training"), "row 7 .* has emotion -1"),
        (fer_row(2.5, 0, "Training"), r"row 7 .* has emotion 2\.5"),
        (fer_row("", 0, "Training"), "row 7 .* has emotion nan"),
        (fer_row(1, 0, "Training", "1 2 3"), "row 7 .* does not hold 2304 pixel values"),
        (fer_row(1, 0, "Training", ""), "row 7 .* does not hold 2304"),
        (fer_row(1, 0, "Training", PIXELS), "row 7 .* does not hold 2304"),
        (fer_row(1, 0, "Training", PIXELS + "256"), "row 7 .* from 0 to 255"),
        (fer_row(1, 0, "Training", PIXELS + "-1"), "row 7 .* from 0 to 255"),
        (fer_row(1, 0, "Training", PIXELS + "x"), "row 7 .* from 0 to 255"),
        pytest.param(
            fer_row(1, 0, "Training", PIXELS + "9" * 30),
            "row 7 .* from 0 to 255",
        ),
        pytest.param(
            fer_row("happy", 0, "Training"),
            "row 7 .* has emotion happy",
        ),
    ],
    ids=lambda value: value[:30],
)
def test_fer2013_refuses_a_bad_row_by_number(row, message, tmp_path):
    write_fer_csv(tmp_path / "fer2013.csv", [*FER_ROWS, row])
    with pytest.raises(InputError, match=message):
        FER2013(tmp_path, "train")


def test_fer2013_refuses_a_csv_without_its_columns(tmp_path):
    write_fer_csv(tmp_path / "fer2013.csv", ["0,1 2 3"], "emotion,pixels")
    with pytest.raises(
        InputError, match="columns emotion, pixels; expected emotion, pixels, Usage"
    ):
        FER2013(tmp_path, "train")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b'"a\n'])
def test_fer2013_refuses_what_is_no_csv(content, tmp_path):
    (tmp_path / "fer2013.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"fer2013\.csv"):
        FER2013(tmp_path, "train")


def test_fer2013_refuses_an_empty_part(tmp_path):
    write_fer_csv(tmp_path / "fer2013.csv", FER_ROWS[:3])
    with pytest.raises(InputError, match=r"split private below .* holds no images"):
        FER2013(tmp_path, "private")


# ---- every data set


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


def test_counts_that_differ_from_the_published_ones_are_said_once(tmp_path):
    said = published_warnings(lambda: RAFDB(write_rafdb(tmp_path), "train"))
    assert len(said) == 1
    for part in ("rafdb train", "3 images, per class 1 0 0 1 0 0 1", "published are 12,271"):
        assert part in said[0]


@pytest.mark.parametrize("published", [((1, 0, 0, 1, 0, 0, 1),), ((9,) * 7, (1, 0, 0, 1, 0, 0, 1))])
def test_published_counts_are_not_complained_about(published, tmp_path, monkeypatch):
    monkeypatch.setattr(RAFDB, "published_counts", {"train": published})
    assert published_warnings(lambda: RAFDB(write_rafdb(tmp_path), "train")) == []


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
def test_what_is_no_image_is_named(broken, tmp_path):
    broken(tmp_path / "face.jpg")
    with pytest.raises(InputError, match=r"face\.jpg cannot be decoded"):
        open_rgb(tmp_path / "face.jpg")


def test_an_error_of_any_kind_from_the_decoder_names_the_image(tmp_path, monkeypatch):
    """Pillow's AVIF decoder reports damaged files as a RuntimeError."""

    def damaged(*args: object) -> None:
        raise RuntimeError("Failed to decode image: Missing or empty image item")

    grey_image(0).save(tmp_path / "face.png")
    monkeypatch.setattr(Image.Image, "load", damaged)
    with pytest.raises(InputError, match=r"face\.png cannot be decoded"):
        open_rgb(tmp_path / "face.png")


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(InputError, match=r"face\.jpg does not exist"):
        open_rgb(tmp_path / "face.jpg")


def test_a_huge_image_is_refused_not_decoded(tmp_path, monkeypatch):
    grey_image(0, (100, 100)).save(tmp_path / "face.png")
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
    grey_image(0).save(tmp_path / "good.png")
    open_rgb(tmp_path / "good.png")  # Pillow decodes an image of its own at its first use
    (tmp_path / "face.png").write_bytes(png_header(*size))
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"face\.png cannot be decoded .*\d+.* pixels"):
        open_rgb(tmp_path / "face.png")


def test_a_very_wide_image_that_is_no_bomb_is_decoded(tmp_path):
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


@subset_is_fine
def test_a_data_set_names_the_image_that_it_cannot_decode(tmp_path):
    write_rafdb(tmp_path)
    (tmp_path / "Image/aligned/train_00002_aligned.jpg").write_bytes(b"\xff\xd8\xff")
    dataset = RAFDB(tmp_path, "train")
    assert dataset[0][1] == 6
    with pytest.raises(InputError, match=r"train_00002_aligned\.jpg cannot be decoded"):
        dataset[1]
