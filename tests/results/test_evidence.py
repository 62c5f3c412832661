"""What a report shows: the worst mistakes, images of all classes, where the heads look."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.batch import Sample
from engine.evaluate import Predictions
from networks import DAN
from networks.attention import map_overlaps, saturation, spatial_maps
from results.evidence import (
    BATCH,
    Attention,
    Mistake,
    attention_of,
    classes_in_turn,
    in_batches,
    worst_mistakes,
)


class Faces:
    """A data set of pictures that know their number."""

    root = Path("/data")

    def __init__(self, labels: list[int]):
        self.labels = labels

    def __getitem__(self, index: int) -> Sample:
        image = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(index))
        return Sample(image, self.labels[index])

    def read_image(self, index: int) -> Image.Image:
        return Image.new("RGB", (4, 4), (index, 0, 0))

    def describe(self, index: int) -> str:
        return f"/data/{index}.jpg"


def test_the_worst_mistakes_are_those_a_loop_finds():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(40, 4, generator=generator)
    labels = torch.randint(4, (40,), generator=generator)
    logits[7] = torch.tensor([0.0, 200.0, 0.0, 400.0])  # probabilities that float32 cannot tell
    logits[8] = torch.tensor([0.0, 250.0, 0.0, 400.0])
    labels[7] = labels[8] = 1
    faces = Faces([0, 0, *labels.tolist()])  # two that were skipped, so all come two later
    found = worst_mistakes(faces, Predictions(logits, labels, list(range(2, 42))), 6)
    rows = []
    for index in range(40):
        p = logits[index].double().log_softmax(0)
        if int(p.argmax()) != int(labels[index]):
            rows.append((float(p[labels[index]]), index))
    expected = [index for _, index in sorted(rows)][:6]
    assert expected[:2] == [7, 8]
    assert [m.source for m in found] == [f"{index + 2}.jpg" for index in expected]
    for mistake, index in zip(found, expected, strict=True):
        assert mistake.image.getpixel((0, 0))[0] == index + 2
        assert mistake.label == labels[index]
        assert mistake.prediction == logits[index].argmax()
        assert sum(mistake.probabilities) == pytest.approx(1)


def test_classes_take_turns():
    labels = [0] * 50 + [1] * 3 + [2] * 10
    chosen = classes_in_turn(labels, 12, seed=4)
    assert [labels[i] for i in chosen] == [0, 1, 2] * 3 + [0, 2, 0]
    assert len(set(chosen)) == 12
    assert classes_in_turn(labels, 12, seed=4) == chosen
    assert classes_in_turn(labels, 12, seed=5) != chosen
    assert sorted(classes_in_turn(labels, 999, seed=0)) == list(range(63))


def test_the_likeliest_others_are_neither_the_label_nor_the_prediction():
    mistake = Mistake(Image.new("RGB", (1, 1)), "x", 1, [0.1, 0.05, 0.5, 0.05, 0.3])
    assert (mistake.prediction, mistake.others) == (2, [4, 0])
    assert mistake._replace(probabilities=[0.6, 0.4]).others == []


def test_batches_are_joined_in_order():
    images = list(torch.arange(2 * BATCH + 1.0).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2))
    sizes = []

    def call(batch):
        sizes.append(len(batch))
        return batch[:, 0, 0, 0] + 1

    found = in_batches(images, torch.device("cpu"), call)
    assert found.tolist() == [i + 1 for i in range(2 * BATCH + 1)]
    assert sizes == [BATCH, BATCH, 1]


def test_attention_is_that_of_each_image():
    torch.manual_seed(0)
    network = DAN(3, 2).eval()
    faces = Faces([0, 1, 2, 0])
    found = attention_of(network, faces, [3, 1], torch.device("cpu"), looks=1)
    maps = spatial_maps(network, torch.stack([faces[3].image, faces[1].image]))
    (look,) = found.looks
    assert (look.label, look.source, look.image.getpixel((0, 0))[0]) == (0, "3.jpg", 3)
    torch.testing.assert_close(torch.from_numpy(look.maps), maps[0])
    expected = map_overlaps(maps).mean(dim=0)
    torch.testing.assert_close(torch.tensor(found.overlaps, dtype=torch.float64), expected)
    assert found.images == 2
    assert found.mean_overlap == pytest.approx(float(expected[0, 1]))
    images = torch.stack([faces[3].image, faces[1].image])
    assert found.saturation == pytest.approx(float(saturation(network, images).mean()))
    assert math.isnan(Attention([], [[1.0]], 2, 0.0).mean_overlap)
    network.fusion = "sum"
    assert attention_of(network, faces, [3], torch.device("cpu"), looks=1).saturation is None
