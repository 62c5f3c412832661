"""How far a network's probabilities can be believed, and the temperature that mends them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

BINS = 15
#: Temperatures that are searched.
LOWEST, HIGHEST = 0.05, 20.0


@dataclass(frozen=True)
class Calibration:
    """Errors of probabilities p (N, C) = softmax(logits / temperature) with labels (N,)."""

    temperature: float
    ece: float  # expected calibration error, 0 to 1 (Guo et al., 2017)
    brier: float  # mean over images of the squared distance of p to the one-hot label, 0 to 2
    nll: float  # negative log-likelihood, nats per image
    counts: np.ndarray  # (BINS,) images by their top probability, in ((i - 1) / BINS, i / BINS]
    confidences: np.ndarray  # (BINS,) their mean top probability; nan without images
    accuracies: np.ndarray  # (BINS,) the share of them that is right; nan without images

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Calibration:
        """The errors of logits (N, C) with labels (N,) in 0..C-1; N at least 1."""
        logits = logits.double() / temperature
        p = logits.softmax(dim=1)
        top, predicted = p.max(dim=1)
        right = (predicted == labels).double().numpy()
        # digitize gives the number of inner edges below p.
        bins = np.digitize(top.numpy(), np.arange(1, BINS) / BINS, right=True)
        counts = np.bincount(bins, minlength=BINS)
        with np.errstate(invalid="ignore"):
            confidences = np.bincount(bins, top.numpy(), BINS) / counts
            accuracies = np.bincount(bins, right, BINS) / counts
        gaps = np.abs(accuracies - confidences)
        return cls(
            temperature=temperature,
            ece=float(np.nansum(counts * gaps) / len(labels)),
            brier=float((p - F.one_hot(labels, p.shape[1])).square().sum(dim=1).mean()),
            nll=float(F.cross_entropy(logits, labels)),
            counts=counts,
            confidences=confidences,
            accuracies=accuracies,
        )

    def text(self) -> str:
        """The three numbers in a line."""
        return (
            f"calibration error {100 * self.ece:.2f} % ({BINS} bins), Brier score "
            f"{self.brier:.4f}, negative log-likelihood {self.nll:.4f}"
        )

    def json(self) -> dict[str, Any]:
        """Everything as plain types; None for a bin without images."""
        known = {
            name: [None if np.isnan(value) else value for value in getattr(self, name).tolist()]
            for name in ("confidences", "accuracies")
        }
        errors = {name: getattr(self, name) for name in ("temperature", "ece", "brier", "nll")}
        return {**errors, "counts": self.counts.tolist(), **known}


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature T with the least negative log-likelihood of softmax(logits / T).

    logits (N, C), labels (N,) in 0..C-1, both of images that were not trained on. It changes no
    prediction (Guo et al., 2017, temperature scaling).
    """
    logits = logits.double()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / np.exp(log_temperature), labels))

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
