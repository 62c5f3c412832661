"""What all rivals share: flags, checkpoints, soft labels, training and resuming."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from common.errors import InputError
from common.flags import settings
from networks import Method, network_for
from networks.rivals import RIVALS
from tests.support.scripts import (
    assert_same_run,
    batch_of,
    load,
    small_recipe,
    train_tiny,
    train_until,
    write_rafdb,
)
from train_rafdb import RECIPE

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")

LIKE_ISLAND = ("center", "dda")  # the same network, and centers moved by the same code
#: Flags that make a rival do all it does within two epochs.
QUICK = {
    "scn": ("--scn-relabel-epoch", 1, "--scn-margin2", 0),
    # Checkpoints of the whole network are half a gigabyte; that it trains is tested elsewhere.
    "feratt": ("--feratt", "preactresnet18"),
}
#: Targets of a batch of 4 images of 64 pixels, without which a part of a network is not trained.
TARGETS = {
    "feratt": {"mask": torch.ones(4, 1, 64, 64), "clean": torch.ones(4, 3, 64, 64)},
    "phanet": {"yaw": torch.tensor([-60.0, 0.0, 20.0, 80.0])},
}


def method_of(arch: str) -> Method:
    return Method(arch=arch, pretrained="none")


@pytest.mark.parametrize("arch", RIVALS)
def test_a_flag_of_another_arch_is_refused_by_name(arch):
    for field in dataclasses.fields(RIVALS[arch]):
        name = "--" + field.name.replace("_", "-")
        choices = field.metadata["choices"]
        if choices:
            value = next(choice for choice in choices if choice != field.default)
        else:
            value = "10,50" if isinstance(field.default, str) else field.default / 2
        flags = RIVALS[arch](**{field.name: value})
        Method(arch=arch, **{arch: flags})
        for other in {"dan", "resnet18", *RIVALS} - {arch}:
            with pytest.raises(InputError, match=f"{name} {value} is a flag of --arch {arch}; the"):
                Method(arch=other, **{arch: flags})


@pytest.mark.parametrize("arch", RIVALS)
def test_dans_flags_are_refused_by_name(arch):
    with pytest.raises(InputError, match="--heads 2 is a flag of --arch dan"):
        Method(arch=arch, heads=2)
    with pytest.raises(InputError, match="--fcn-loss none is a flag of --arch dan"):
        Method(arch=arch, fcn_loss="none")


@pytest.mark.parametrize("arch", ["dan", "resnet18", *RIVALS])
def test_the_backbone_is_a_resnet_and_the_classifier_is_not_of_it(arch):
    method = method_of(arch)
    network = method.network(3, image_size=32)
    backbone = set(method.backbone(network).parameters())
    # Convolutions and batch norms: 20 of each in a ResNet-18, FERAtt's ResNet-34 has 36.
    assert len(backbone) == (108 if arch == "feratt" else 60)
    assert backbone < set(network.parameters())
    assert not backbone & set(network.fc.parameters())


def test_without_attention_feratt_has_no_backbone(data, tmp_path):
    flags = ("--arch", "feratt", *QUICK["feratt"], "--backbone-lr", 0.1)
    last = train_tiny(data, tmp_path, *flags, recipe=RECIPE)
    assert [len(group["params"]) > 0 for group in last["optimizer_state_dict"]["param_groups"]] == [
        True,
        False,
    ]


@pytest.mark.parametrize("arch", RIVALS)
def test_a_checkpoints_network_is_rebuilt_from_weights_and_settings(arch):
    torch.manual_seed(0)
    method = method_of(arch)
    network = method.network(3, image_size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images).logits
        for given in (settings(method), {}):
            found = network_for(network.state_dict(), given).eval()
            assert torch.equal(found(images).logits, expected)
            assert found.num_classes == 3
    rebuilt = network_for(network.state_dict(), settings(method))
    assert type(rebuilt) is type(network)


@pytest.mark.parametrize("arch", RIVALS)
def test_weights_or_settings_of_another_arch_are_refused(arch):
    dans = Method(pretrained="none", heads=1).network(3).state_dict()
    with pytest.raises(InputError, match=r"the weights (lack|hold|have)"):
        network_for(dans, {"arch": arch})
    for field in dataclasses.fields(RIVALS[arch]):
        with pytest.raises(InputError, match=f"the setting {field.name} is"):
            network_for(dans, {"arch": arch, field.name: [1]})


def test_an_unknown_arch_is_refused():
    with pytest.raises(InputError, match="--arch vit; known are dan, resnet18"):
        network_for(Method(pretrained="none", heads=1).network(3).state_dict(), {"arch": "vit"})


@pytest.mark.slow
@pytest.mark.parametrize("arch", [arch for arch in RIVALS if arch not in LIKE_ISLAND])
def test_two_epochs_are_bitwise_the_same_with_and_without_a_break(arch, tmp_path):
    recipe = dataclasses.replace(RECIPE, method=Method())
    data = write_rafdb(tmp_path / "data", train=20, test=7)
    flags = ("--arch", arch, "--epochs", 2, *QUICK.get(arch, ()))
    train_tiny(data, tmp_path / "whole", *flags, recipe=recipe)
    train_until(small_recipe(data, tmp_path / "broken", *flags, recipe=recipe), epochs=1)
    assert load(tmp_path / "broken/last.pth")["iter"] == 1
    train_tiny(data, tmp_path / "broken", *flags, "--resume", recipe=recipe)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    if arch == "scn":
        changed = load(tmp_path / "whole/last.pth")["criterion_state_dict"]["_extra_state"]
        assert len(json.loads(changed)) > 0


@pytest.mark.parametrize("arch", ["dan", "resnet18", *RIVALS])
def test_under_autocast_every_network_classifies_in_float32(arch):
    """Else the one whose logits are rounded to 8 bits is compared with others that are not."""
    network = method_of(arch).network(3, image_size=32).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        output = network(torch.rand(2, 3, 32, 32))._asdict()
    for name in output.keys() & {"logits", "pose_logits", "scale_logits", "embedding"}:
        assert output[name].dtype == torch.float32, name
        assert not torch.equal(output[name], output[name].bfloat16().float()), name


@pytest.mark.parametrize("arch", RIVALS)
def test_every_parameter_gets_a_gradient_and_soft_labels_count(arch):
    torch.manual_seed(0)
    method = method_of(arch)
    network, criterion = method.network(3, image_size=64).train(), method.criterion(3).train()
    labels = torch.tensor([0, 1, 2, 0])
    images = torch.randn(4, 3, 64, 64)
    output = network(images)
    loss = criterion(output, batch_of(labels, images, **TARGETS.get(arch, {})))
    loss.total.backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    soft = torch.full((4, 3), 1 / 3)
    targets = {"soft_labels": soft, **TARGETS.get(arch, {})}
    softly = criterion(output, batch_of(labels, images, **targets))
    expected = -(output.logits.log_softmax(dim=1).mean(dim=1)).mean()
    torch.testing.assert_close(softly.terms["cls"], expected)
