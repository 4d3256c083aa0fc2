"""Specs as attention implementations of `transformers` (optional: `attndsl[transformers]`).

from attndsl.integrations import transformers as attention

module = attndsl.load(attention.SPECS / "gemma2.attn")
attention.register("gemma2", module.local, module.whole, reads=attention.READS)
model.set_attn_implementation("gemma2")
"""

from __future__ import annotations

from pathlib import Path

from attndsl.runtime.integrations.attach import attach
from attndsl.runtime.integrations.transformers import READS, register

__all__ = ["READS", "SPECS", "attach", "register"]

# Specs of model families, ready to register: read them, or copy and change them.
SPECS = Path(__file__).parent
