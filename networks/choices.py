"""What flags choose from; apart from the networks, so that `--help` needs no torch."""

#: The paper's trunk weights, where `--pretrained` looks for them.
MSCELEB = "models/pretrain/resnet18_msceleb.pth"
#: Losses on the FCN's features (Table 1).
FCN_LOSSES = ("affinity", "center", "none")
#: Readings of Equation 6.
PARTITION_FORMS = ("eq6", "released")
# Weight of the center loss. Its value is the affinity loss's times the variance among the
# centres, which is 512 at the start: 0.002 gives both the same pull on the features then.
CENTER_WEIGHT = 0.002
