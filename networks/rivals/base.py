"""What a rival method is: its flags, its network and its criterion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..backbone import load_backbone
from ..dan import ResNet18


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A method beside DAN; a subclass's fields are its flags, named after the `--arch`.

    Network and criterion are as `networks.Method` describes them.
    """

    #: A name in the network's state dict that no other network of this project has; "" where the
    #: network is another one's and only its training differs.
    mark: ClassVar[str] = ""

    @property
    def targets(self) -> tuple[str, ...]:
        """What training needs to know of an image besides its label: keys of datasets.TARGETS."""
        return ()

    def network(self, num_classes: int, image_size: int) -> nn.Module:
        """The network with random weights, for training at `image_size` pixels; the baseline's."""
        return ResNet18(num_classes)

    def criterion(self, num_classes: int) -> nn.Module:
        """The loss."""
        raise NotImplementedError

    def backbone(self, network: nn.Module) -> nn.Module:
        """The part of the network that `--pretrained` fills."""
        return network.features

    def load_pretrained(self, network: nn.Module, pretrained: str) -> None:
        """Fill the backbone as `--pretrained` says; raises InputError where it cannot."""
        load_backbone(self.backbone(network), pretrained)

    def network_like(self, weights: Mapping[str, Tensor], num_classes: int) -> nn.Module:
        """The network that a state dict belongs to; sizes that are no flags come from shapes."""
        return self.network(num_classes, 224)
