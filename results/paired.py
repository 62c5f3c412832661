"""Is one method better than another on the same images, or is the difference luck?

`paired_comparison` compares two methods image by image. With one network each, it answers for these
two networks: images are the only sample. With several seeds of a method, it answers for the
methods, whose next training would end elsewhere: images and seeds are both samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap, t

from common.errors import InputError

LEVEL = 0.95
RESAMPLES = 9_999
#: Resampled values that are in memory at a time.
BATCH_VALUES = 5_000_000
#: Variances below are rounding; one image of a million in one seed of ten gives 1e-14.
ROUNDING = 1e-20


@dataclass(frozen=True)
class PairedComparison:
    """Accuracy of a method minus that of another on the same images; fractions, not percent."""

    difference: float
    interval: tuple[float, float]  # at LEVEL
    p_value: float  # two-sided, of no difference
    method: str  # which interval and which test, in words
    images: int
    seeds: tuple[int, int]
    only_a: int  # images that A has right and B wrong, over all pairs of a seed of A and one of B
    only_b: int


IMAGES_ONLY = (
    "percentile bootstrap over images, exact McNemar test; for these networks, not for other seeds"
)
IMAGES_AND_SEEDS = (
    "t interval and test from the variance over images and over seeds (crossed random effects, "
    "Satterthwaite's degrees of freedom)"
)


def paired_comparison(correct_a: np.ndarray, correct_b: np.ndarray) -> PairedComparison:
    """Compare two methods by what they have right: bool, correct_a (A, N) and correct_b (B, N).

    Column i is the same image in both, rows are seeds, whose order and number may differ.

    One seed each: the interval is the percentile bootstrap over images, the test McNemar's, exact
    (binomial on the images that only one of the two has right; p = 1 where there is none).

    Several seeds: seeds and images are crossed random effects, and the variance of the difference
    is that over images of the seeds' mean plus that of the seeds' accuracies, less what both
    contain, the interaction of image and seed; it is not taken below either. The variance between
    seeds is pooled over the two methods, so one of them may have a single seed. Interval and test
    are Student's t with Satterthwaite's degrees of freedom. This is the analysis of readers and
    cases in radiology (Obuchowski & Rockette, 1995; Hillis, 2007) with networks as readers.

    Raises InputError for fewer than two images, no seed, or different numbers of images.
    """
    a, b = (np.atleast_2d(np.asarray(correct, dtype=bool)) for correct in (correct_a, correct_b))
    if a.shape[1] != b.shape[1] or a.shape[1] < 2 or not len(a) or not len(b):
        raise InputError(
            f"a paired comparison of {a.shape[1]} with {b.shape[1]} images, {len(a)} with {len(b)} "
            "seeds; expected the same images, at least 2, and at least 1 seed each"
        )
    single = len(a) == len(b) == 1
    difference = float(a.mean() - b.mean())
    interval, p_value = _one_seed(a[0], b[0]) if single else _several_seeds(a, b)
    return PairedComparison(
        difference=difference,
        interval=interval,
        p_value=p_value,
        method=IMAGES_ONLY if single else IMAGES_AND_SEEDS,
        images=a.shape[1],
        seeds=(len(a), len(b)),
        only_a=int((a.sum(axis=0) * (~b).sum(axis=0)).sum()),
        only_b=int(((~a).sum(axis=0) * b.sum(axis=0)).sum()),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided McNemar test: p of images that one of two networks alone has right."""
    discordant = only_a + only_b
    return float(binomtest(only_a, discordant).pvalue) if discordant else 1.0


def bootstrap_interval(
    values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap intervals of the means over the last axis of values (..., N), N >= 2.

    Low and high ends, each (...).
    """
    made = bootstrap(
        (values,),
        np.mean,
        axis=-1,
        n_resamples=resamples,
        batch=max(1, BATCH_VALUES // values.size),
        confidence_level=LEVEL,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    return made.confidence_interval.low, made.confidence_interval.high


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of a family of tests, corrected by Holm's step-down method, in the same order."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.asarray(p_values, float)[order] * factors)
    return np.minimum(corrected, 1).tolist()


def _one_seed(a: np.ndarray, b: np.ndarray) -> tuple[tuple[float, float], float]:
    """Interval and p value for two networks, a and b (N,)."""
    # Resampling the differences is resampling the images, with both answers to each.
    low, high = bootstrap_interval(a.astype(float) - b)
    return (float(low), float(high)), mcnemar(int((a & ~b).sum()), int((~a & b).sum()))


def _several_seeds(a: np.ndarray, b: np.ndarray) -> tuple[tuple[float, float], float]:
    """Interval and p value for two methods, a (A, N) and b (B, N)."""
    images = a.shape[1]
    by_image = a.mean(axis=0) - b.mean(axis=0)
    difference = by_image.mean()
    over_images = by_image.var(ddof=1) / images
    freedom = len(a) + len(b) - 2
    scale = (1 / len(a) + 1 / len(b)) / freedom
    over_seeds = scale * sum(((m.mean(axis=1) - m.mean()) ** 2).sum() for m in (a, b))
    shared = scale * sum((_interaction(m) ** 2).sum() for m in (a, b)) / (images * (images - 1))
    variance = max(over_images + over_seeds - shared, over_images, over_seeds)
    if variance < ROUNDING:  # every image says the same, as where all are right or all wrong
        p_value = mcnemar(images, 0) if difference else 1.0
        return (float(difference), float(difference)), p_value
    degrees = variance**2 / (over_images**2 / (images - 1) + over_seeds**2 / freedom)
    error = np.sqrt(variance)
    reach = t.ppf((1 + LEVEL) / 2, degrees) * error
    low, high = np.clip((difference - reach, difference + reach), -1, 1)
    return (float(low), float(high)), float(2 * t.sf(abs(difference) / error, degrees))


def _interaction(correct: np.ndarray) -> np.ndarray:
    """What is left of (S, N) without the means of seeds and of images."""
    rows, columns = correct.mean(axis=1, keepdims=True), correct.mean(axis=0, keepdims=True)
    return correct - rows - columns + correct.mean()
