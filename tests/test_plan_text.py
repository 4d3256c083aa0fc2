"""The text of a plan is for people, and its golden files are to be read in reviews."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from naive.case import EXAMPLES

from attndsl.binding import bind
from attndsl.module import load_file
from attndsl.planner import plan
from attndsl.planner.pipeline import plan_backward

GOLDEN = Path(__file__).parent / "golden" / "plans"
SHOWN = (
    "additive",
    "bidaf",
    "clear",
    "cosine",
    "dilated",
    "documents",
    "fixed",
    "flash_sigmoid",
    "forgetting",
    "gemma2",
    "hedgehog",
    "maxvit_grid",
    "mla",
    "neighborhood2d",
    "strided",
    "swin",
    "tapa",
    "transformer_xl",
    "visual_sentinel",
)


@pytest.mark.parametrize("name", SHOWN)
def test_plan_text(name: str, golden: Callable[[Path, str], None]) -> None:
    attention = bind(load_file(EXAMPLES / f"{name}.attn").attentions[name])
    golden(GOLDEN / f"{name}.txt", str(plan(attention)))


@pytest.mark.parametrize(
    "name", ["alibi", "cosine", "forgetting", "gemma2", "gpt_oss", "hedgehog", "t5"]
)
def test_backward_text(name: str, golden: Callable[[Path, str], None]) -> None:
    attention = bind(load_file(EXAMPLES / f"{name}.attn").attentions[name])
    golden(GOLDEN / f"backward_{name}.txt", str(plan_backward(attention)))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.attn")), ids=lambda path: path.stem)
def test_every_plan_has_a_text(path: Path) -> None:
    for attention in load_file(path).attentions.values():
        made = plan(bind(attention))
        shown = str(made)
        assert shown.startswith(f"plan of `{attention.name}`\n")
        assert shown.count("\n\n") >= len(made.stages)
        assert all(len(line) < 4000 for line in shown.splitlines())
