"""Paired comparisons against explicit loops, closed forms and simulated networks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm, ttest_ind

from common.errors import InputError
from results.paired import (
    IMAGES_AND_SEEDS,
    IMAGES_ONLY,
    bootstrap_interval,
    holm,
    mcnemar,
    paired_comparison,
)


def networks(
    rng: np.random.Generator, seeds: int, faces: np.ndarray, skill: float, seed_deviation: float
) -> np.ndarray:
    """Right or wrong (seeds, N): skill, the face, the method on the face, the seed, and luck."""
    own = 0.6 * rng.normal(size=faces.shape)
    luck = 0.7 * rng.normal(size=(seeds, *faces.shape))
    return skill + faces + own + seed_deviation * rng.normal(size=(seeds, 1)) + luck > 0


def true_accuracy(skill: float, seed_deviation: float) -> float:
    """The accuracy of `networks` over all faces and seeds."""
    return float(norm.cdf(skill / math.sqrt(1 + 0.6**2 + 0.7**2 + seed_deviation**2)))


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 5), (3, 9), (7, 7), (12, 1), (1, 0)])
def test_mcnemar_is_the_sum_over_the_outcomes_that_are_no_likelier(only_a, only_b):
    pairs = only_a + only_b
    chances = [math.comb(pairs, k) / 2**pairs for k in range(pairs + 1)]
    expected = sum(chance for chance in chances if chance <= chances[only_a])
    assert mcnemar(only_a, only_b) == pytest.approx(expected)


def test_one_seed_each_is_mcnemars_test_on_the_images_that_one_alone_has_right():
    a = np.array([1, 1, 1, 1, 0, 0, 1, 1, 0, 1], bool)
    b = np.array([1, 0, 0, 0, 0, 1, 1, 0, 0, 0], bool)
    found = paired_comparison(a, b)
    assert (found.only_a, found.only_b) == (5, 1)
    assert found.difference == pytest.approx(0.4)
    assert found.p_value == pytest.approx(14 / 64)  # of six tosses, at most one or at least five
    assert found.interval[0] < 0.4 < found.interval[1]
    assert (found.images, found.seeds, found.method) == (10, (1, 1), IMAGES_ONLY)
    turned = paired_comparison(b, a)
    assert turned.difference == pytest.approx(-0.4)
    assert turned.p_value == found.p_value
    assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_the_bootstrap_interval_is_that_of_a_loop_over_resamples():
    rng = np.random.default_rng(3)
    values = rng.choice([-1.0, 0.0, 1.0], 250, p=[0.1, 0.7, 0.2])
    means = [values[rng.integers(0, 250, 250)].mean() for _ in range(9_999)]
    low, high = bootstrap_interval(values)
    assert (low, high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.006)
    assert bootstrap_interval(values) == (low, high)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_is_no_difference(seeds, right):
    correct = np.full((seeds, 20), right)
    found = paired_comparison(correct, correct)
    assert (found.difference, found.interval, found.p_value) == (0, (0, 0), 1)
    assert (found.only_a, found.only_b) == (0, 0)


@pytest.mark.parametrize("seeds", [1, 3])
def test_all_right_against_all_wrong_is_a_sign_test_over_images(seeds):
    found = paired_comparison(np.ones((seeds, 10), bool), np.zeros((seeds, 10), bool))
    assert (found.difference, found.interval) == (1, (1, 1))
    assert found.p_value == pytest.approx(2 / 2**10)


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_a_method_against_itself_is_no_difference(seeds):
    rng = np.random.default_rng(seeds)
    correct = networks(rng, seeds, rng.normal(size=300), 0.5, 0.1)
    found = paired_comparison(correct, correct)
    assert (found.difference, found.p_value) == (0, 1)


def test_the_variance_over_seeds_and_images_is_that_of_explicit_loops():
    """Mean squares by loops: over images, over seeds, and of the interaction, which is in both."""
    rng = np.random.default_rng(0)
    faces = rng.normal(size=40)
    a, b = networks(rng, 3, faces, 0.9, 0.3), networks(rng, 2, faces, 0.5, 0.3)
    found = paired_comparison(a, b)
    images, freedom = 40, 3
    gaps = [a[:, i].mean() - b[:, i].mean() for i in range(images)]
    mean_gap = sum(gaps) / images
    over_images = sum((gap - mean_gap) ** 2 for gap in gaps) / (images - 1) / images
    seeds = residuals = 0.0
    for method in (a, b):
        for s, i in itertools.product(range(len(method)), range(images)):
            expected = method[s].mean() + method[:, i].mean() - method.mean()
            residuals += (method[s, i] - expected) ** 2
        seeds += sum((method[s].mean() - method.mean()) ** 2 for s in range(len(method)))
    over_seeds = seeds / freedom * (1 / 3 + 1 / 2)
    shared = residuals / (freedom * (images - 1)) * (1 / 3 + 1 / 2) / images
    variance = max(over_images + over_seeds - shared, over_images, over_seeds)
    low, high = found.interval
    assert found.difference == pytest.approx(mean_gap)
    assert (low + high) / 2 == pytest.approx(mean_gap)
    # The reach in standard errors is a quantile of Student's t: above the normal one.
    degrees = variance**2 / (over_images**2 / (images - 1) + over_seeds**2 / freedom)
    assert 3 < degrees < images
    assert 1.96 < (high - low) / 2 / math.sqrt(variance) < 3.19  # t with 3 degrees of freedom
    assert found.method == IMAGES_AND_SEEDS


def test_where_seeds_differ_far_more_than_images_it_is_the_t_test_of_their_accuracies():
    """Each network has the same answer to every image but one or so."""
    a, b = np.zeros((4, 2_000), bool), np.zeros((4, 2_000), bool)
    for i, (share_a, share_b) in enumerate([(900, 300), (1400, 700), (1900, 1000), (1600, 500)]):
        a[i, np.random.default_rng(i).permutation(2_000)[:share_a]] = True
        b[i, np.random.default_rng(9 + i).permutation(2_000)[:share_b]] = True
    found = paired_comparison(a, b)
    expected = ttest_ind(a.mean(axis=1), b.mean(axis=1)).pvalue
    assert found.p_value == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("seeds_a", "seeds_b"), [(1, 3), (3, 1), (2, 5)])
def test_the_methods_may_have_different_numbers_of_seeds(seeds_a, seeds_b):
    rng = np.random.default_rng(5)
    faces = rng.normal(size=200)
    a, b = networks(rng, seeds_a, faces, 1.2, 0.05), networks(rng, seeds_b, faces, 0.1, 0.05)
    found = paired_comparison(a, b)
    assert found.seeds == (seeds_a, seeds_b)
    assert found.p_value < 0.01
    assert 0 < found.interval[0] < found.difference < found.interval[1] < 1


def test_95_percent_intervals_of_two_networks_cover_the_truth_as_often():
    rng = np.random.default_rng(0)
    faces = rng.normal(size=(1_000, 300))
    a, b = (networks(rng, 1, faces, skill, 0.0)[0].astype(float) for skill in (0.7, 0.5))
    low, high = bootstrap_interval(a - b, resamples=999)
    truth = true_accuracy(0.7, 0) - true_accuracy(0.5, 0)
    assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.97


@pytest.mark.parametrize("seed_deviation", [0.02, 0.1])
def test_95_percent_intervals_of_methods_cover_the_truth_as_often(seed_deviation):
    rng = np.random.default_rng(1)
    truth = true_accuracy(0.7, seed_deviation) - true_accuracy(0.5, seed_deviation)
    covered = 0
    for _ in range(1_000):
        faces = rng.normal(size=500)
        made = [networks(rng, 3, faces, skill, seed_deviation) for skill in (0.7, 0.5)]
        low, high = paired_comparison(*made).interval
        covered += low <= truth <= high
    assert 930 <= covered <= 970


def test_without_a_difference_few_p_values_are_small():
    rng = np.random.default_rng(2)
    small = 0
    for _ in range(1_000):
        faces = rng.normal(size=200)
        made = [networks(rng, 3, faces, 0.6, 0.1) for _ in range(2)]
        small += paired_comparison(*made).p_value < 0.05
    assert 30 <= small <= 70


def test_holm_multiplies_the_smallest_by_all_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == pytest.approx([1, 1])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([[1]], [[0]], "1 with 1 images"),
        ([[1, 0, 1]], [[0, 1]], "3 with 2 images, 1 with 1 seeds; expected the same images"),
        (np.zeros((0, 4)), [[0, 1, 1, 0]], "0 with 1 seeds; .* at least 1 seed each"),
        ([[]], [[]], "0 with 0 images"),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, words):
    with pytest.raises(InputError, match=words):
        paired_comparison(np.array(a, bool), np.array(b, bool))
