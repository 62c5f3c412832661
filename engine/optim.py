"""torch's optimisers and schedules by their own names; torch is imported when one is called."""

from __future__ import annotations

from common.late import Late

SGD = Late("torch.optim", "SGD")
Adam = Late("torch.optim", "Adam")
AdamW = Late("torch.optim", "AdamW")

StepLR = Late("torch.optim.lr_scheduler", "StepLR")
ExponentialLR = Late("torch.optim.lr_scheduler", "ExponentialLR")
CosineAnnealingLR = Late("torch.optim.lr_scheduler", "CosineAnnealingLR")
