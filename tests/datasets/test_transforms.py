"""The evaluation transform by hand, the training transforms' values, determinism."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from datasets import transforms

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])
TRAINING = (
    transforms.fer2013_affine,
    transforms.fer2013_strong,
    transforms.rafdb_train,
    transforms.affectnet_train,
    transforms.sfew_train,
    transforms.fer2013_train,
)


def face(height: int = 100, width: int = 100) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def normalized(image: Image.Image) -> np.ndarray:
    """(3, H, W) of an RGB image, by hand."""
    return ((np.asarray(image) / 255 - MEAN) / STD).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("shape", [(100, 100), (48, 48), (61, 90)])
def test_evaluation_is_pil_bilinear_then_normalization(shape, size):
    image = face(*shape)
    ours = transforms.evaluation(size)(image)
    assert ours.dtype == torch.float32
    expected = normalized(image.resize((size, size), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)


def test_evaluation_is_at_224_and_draws_nothing():
    state = torch.get_rng_state()
    first, second = (transforms.evaluation()(face()) for _ in range(2))
    assert first.shape == (3, 224, 224)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [32, 33, 224])
def test_normalization_has_the_bits_of_torchvisions(size):
    image = face(size, size)
    steps = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    ours = transforms.NormalizedTensor(size)(image)
    assert torch.equal(ours, v2.Compose(steps)(image))
    assert ours.unsqueeze(0).is_contiguous(memory_format=torch.channels_last)


def test_normalization_is_the_releases():
    assert np.array_equal(transforms.MEAN, MEAN)
    assert np.array_equal(transforms.STD, STD)


# ---- RAF-DB's training transform


def steps(compose: v2.Compose) -> list[str]:
    return [type(step).__name__ for step in compose.transforms]


def test_rafdb_train_has_the_releases_steps_in_order():
    compose = transforms.rafdb_train()
    assert steps(compose) == [
        "Resize",
        "RandomHorizontalFlip",
        "RandomApply",
        "NormalizedTensor",
        "RandomErasing",
    ]
    assert [type(step).__name__ for step in compose.transforms[2].transforms] == [
        "RandomRotation",
        "RandomCrop",
    ]


def test_rafdb_train_has_the_releases_values():
    resize, flip, apply, normalize, erase = transforms.rafdb_train().transforms
    rotate, crop = apply.transforms
    assert tuple(resize.size) == (224, 224)
    assert InterpolationMode(resize.interpolation) == InterpolationMode.BILINEAR
    assert flip.p == 0.5
    assert apply.p == 0.2
    assert tuple(rotate.degrees) == (-20, 20)
    assert not rotate.expand
    assert tuple(crop.size) == (224, 224)
    assert crop.padding in (32, [32] * 4)
    assert (crop.padding_mode, crop.fill) == ("constant", 0)
    assert isinstance(normalize, transforms.NormalizedTensor)
    assert (erase.p, tuple(erase.scale), erase.value) == (0.5, (0.02, 0.25), [0])
    assert tuple(erase.ratio) == (0.3, 3.3)


def test_the_padding_of_the_crop_keeps_its_share_of_the_image():
    crop = transforms.rafdb_train(112).transforms[2].transforms[1]
    assert tuple(crop.size) == (112, 112)
    assert crop.padding in (16, [16] * 4)


def draws(count: int, size: int = 64) -> torch.Tensor:
    torch.manual_seed(0)
    transform = transforms.rafdb_train(size)
    return torch.stack([transform(face(size, size)) for _ in range(count)])


def test_rafdb_train_flips_shifts_and_erases_as_often_as_it_says():
    """Over 600 draws of one face: what share is flipped, rotated, has a rectangle of zeros."""
    count, plain = 600, torch.from_numpy(normalized(face(64, 64))).float()
    images = draws(count)
    # A pixel of the normalized face is never exactly 0, so zeros are what was erased.
    zeros = (images == 0).all(dim=1)
    erased = zeros.flatten(1).any(dim=1)
    areas = zeros[erased].flatten(1).float().mean(dim=1)
    kept = ~zeros.unsqueeze(1)
    straight = ((images - plain).abs() * kept).amax(dim=(1, 2, 3)) < 1e-5
    mirrored = ((images - plain.flip(2)).abs() * kept).amax(dim=(1, 2, 3)) < 1e-5
    assert erased.float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert straight.float().mean().item() == pytest.approx(0.4, abs=0.08)
    assert mirrored.float().mean().item() == pytest.approx(0.4, abs=0.08)
    assert areas.min() > 0.01
    assert areas.max() < 0.27
    assert areas.mean().item() == pytest.approx(0.135, abs=0.02)


# ---- all training transforms


@pytest.mark.parametrize("build", TRAINING)
def test_training_transforms_follow_torchs_seed(build):
    transform, image = build(64), face()

    def series(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.stack([transform(image) for _ in range(8)])

    first = series(3)
    assert torch.equal(series(3), first)
    assert not torch.equal(series(4), first)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("build", TRAINING)
@pytest.mark.parametrize("size", [32, 65, 224])
def test_training_transforms_give_finite_tensors_of_their_size(build, size):
    torch.manual_seed(0)
    transform = build(size)
    for shape in ((100, 100), (48, 48), (61, 90)):
        tensor = transform(face(*shape))
        assert (tensor.shape, tensor.dtype) == ((3, size, size), torch.float32)
        assert torch.isfinite(tensor).all()
        assert tensor.abs().max() < 3
        assert tensor.std() > 0.1


@pytest.mark.parametrize(
    ("build", "probability", "erases"),
    [(transforms.affectnet_train, 0.7, True), (transforms.sfew_train, 0.5, False)],
)
def test_transforms_have_the_releases_values(build, probability, erases):
    resize, flip, apply, normalize, *erase = build().transforms
    (affine,) = apply.transforms
    assert tuple(resize.size) == (224, 224)
    assert (flip.p, apply.p) == (0.5, probability)
    assert tuple(affine.degrees) == (-20, 20)
    assert tuple(affine.translate) == (0.2, 0.2)
    assert tuple(affine.scale) == (0.8, 1.0)
    assert affine.shear is None
    assert isinstance(normalize, transforms.NormalizedTensor)
    assert len(erase) == erases
    if erases:
        assert (erase[0].p, tuple(erase[0].scale)) == (0.5, (0.02, 0.33))
        assert tuple(erase[0].ratio) == (0.3, 3.3)


@pytest.mark.parametrize(
    ("build", "moved", "erased"),
    [(transforms.affectnet_train, 0.7, 0.5), (transforms.sfew_train, 0.5, 0.0)],
)
def test_transforms_move_and_erase_as_often_as_they_say(build, moved, erased):
    """400 draws of a face that is white: the affine transform brings black in, erasing 0."""
    torch.manual_seed(0)
    transform, white = build(32), Image.new("RGB", (32, 32), "white")
    images = torch.stack([transform(white) for _ in range(400)])
    zeros = (images == 0).all(dim=1).flatten(1).any(dim=1)
    black = (images < 0).all(dim=1).flatten(1).any(dim=1)
    assert zeros.float().mean().item() == pytest.approx(erased, abs=0.08)
    # A few moves are too small to show.
    assert moved - 0.15 < black.float().mean().item() < moved + 0.08
