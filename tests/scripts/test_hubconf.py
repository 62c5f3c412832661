"""hubconf.py by torch.hub, as a program elsewhere calls it."""

from __future__ import annotations

import pytest
import torch

import hubconf
from common.errors import InputError
from networks import DAN, ResNet18, pretrained
from tests.support.patches import save_checkpoint
from tests.support.scripts import ROOT, run_python


def hub(entry, **options):
    return torch.hub.load(str(ROOT), entry, source="local", **options)


def test_the_entry_points_are_the_networks():
    """What torch.hub lists: whatever can be called and has no underscore, imports included."""
    names = [name for name, value in vars(hubconf).items() if callable(value)]
    assert [name for name in names if not name.startswith("_")] == ["dan", "resnet18"]


def test_without_weights_the_networks_are_random_ones():
    torch.manual_seed(3)
    model = hub("dan", weights=None, num_classes=8, num_heads=2)
    torch.manual_seed(3)
    expected = DAN(8, 2).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert hub("resnet18").num_classes == 7


@pytest.mark.slow
def test_weights_are_a_path_or_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    with pytest.raises(InputError, match="dan_ferplus are not in"):
        hub("dan", weights="ferplus")
    path = save_checkpoint(tmp_path / "dan_ferplus.pth", arch=DAN)
    for weights in ("ferplus", str(path), path):
        model = hub("dan", weights=weights)
        assert (model.num_heads, model.image_size, model.training) == (2, 32, False)
    with pytest.raises(InputError, match="holds a DAN; the entry point 'resnet18' is for ResNet18"):
        hub("resnet18", weights=str(path))
    other = save_checkpoint(tmp_path / "x.pth")
    assert type(hub("resnet18", weights=other)) is ResNet18


@pytest.mark.slow
def test_a_program_elsewhere_may_have_its_own_datasets(tmp_path):
    """As a user of Hugging Face's package of that name has."""
    (tmp_path / "datasets.py").write_text("ours = True\n")
    program = (
        "import datasets, torch\n"
        f"model = torch.hub.load({str(ROOT)!r}, 'resnet18', source='local', num_classes=5)\n"
        "print(datasets.ours, model.num_classes)\n"
    )
    result = run_python(program, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "True 5\n"), result.stderr
