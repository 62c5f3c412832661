"""Label smoothing and mixup of a batch against explicit loops."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from common.errors import InputError
from networks import Method
from networks.soft_labels import with_soft_labels
from tests.support.scripts import batch_of

CLASSES = 5
VOTES = torch.tensor([[0.5, 0.5, 0, 0, 0], [0, 0, 1, 0, 0], [0.1, 0, 0, 0.2, 0.7]])


def batch(**targets):
    images = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    images = images.contiguous(memory_format=torch.channels_last)
    return batch_of(torch.tensor([0, 2, 4]), images, **targets)


def mixed(alpha=0.4, seed=0, **options):
    torch.manual_seed(seed)
    return with_soft_labels(batch(**options), CLASSES, mixup=alpha)


def test_without_either_a_batch_stays_as_it_is():
    given, before = batch(), torch.get_rng_state()
    assert Method().training_batch(given, CLASSES) is given
    assert torch.equal(torch.get_rng_state(), before)


def test_smoothing_is_torchs():
    given, logits = batch(), torch.randn(3, CLASSES)
    soft = Method(label_smoothing=0.2).training_batch(given, CLASSES).targets["soft_labels"]
    expected = F.cross_entropy(logits, given.labels, label_smoothing=0.2)
    torch.testing.assert_close(F.cross_entropy(logits, soft), expected)


def test_smoothing_takes_the_votes_where_there_are_some():
    soft = with_soft_labels(batch(soft_labels=VOTES), CLASSES, label_smoothing=0.5)
    for i in range(3):
        for c in range(CLASSES):
            expected = 0.5 * VOTES[i, c].item() + 0.5 / CLASSES
            assert soft.targets["soft_labels"][i, c].item() == pytest.approx(expected)


@pytest.mark.parametrize("targets", [{}, {"soft_labels": VOTES}])
def test_mixup_mixes_each_image_and_its_label_with_the_one_before(targets):
    given, made = batch(**targets), mixed(**targets)
    labels = targets.get("soft_labels", F.one_hot(given.labels, CLASSES).float())
    torch.manual_seed(0)
    drawn = torch.distributions.Beta(0.4, 0.4).sample().item()
    share = max(drawn, 1 - drawn)
    for i, j in ((0, 2), (1, 0), (2, 1)):
        for value, x in ((made.images, given.images), (made.targets["soft_labels"], labels)):
            torch.testing.assert_close(value[i], share * x[i] + (1 - share) * x[j])
    assert torch.equal(made.labels, given.labels)


def test_a_label_stays_that_of_the_larger_share():
    for seed in range(20):
        made = mixed(seed=seed)
        own = made.targets["soft_labels"].gather(1, made.labels[:, None])
        assert own.min() >= 0.5


def test_mixed_images_stay_channels_last():
    assert mixed().images.is_contiguous(memory_format=torch.channels_last)


def test_mixup_and_smoothing_together_are_both():
    torch.manual_seed(0)
    both = Method(mixup=0.4, label_smoothing=0.1).training_batch(batch(), CLASSES)
    expected = 0.9 * mixed().targets["soft_labels"] + 0.1 / CLASSES
    torch.testing.assert_close(both.targets["soft_labels"], expected)
    torch.testing.assert_close(both.targets["soft_labels"].sum(dim=1), torch.ones(3))


def test_targets_that_cannot_be_mixed_are_refused():
    with pytest.raises(InputError, match="--mixup cannot mix the targets mask; leave it out"):
        mixed(mask=torch.zeros(3, 4, 4))
    given = batch(mask=torch.zeros(3, 4, 4))
    kept = with_soft_labels(given, CLASSES, label_smoothing=0.1)
    assert kept.targets["mask"] is given.targets["mask"]
