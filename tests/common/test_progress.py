"""Times in words."""

from __future__ import annotations

import pytest

from common.progress import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "0 min"),
        (119, "2 min"),
        (3600, "1 h 0 min"),
        (9000, "2 h 30 min"),
        (360_000, "4.2 days"),
    ],
)
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text
