"""Metrics of a confusion matrix that is written by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from engine.evaluate import Metrics


def metrics_with(counts: Sequence[Sequence[int]]) -> Metrics:
    """The metrics of a split with this confusion matrix (C, C), rows the true classes."""
    table = torch.tensor(counts)
    labels, predictions = table.nonzero().repeat_interleave(table[table > 0], dim=0).T
    return Metrics.of(F.one_hot(predictions, len(table)).float(), labels)
