"""What the paper draws: the network, its trunk, its losses."""

from .backbone import load_trunk, resnet18_trunk
from .dan import DAN, DANOutput, ResNet18
from .fuse import fuse
from .losses import AffinityLoss, LossTerms, PartitionLoss, UnifiedLoss
from .method import Method, network_for

__all__ = [
    "DAN",
    "AffinityLoss",
    "DANOutput",
    "LossTerms",
    "Method",
    "PartitionLoss",
    "ResNet18",
    "UnifiedLoss",
    "fuse",
    "load_trunk",
    "network_for",
    "resnet18_trunk",
]
