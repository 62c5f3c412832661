"""The paper's network, its backbone and its losses."""

from .backbone import load_backbone, resnet18_backbone
from .dan import DAN, DANOutput, ResNet18
from .fused import fuse
from .losses import AffinityLoss, CenterLoss, DANLoss, LossTerms, PartitionLoss
from .method import Method, network_for
from .packed import fast_network, pack
from .pretrained import load_model
from .small_maps import products_on_small_maps

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
    "fast_network",
    "fuse",
    "load_backbone",
    "load_model",
    "network_for",
    "pack",
    "products_on_small_maps",
    "resnet18_backbone",
]
