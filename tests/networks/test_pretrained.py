"""load_model: a file -> a network that says what it gives and takes; weights by name."""

from __future__ import annotations

import pytest
import torch

from common.errors import InputError
from datasets import DATASETS, RAFDB
from networks import DAN, ResNet18, load_model, pretrained
from networks.pretrained import RELEASED, shipped_weights
from tests.support.patches import save_checkpoint


@pytest.mark.parametrize("kind", [DAN, ResNet18])
def test_a_model_computes_what_was_saved_and_says_what_it_takes(kind, tmp_path):
    network = kind(7)
    path = save_checkpoint(tmp_path / "x.pth", model_state_dict=network.state_dict())
    model = load_model(str(path))
    assert type(model) is kind
    assert not model.training
    assert (model.class_names, model.image_size) == (list(RAFDB.classes), 32)
    assert (model.dataset, model.framing, model.temperature) == ("rafdb", None, 1.0)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images).logits, network.eval()(images).logits)


def test_half_precision_is_read_as_float32(tmp_path):
    network = ResNet18(7).half()
    model = load_model(save_checkpoint(tmp_path / "x.pth", model_state_dict=network.state_dict()))
    assert model.fc.weight.dtype == torch.float32
    assert torch.equal(model.fc.weight, network.fc.weight.float())


@pytest.mark.parametrize("prefix", RELEASED)
def test_a_released_file_has_the_classes_of_its_data_set(prefix, tmp_path):
    dataset, classes = RELEASED[prefix]
    assert classes == DATASETS[dataset].classes
    path = tmp_path / f"{prefix}_epoch5.pth"
    torch.save({"model_state_dict": ResNet18(len(classes)).state_dict()}, path)
    model = load_model(path)
    assert (model.class_names, model.image_size, model.dataset) == ([*classes], 224, dataset)


def test_other_classes_than_the_released_are_numbered(tmp_path):
    path = tmp_path / "rafdb_mine.pth"
    torch.save({"model_state_dict": ResNet18(3).state_dict()}, path)
    assert load_model(path).class_names == ["class 0", "class 1", "class 2"]


def test_weights_by_name_are_found_or_the_message_lists_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    with pytest.raises(InputError, match=r"dan_ferplus are not in .* \(there: none\); give a ch"):
        shipped_weights("dan_ferplus")
    path = save_checkpoint(tmp_path / "dan_ferplus.pth")
    assert shipped_weights("dan_ferplus") == path
    with pytest.raises(InputError, match=r"\(there: dan_ferplus\)"):
        shipped_weights("resnet18_ferplus")
