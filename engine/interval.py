"""How far a measured share may be from the true one."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # 97.5 % point of the normal distribution


def wilson_interval(share: float, images: int) -> tuple[float, float]:
    """95 % interval (Wilson) of a share that was measured on so many images."""
    p, n = share, images
    if n == 0:
        return (0.0, 1.0)
    middle = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return (max(0.0, middle - half), min(1.0, middle + half))
