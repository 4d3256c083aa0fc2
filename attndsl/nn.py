"""Specs as layers: `attndsl.nn.Attention`, a `torch.nn.Module`."""

from __future__ import annotations

from attndsl.runtime.layer.attention import Attention
from attndsl.runtime.layer.initial import Initial, alibi_slopes

__all__ = ["Attention", "Initial", "alibi_slopes"]
