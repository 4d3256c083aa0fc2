"""Masks over keys in stripes, and what is done with such keys besides."""

from __future__ import annotations

# One stage over stripes alone, or beside others.
MASKS = [
    "j % 40 < 3",
    "causal and j % 16 >= 13",
    "causal and (j + 5) % 20 < 4",
    "causal and 2 <= j % 24 and j % 24 < 7",
    "j % 9 == 4 and abs(i - j) < 30",
    "(3 - j) % 17 <= 1 and j < 50",
    "j // 3 % 11 == 2",
    "(j // 2 - 1) // 2 % 7 == 6 and i - j < 25 and i - j >= -12",
    "i // 8 == j // 8 or j % 16 == 15",
    "causal and (i // 12 == j // 12 or j % 12 >= 9)",
    "causal and ((i + 3) // 20 == (j + 3) // 20 or (j + 3) % 20 >= 17)",
    "causal and (i - j < 10 or j % 30 < 2)",
    "abs(i - j) < 6 or j % 32 == 0 and j <= i",
    "causal and (h == 0 or j % 16 == 3)",
]

READS = {
    "per pair": "input bias: float[H, Lq, Lk]\nscore = dot(q, k) * scale + bias[h, row, j]",
    "flags per pair": "input flag: bool[Lq, Lk]\n"
    "score = dot(q, k) * scale + (1.0 if flag[row, j] else 0.0)",
    "per query and per key": "input slope: float[Lk]\ninput lift: float[B, Lq]\n"
    "score = dot(q, k) * scale + slope[j] * lift[b, row] + 0.01 * i - 0.02 * j",
    "two products": "input other: float[Lk, D]\n"
    "score = dot(q, k) * scale + 0.3 * dot(q * q, k) + dot(q, other[j])",
    "vectors pair by pair": "input weight: float[D]\nscore = dot(weight, tanh(q + k))",
    "prepared vectors": "input turn: float[Lk]\nq = q / sqrt(dot(q, q) + 1.0)\nk = k * turn[j]\n"
    "score = dot(q, k)",
    "turned": "q = rope(q, i)\nk = rope(k, j)",
    "prepared values": "v = rope(v, j)",
    "distances": "score = dot(q, k) * scale - 0.1 * abs(i - j)",
}
NORMALIZERS = {
    "a sink with a value": "input sentinel: float[H, Dv]\n"
    "normalize = softmax(sink = 0.5, value = sentinel[h])",
    "sigmoid": "normalize = sigmoid",
    "relu": "normalize = relu(divide = Lk)",
    "none": "normalize = none",
    "sum": "score = exp(dot(q, k) * scale)\nnormalize = sum",
}
# By one block of stripes or by part of one, by whole stripes or not.
FEW = ["causal and j % 16 >= 13", "j % 40 < 3", "(3 - j) % 17 <= 1", "causal and j % 32 < 8"]


def spec(*lines: str) -> str:
    """An attention of these lines."""
    return "\n".join(["attention it {", *lines, "}"])
