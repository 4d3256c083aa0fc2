"""The example trains with kernels as it does by formula; here for a few steps."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parent.parent / "examples" / "train_char_lm.py"
STEPS = 12
# Losses are float32 numbers of about 4, half a unit of whose last place this is.
ROUNDING = 2**-22


@pytest.fixture(scope="module")
def example() -> dict[str, object]:
    return runpy.run_path(str(EXAMPLE))


@pytest.mark.parametrize("number", range(3), ids=["near", "sunk", "squashed"])
def test_losses_are_those_of_eager_pytorch(example, number, capsys):
    found = example["compare"](example["VARIANTS"][number], STEPS)
    assert len(found.kernels) == STEPS
    assert found.kernels[-1] < found.kernels[0] - 0.8
    assert found.apart <= 4 * max(found.noise, ROUNDING)
    assert found.variant.title in capsys.readouterr().out


def test_another_attention_would_be_noticed(example):
    """A formula that forgets window and slopes ends up elsewhere by far more than rounding."""
    variant = example["VARIANTS"][0]

    def causal(query, key, slope):
        distance = example["distances"](key)
        scores = example["scaled_dots"](query, key) + 0 * slope[:, None, None]
        return scores.masked_fill(distance < 0, -torch.inf).softmax(-1)

    causal = dataclasses.replace(variant, formula=causal)
    right = example["train"](variant, STEPS, eager=False)
    wrong = example["train"](causal, STEPS, eager=True)
    assert example["mean_difference"](right, wrong) > 1000 * ROUNDING


def test_the_text_is_large_enough(example):
    text, characters = example["corpus"]()
    assert len(text) > 200_000
    assert int(text.max()) == characters - 1


def test_draws_all_curves(example, tmp_path, capsys):
    path = tmp_path / "curves" / "char_lm.svg"
    example["main"](steps=2, output=path)
    drawn = path.read_text()
    assert drawn.startswith("<?xml")
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
