"""What the paper draws: the network, its trunk, its losses."""

from common.late import late_names

__all__, __getattr__ = late_names(
    __name__,
    {
        "backbone": ("load_trunk", "resnet18_trunk"),
        "dan": ("DAN", "DANOutput", "ResNet18"),
        "fused": ("fuse",),
        "inference": ("inference_network",),
        "losses": ("AffinityLoss", "CenterLoss", "DANLoss", "LossTerms", "PartitionLoss"),
        "method": ("Method", "network_for"),
        "packed": ("pack",),
    },
)
