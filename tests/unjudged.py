"""Specs as the checker types them, before analysis: a mask that hides all is no fault here."""

from __future__ import annotations

from attndsl.attention import Attention
from attndsl.check.body import check_attention
from attndsl.check.definitions import collect
from attndsl.check.prelude import standard_patterns
from attndsl.parsing import parse
from attndsl.source import Source


def unjudged(text: str) -> Attention:
    """The only attention of a text without faults of names and types."""
    tree = parse(Source(text))
    scope, _ = collect(tree, standard_patterns(), None)
    attention, _ = check_attention(tree.attentions[0], scope)
    assert attention is not None
    return attention
