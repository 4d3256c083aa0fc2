"""The pretrained encoder gives the same embeddings through a compiled spec as through eager."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "minilm.py"


@pytest.fixture(scope="module")
def example() -> dict[str, object]:
    return runpy.run_path(str(EXAMPLE))


def test_agrees_with_the_eager_model(example, capsys):
    assert example["main"]() <= 1e-5
    printed = capsys.readouterr().out
    assert "A kitten is napping" in printed


def test_padding_changes_nothing(example):
    """A sentence has the same embedding alone as in a batch with a longer one."""
    sentences = example["SENTENCES"]
    alone = example["embed"](sentences[4:5], example["NAME"])
    together = example["embed"](sentences[3:5], example["NAME"])[1:]
    assert (alone - together).abs().max() <= 1e-5
