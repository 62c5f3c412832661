"""How networks are called in logs, tables and pages."""

from __future__ import annotations

from torch import nn


def name_of(network: nn.Module) -> str:
    """The network's class, and its `remark`: what has to be said wherever it is named."""
    name, remark = type(network).__name__, getattr(network, "remark", "")
    return f"{name} ({remark})" if remark else name
