"""tools.export: files that other programs run, with the same logits."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from common.errors import InputError
from common.flags import settings
from datasets.transforms import MEAN, STD
from networks import DAN, Method
from networks.rivals import RIVALS
from tests.networks.rivals.test_common import LIKE_ISLAND
from tools import export

pytestmark = pytest.mark.slow

NAMES = ["Surprise", "Fear", "Disgust"]
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in export.NEEDED),
    reason="the packages of requirements-export.txt are not installed",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, DAN]:
    torch.manual_seed(0)
    network = DAN(3, 2).eval()
    path = tmp_path_factory.mktemp("trained") / "last.pth"
    content = {"model_state_dict": network.state_dict(), "class_names": NAMES}
    torch.save({**content, "settings": {"image_size": 32}}, path)
    return path, network


def assert_close(found: torch.Tensor, network: DAN, images: torch.Tensor) -> None:
    with torch.no_grad():
        expected = network(images).logits
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def check_about(about: dict[str, str]) -> None:
    assert json.loads(about["classes"]) == NAMES
    assert json.loads(about["mean"]) == list(MEAN)
    assert json.loads(about["std"]) == list(STD)
    assert about["image_size"] == "32"


@pytest.mark.slow
def test_an_exported_program_has_the_networks_logits(trained, tmp_path, capsys):
    path, network = trained
    export.main([str(path), str(tmp_path / "x.pt2")])
    assert "read back, its logits differ by" in capsys.readouterr().out
    extra = {"about.json": ""}
    loaded = torch.export.load(str(tmp_path / "x.pt2"), extra_files=extra).module()
    check_about(json.loads(extra["about.json"]))
    for batch in (1, 5):
        images = torch.randn(batch, 3, 32, 32)
        assert_close(loaded(images), network, images)


@pytest.mark.parametrize("arch", [arch for arch in RIVALS if arch not in LIKE_ISLAND])
def test_every_rival_is_exported(arch, tmp_path):
    method = Method(arch=arch, pretrained="none")
    network = method.network(3, 32).eval()
    content = {"model_state_dict": network.state_dict(), "class_names": NAMES}
    torch.save({**content, "settings": {**settings(method), "image_size": 32}}, tmp_path / "x.pth")
    export.main([str(tmp_path / "x.pth"), str(tmp_path / "x.pt2")])
    loaded = torch.export.load(str(tmp_path / "x.pt2")).module()
    assert_close(loaded(images := torch.randn(2, 3, 32, 32)), network, images)


def test_a_released_file_gives_the_names_of_its_data_set(tmp_path, capsys):
    path = tmp_path / "affecnet8_epoch5_acc0.6209.pth"
    torch.save({"model_state_dict": DAN(8, 1).state_dict()}, path)
    export.main([str(path), str(tmp_path / "x.pt2"), "--image-size", "32"])
    assert '"Neutral", "Happy", "Sad"' in capsys.readouterr().out


@pytest.mark.parametrize("size", ["abc", 0, 3.5])
def test_an_image_size_that_is_none_is_refused(trained, tmp_path, size):
    content = torch.load(trained[0], weights_only=True)
    torch.save({**content, "settings": {"image_size": size}}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match="its image_size is"):
        export.main([str(tmp_path / "bad.pth"), str(tmp_path / "x.pt2")])
    assert not (tmp_path / "x.pt2").exists()


@pytest.mark.slow
@needs_onnx
def test_onnx_has_the_networks_logits(trained, tmp_path):
    onnx = pytest.importorskip("onnx")
    path, network = trained
    export.main([str(path), str(tmp_path / "x.onnx")])
    model = onnx.load(tmp_path / "x.onnx")
    check_about({entry.key: entry.value for entry in model.metadata_props})
    for batch in (1, 5):
        images = torch.randn(batch, 3, 32, 32)
        assert_close(export.run_onnx(tmp_path / "x.onnx", images), network, images)


def test_other_logits_are_refused():
    with pytest.raises(InputError, match="do not use it"):
        export.compare(lambda x: x, torch.ones(3, 4), lambda x: x + 1e-3)


def test_bad_flags_and_missing_packages_are_refused(trained, tmp_path, monkeypatch):
    path, _ = trained
    with pytest.raises(InputError, match=r"ends in \.onnx or \.pt2"):
        export.main([str(path), str(tmp_path / "x.pb")])
    monkeypatch.setattr(export, "NEEDED", ("nowhere_to_be_found",))
    with pytest.raises(InputError, match=r"needs nowhere_to_be_found: .*requirements-export"):
        export.main([str(path), str(tmp_path / "x.onnx")])
    assert list(tmp_path.iterdir()) == []
