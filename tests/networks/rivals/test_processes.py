"""Rivals in two processes: gradients, centers and new labels are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.distributed import World, join_processes, wrap_ddp
from networks import Method
from networks.rivals.scn import SCNFlags
from tests.support.processes import processes
from tests.support.scripts import batch_of, load

#: Those whose step does more than differentiate a mean over the images.
ARCHS = ("dacl", "eac", "scn", "island", "dda")
IMAGES = 7  # of two processes one takes 3, the other 4
#: Without the rank loss, whose groups are those of a process's share.
SCN = SCNFlags(scn_form="released", scn_margin1=0.0, scn_margin2=0.0)


def step(arch: str, world: World) -> dict[str, Any]:
    """One training step's gradients and the criterion's state, for this process's share."""
    torch.manual_seed(0)
    method = Method(arch=arch, pretrained="none", scn=SCN if arch == "scn" else SCNFlags())
    network, criterion = method.network(3, 32).double(), method.criterion(3).double()
    criterion.epoch = 10
    for module in network.modules():
        # Batch statistics would be those of each share on a CPU.
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.train = lambda mode=True: None
            module.training = False
    images, labels = torch.randn(IMAGES, 3, 32, 32).double(), torch.randint(3, (IMAGES,))
    part = torch.tensor(list(world.share(IMAGES)))
    batch = type(batch_of(labels))(images[part], labels[part], part)
    ddp_network, ddp_criterion = wrap_ddp(network.train(), criterion.train(), world)
    ddp_criterion(ddp_network(batch.images), batch).total.backward()
    return {
        **{name: parameter.grad for name, parameter in network.named_parameters()},
        "centers": getattr(criterion, "centers", None),
        "changed": dict(sorted(getattr(criterion, "changed", {}).items())),
    }


def write_steps(target: Path) -> None:
    with join_processes("cpu") as world:
        found = {arch: step(arch, world) for arch in ARCHS}
        torch.save(found, target / f"{world.rank}.pth")


@pytest.mark.slow
def test_a_step_is_that_of_one_process(tmp_path):
    with processes([lambda: write_steps(tmp_path)] * 2) as started:
        errors = [process.communicate()[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    first, second = load(tmp_path / "0.pth"), load(tmp_path / "1.pth")
    for arch in ARCHS:
        expected = step(arch, World())
        assert expected["changed"] or arch != "scn"
        for found in (first, second):
            assert found[arch].pop("changed") == expected["changed"]
            torch.testing.assert_close(
                found[arch],
                {name: value for name, value in expected.items() if name != "changed"},
                rtol=1e-9,
                atol=1e-12,
            )
