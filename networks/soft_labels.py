"""Labels as distributions over the classes: label smoothing and mixup of a training batch."""

from __future__ import annotations

import dataclasses

from torch.distributions import Beta
from torch.nn import functional as F

from common.batch import Batch
from common.errors import InputError


def with_soft_labels(
    batch: Batch, num_classes: int, *, label_smoothing: float = 0.0, mixup: float = 0.0
) -> Batch:
    """The batch with smoothed labels and mixed images; the batch itself where both are 0.

    The distributions t (B, C) are the target "soft_labels", by default the labels as one-hot
    vectors. Smoothing by e (Szegedy et al., 2016):

        t_i <- (1 - e) t_i + e / C

    Mixup with alpha a (Zhang et al., 2018), for each batch l = max(b, 1 - b) with b ~ Beta(a, a)
    from torch's CPU generator, and j the image before i (a training batch is shuffled):

        x_i <- l x_i + (1 - l) x_j,    t_i <- l t_i + (1 - l) t_j

    As l is at least 1/2, an image keeps the larger share, so its label stays right for losses that
    need one, such as those on class centers.

    Raises InputError where images with other targets, such as masks, should be mixed.
    """
    if not (label_smoothing or mixup):
        return batch
    images, soft = batch.images, batch.targets.get("soft_labels")
    if soft is None:
        soft = F.one_hot(batch.labels, num_classes).to(images.dtype)
    soft = (1 - label_smoothing) * soft + label_smoothing / num_classes
    if mixup:
        if others := sorted(batch.targets.keys() - {"soft_labels"}):
            raise InputError(f"--mixup cannot mix the targets {', '.join(others)}; leave it out")
        share = Beta(mixup, mixup).sample().item()
        share = max(share, 1 - share)
        images, soft = (share * x + (1 - share) * x.roll(1, 0) for x in (images, soft))
    targets = {**batch.targets, "soft_labels": soft}
    return dataclasses.replace(batch, images=images, targets=targets)
