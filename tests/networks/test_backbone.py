"""The backbone's weights: every form of file that is read, and what is refused."""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from common.errors import InputError
from networks import DAN, Method, ResNet18, load_backbone, resnet18_backbone
from networks.backbone import MSCELEB, MSCELEB_BYTES, MSCELEB_SHA256
from tests.support.scripts import ROOT

StateDict = dict[str, Tensor]


@pytest.fixture(scope="module")
def pretrained() -> StateDict:
    """A whole torchvision ResNet-18 with the 1000-way classifier of the MS-Celeb-1M file."""
    torch.manual_seed(1)
    network = resnet18(weights=None, num_classes=1000)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            module.num_batches_tracked.fill_(7)
    return network.state_dict()


@pytest.fixture
def backbone() -> nn.Sequential:
    return resnet18_backbone()


def saved(folder: Path, content: object) -> Path:
    path = folder / "weights.pth"
    torch.save(content, path)
    return path


def as_backbone(weights: StateDict) -> list[Tensor]:
    """The backbone's tensors of a torchvision ResNet-18, which come in the same order."""
    return [tensor for name, tensor in weights.items() if not name.startswith("fc.")]


def assert_filled(backbone: nn.Module, weights: StateDict) -> None:
    for ours, theirs in zip(backbone.state_dict().values(), as_backbone(weights), strict=True):
        assert torch.equal(ours, theirs)


def dan_weights(weights: StateDict) -> StateDict:
    """A DAN whose backbone holds the given torchvision weights."""
    network = DAN(7, 2)
    backbone = zip(network.features.state_dict(), as_backbone(weights), strict=True)
    network.features.load_state_dict(dict(backbone))
    return network.state_dict()


def baseline_weights(weights: StateDict) -> StateDict:
    heads = ("cat_head", "bn.")
    return {name: x for name, x in dan_weights(weights).items() if not name.startswith(heads)}


def released_layout(weights: StateDict) -> dict[str, object]:
    momentum = {"momentum_buffer": torch.zeros(8, 512)}
    optimizer = {"state": {152: momentum}, "param_groups": [{"lr": 0.1, "params": [152]}]}
    return {
        "iter": 21,
        "model_state_dict": dan_weights(weights),
        "optimizer_state_dict": optimizer,
    }


FORMS = {
    "MS-Celeb-1M file": lambda weights: {"epoch": 3, "state_dict": weights},
    "bare": lambda weights: weights,
    "DataParallel": lambda weights: {f"module.{name}": x for name, x in weights.items()},
    "DataParallel under state_dict": lambda weights: {
        "state_dict": {f"module.{name}": x for name, x in weights.items()}
    },
    "no classifier": lambda weights: {n: x for n, x in weights.items() if n[:3] != "fc."},
    "release": released_layout,
    "our baseline": lambda weights: {
        "model_state_dict": baseline_weights(weights),
        "class_names": ["a", "b"],
    },
    "another float type": lambda weights: {
        name: x.double() if x.is_floating_point() else x for name, x in weights.items()
    },
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_file_fills_the_backbone(form, pretrained, backbone, tmp_path):
    load_backbone(backbone, saved(tmp_path, form(pretrained)))
    assert_filled(backbone, pretrained)


def test_a_filled_backbone_computes_torchvisions_features(pretrained, backbone, tmp_path):
    load_backbone(backbone, str(saved(tmp_path, {"state_dict": pretrained})))
    whole = resnet18(weights=None)
    whole.load_state_dict(pretrained)
    whole.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, ours = whole.eval()(images), backbone.eval()(images).mean(dim=(2, 3))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("network", [ResNet18(7), DAN(7, 1)], ids=["resnet18", "dan"])
def test_a_checkpoint_of_ours_gives_its_backbone(network, backbone, tmp_path):
    load_backbone(backbone, saved(tmp_path, {"model_state_dict": network.state_dict()}))
    expected = network.features.state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in backbone.state_dict().items())


def test_missing_batch_counters_are_allowed(pretrained, backbone, tmp_path):
    """Files from before torch 0.4.1 have none."""
    old = {n: x for n, x in pretrained.items() if not n.endswith("num_batches_tracked")}
    load_backbone(backbone, saved(tmp_path, {"state_dict": old}))
    reset = {n: torch.zeros_like(x) if n not in old else x for n, x in pretrained.items()}
    assert_filled(backbone, reset)


def test_none_leaves_the_weights_untouched(backbone):
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    load_backbone(backbone, "none")
    assert all(torch.equal(x, before[name]) for name, x in backbone.state_dict().items())


def test_imagenet_takes_torchvisions_weights(pretrained, backbone, monkeypatch):
    asked = []
    monkeypatch.setattr(
        ResNet18_Weights, "get_state_dict", lambda self, **_: asked.append(self) or pretrained
    )
    load_backbone(backbone, "imagenet")
    assert asked == [ResNet18_Weights.IMAGENET1K_V1]
    assert_filled(backbone, pretrained)


def failing(error: Exception) -> Callable:
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        OSError("no route to host"),
        pytest.param(
            RuntimeError('invalid hash value (expected "f37072fd", got "00")'),
        ),
    ],
    ids=["offline", "damaged"],
)
def test_imagenet_without_a_download_says_what_to_do(error, backbone, monkeypatch):
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", failing(error))
    with pytest.raises(InputError, match=r"resnet18-f37072fd\.pth.*--pretrained none"):
        load_backbone(backbone, "imagenet")


# ---- which file it is


def named_as_msceleb(folder: Path, weights: StateDict) -> tuple[Path, str]:
    """A file with the name of the paper's, and its sha256."""
    path = saved(folder, {"state_dict": weights}).rename(folder / "resnet18_msceleb.pth")
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_known_file_is_named(pretrained, backbone, tmp_path, monkeypatch, capsys):
    path, digest = named_as_msceleb(tmp_path, pretrained)
    monkeypatch.setattr("networks.backbone.MSCELEB_SHA256", digest)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_backbone(backbone, path)
    assert capsys.readouterr().out == (
        f"{path} is the known MS-Celeb-1M file (sha256 {digest[:8]}...)\n"
    )


def test_another_file_of_that_name_is_told(pretrained, backbone, tmp_path, capsys):
    path, digest = named_as_msceleb(tmp_path, pretrained)
    size = f"{path.stat().st_size:,} bytes"
    with pytest.warns(UserWarning, match="is not the known MS-Celeb-1M file") as told:
        load_backbone(backbone, path)
    (message,) = (str(warning.message) for warning in told)
    for part in (str(path), digest, size, MSCELEB_SHA256, "181,511,212 bytes"):
        assert part in message
    assert capsys.readouterr().out == ""
    assert_filled(backbone, pretrained)


def test_nothing_is_said_of_a_file_with_another_name(pretrained, backbone, tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_backbone(backbone, saved(tmp_path, {"state_dict": pretrained}))
    assert capsys.readouterr().out == ""


def test_the_readme_pins_the_same_file():
    text = (ROOT / "models/pretrain/README.md").read_text()
    assert MSCELEB_SHA256 in text
    assert f"{MSCELEB_BYTES:,} bytes" in text


# ---- refused


def without(weights: StateDict, name: str) -> StateDict:
    return {key: x for key, x in weights.items() if key != name}


WRONG = {
    "missing tensor": (
        lambda weights: without(weights, "layer3.0.conv2.weight"),
        r"1 tensors are missing, the first is 6\.0\.conv2\.weight of the backbone",
    ),
    "missing statistics": (
        lambda weights: without(weights, "bn1.running_mean"),
        r"missing, the first is 1\.running_mean",
    ),
    "extra tensor of a layer": (
        lambda weights: weights | {"layer1.2.conv1.weight": torch.zeros(1)},
        r"unknown, the first is 4\.2\.conv1\.weight",
    ),
    "foreign name": (
        lambda weights: weights | {"layer5.0.weight": torch.zeros(1)},
        r"1 names do not belong to it, the first is layer5\.0\.weight",
    ),
    "a classifier that is not torchvision's": (
        lambda weights: weights | {"fc.0.weight": torch.zeros(1)},
        r"the first is fc\.0\.weight",
    ),
    "wrong shape": (
        lambda weights: weights | {"conv1.weight": torch.zeros(64, 1, 7, 7)},
        r"of another shape or type, the first is 0\.weight",
    ),
    "foreign name in a checkpoint": (
        lambda weights: dan_weights(weights) | {"decoder.weight": torch.zeros(1)},
        r"1 names do not belong to it, the first is decoder\.weight",
    ),
    "missing tensor in a checkpoint": (
        lambda weights: without(dan_weights(weights), "features.5.0.bn2.bias"),
        r"missing, the first is 5\.0\.bn2\.bias",
    ),
    "no tensors": (lambda weights: {"epoch": 3}, "hold no tensors; expected a ResNet-18"),
}


@pytest.mark.parametrize(("form", "message"), WRONG.values(), ids=WRONG)
def test_weights_that_do_not_fit_are_refused_and_named(
    form, message, pretrained, backbone, tmp_path
):
    path = saved(tmp_path, form(pretrained))
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(InputError, match=message) as refusal:
        load_backbone(backbone, path)
    assert str(path) in str(refusal.value)
    assert all(torch.equal(x, before[name]) for name, x in backbone.state_dict().items())


def test_a_missing_file_says_where_to_get_it_and_what_else_there_is(backbone, tmp_path):
    path = tmp_path / "resnet18_msceleb.pth"
    with pytest.raises(InputError) as refusal:
        load_backbone(backbone, path)
    message = str(refusal.value)
    for part in (
        str(path),
        "MS-Celeb-1M",
        "the paper's numbers need",
        MSCELEB,
        "models/pretrain/README.md",
        "--pretrained imagenet",
        "--pretrained none",
    ):
        assert part in message
    assert "\n" not in message


def test_the_default_of_the_method_is_the_papers_file(tmp_path, monkeypatch):
    assert Method().pretrained == MSCELEB == "models/pretrain/resnet18_msceleb.pth"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="MS-Celeb-1M"):
        Method().network(7)


@pytest.mark.parametrize("arch", ["dan", "resnet18"])
def test_the_method_fills_the_backbone_of_its_network(arch, pretrained, tmp_path):
    path = saved(tmp_path, {"state_dict": pretrained})
    network = Method(arch=arch, pretrained=str(path), heads=1).network(8)
    assert isinstance(network, DAN if arch == "dan" else ResNet18)
    assert network.num_classes == 8
    assert_filled(network.features, pretrained)


# ---- damaged and hostile files


class Hostile:
    """Unpickled without care, this makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_that_would_run_code_is_refused_unrun(zipped, pretrained, backbone, tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    content = {"state_dict": pretrained, "extra": Hostile(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="could run code"):
        load_backbone(backbone, path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the file is harmless, so this test shows nothing"


def test_a_plain_pickle_is_refused_unrun(backbone, tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Hostile(trace), protocol=2))
    with pytest.raises(InputError, match=str(path)):
        load_backbone(backbone, path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "zipped",
    [
        True,
        pytest.param(
            False,
        ),
    ],
    ids=["zip", "legacy"],
)
def test_a_truncated_file_is_refused_wherever_it_ends(zipped, backbone, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {"a": torch.ones(9)}}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=str(path)):
            load_backbone(backbone, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a torch file"),
        (b"<html>404 not found</html>", "not a torch file"),
    ],
    ids=["empty", "web page"],
)
def test_something_else_is_refused(content, message, backbone, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_backbone(backbone, path)


def test_a_list_is_no_state_dict(backbone, tmp_path):
    with pytest.raises(InputError, match="holds a list; expected a dict of tensors"):
        load_backbone(backbone, saved(tmp_path, [torch.zeros(1)]))
