"""What the paper draws: the network, its trunk, its losses."""

from .backbone import load_trunk, resnet18_trunk
from .dan import DAN, DANOutput, ResNet18
from .fuse import fuse
from .losses import AffinityLoss, CenterLoss, DANLoss, LossTerms, PartitionLoss
from .method import Method, network_for

__all__ = [
    "DAN",
    "AffinityLoss",
    "CenterLoss",
    "DANLoss",
    "DANOutput",
    "LossTerms",
    "Method",
    "PartitionLoss",
    "ResNet18",
    "fuse",
    "load_trunk",
    "network_for",
    "resnet18_trunk",
]
