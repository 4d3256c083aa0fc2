"""The Python form means what the text form means."""

# The bodies of kernels are read and never run: what they assign is used.
# ruff: noqa: F841, RUF059

from __future__ import annotations

from collections.abc import Callable

import pytest

import attndsl.language as al
from attndsl.decorator import attention_of, define, syntax_of
from attndsl.diagnostics import AttnError
from attndsl.language import (
    D,
    Dv,
    H,
    Hkv,
    Input,
    Lk,
    Lq,
    axes,
    b,
    causal,
    cumsum,
    dot,
    exp,
    g,
    h,
    i,
    j,
    k,
    log,
    neighborhood,
    outer,
    q,
    rms_norm,
    rope,
    route,
    row,
    scale,
    sigmoid,
    softmax,
    state,
    t,
    tanh,
    top,
    v,
)
from attndsl.language import i as position
from attndsl.module import load_text
from attndsl.parsing import parse
from attndsl.source import Source

# Pairs of a function and the text that means the same.


@define
def softcap_twice(x, cap):
    """A definition may have a docstring, and call another."""
    return capped(capped(x, cap), cap)


@define
def capped(x, cap=2.0):
    return cap * tanh(x / cap)


@define
def twice(x):
    return capped(capped(x))


def empty():
    pass


def documented():
    """What it is, in prose."""
    ...


def gemma2(window: int = 4096, cap: float = 50.0):
    score = twice(dot(q, k) * scale) + cap
    mask = causal and i - j < window
    normalize = softmax
    return score, mask, normalize


def bounded(window: int = 256, *, step: int = 4, symmetric: bool = False):
    assert window > 0
    assert step >= 1
    assert step <= window
    mask = abs(i - j) < window * step if symmetric else 0 <= i - j < window and not (i - j) % step


def tables(block: int = 64):
    layout = Input(bool, H, Lq // block, Lk // block)
    doc = Input(int, al.B, Lk)
    near = doc[b, i] == doc[b, j]
    mask = layout[h, i // block, j // block] and near


def grid(window: int = 7):
    axes("y", "x")
    mask = neighborhood(window) and i.y >= j.y


def ring(reach: int = 2):
    y, x = axes("y", "x")
    mask = (i.y - j.y + reach) % y.size <= 2 * reach and i.x == j.x


def sinks():
    sink = Input(float, H)
    normalize = softmax(sink=sink[h])


def sigmoid_weights():
    score = dot(q, k) * scale - log(Lk)
    normalize = sigmoid


def no_normalization():
    normalize = None


def prepared(q, k, base: float = 10000.0):
    q = rope(rms_norm(q), i, base)
    k = rope(rms_norm(k), j, base)
    score = dot(q, k) * scale


def slices():
    u = Input(float, H, D)
    score = dot(q[0:32] + u[h, 0:32], k[:32]) - 2.5e-3 * dot(q[32:], k[32:]) ** 2


def scan():
    f = Input(float, al.B, H, Lk)
    c = cumsum(f)
    score = dot(q, k) * scale + c[b, h, i] - c[b, h, j]
    mask = causal


def by_module(window: int = 3):
    mask = al.causal and al.i - position < window + al.row - row


def routed_blocks(block: int = 512, count: int = 3):
    mask = causal
    with route(block):
        affinity = dot(q, al.mean(k))
        keep = top(count)
        always = al.n == i // block


def delta():
    beta = Input(float, al.B, H, Lk)
    with state(D, Dv) as S:
        S = S + outer(k, beta[b, h, t] * (v - dot(S, k)))
        read = dot(S, q) * scale


def streaming(sink: int = 4, recent: int = 256):
    streams = Input(bool, Hkv)
    mask = causal and (not streams[g] or j < sink or i - j < recent)


def decay():
    log_decay = Input(float, H)
    score = dot(q, k) * scale * exp(log_decay[h] * (i - j))
    normalize = sum


DEFINITIONS = "def capped(x, cap = 2.0) = cap * tanh(x / cap)  def twice(x) = capped(capped(x))\n"
PAIRS: list[tuple[Callable[..., object], str]] = [
    (empty, "attention empty {}"),
    (documented, "attention documented {}"),
    (
        gemma2,
        DEFINITIONS
        + """attention gemma2(window: int = 4096, cap: float = 50.0) {
            score = twice(dot(q, k) * scale) + cap
            mask = causal and i - j < window
            normalize = softmax
        }""",
    ),
    (
        tables,
        """attention tables(block: int = 64) {
            input layout: bool[H, Lq // block, Lk // block]
            input doc: int[B, Lk]
            let near = doc[b, i] == doc[b, j]
            mask = layout[h, i // block, j // block] and near
        }""",
    ),
    (
        grid,
        """attention grid(window: int = 7) {
            axes y, x
            mask = neighborhood(window) and i.y >= j.y
        }""",
    ),
    (
        ring,
        """attention ring(reach: int = 2) {
            axes y, x
            mask = (i.y - j.y + reach) % y.size <= 2 * reach and i.x == j.x
        }""",
    ),
    (
        sinks,
        "attention sinks { input sink: float[H] normalize = softmax(sink = sink[h]) }",
    ),
    (
        sigmoid_weights,
        "attention sigmoid_weights { score = dot(q, k) * scale - log(Lk) normalize = sigmoid }",
    ),
    (no_normalization, "attention no_normalization { normalize = none }"),
    (
        prepared,
        """attention prepared(base: float = 10000.0) {
            q = rope(rms_norm(q), i, base)
            k = rope(rms_norm(k), j, base)
            score = dot(q, k) * scale
        }""",
    ),
    (
        slices,
        """attention slices {
            input u: float[H, D]
            score = dot(q[0:32] + u[h, 0:32], k[:32]) - 2.5e-3 * dot(q[32:], k[32:]) ** 2
        }""",
    ),
    (
        scan,
        """attention scan {
            input f: float[B, H, Lk]
            let c = cumsum(f)
            score = dot(q, k) * scale + c[b, h, i] - c[b, h, j]
            mask = causal
        }""",
    ),
    (
        by_module,
        "attention by_module(window: int = 3) { mask = causal and i - i < window + row - row }",
    ),
    (
        routed_blocks,
        """attention routed_blocks(block: int = 512, count: int = 3) {
            mask = causal
            route blocks of block {
                affinity = dot(q, mean(k))
                keep = top(count)
                always = n == i // block
            }
        }""",
    ),
    (
        delta,
        """attention delta {
            input beta: float[B, H, Lk]
            state S: [D, Dv] {
                S = S + outer(k, beta[b, h, t] * (v - dot(S, k)))
                read = dot(S, q) * scale
            }
        }""",
    ),
    (
        streaming,
        """attention streaming(sink: int = 4, recent: int = 256) {
            input streams: bool[Hkv]
            mask = causal and (not streams[g] or j < sink or i - j < recent)
        }""",
    ),
    (
        decay,
        """attention decay {
            input log_decay: float[H]
            score = dot(q, k) * scale * exp(log_decay[h] * (i - j))
            normalize = sum
        }""",
    ),
]


@pytest.mark.parametrize(
    ("function", "text"), PAIRS, ids=lambda value: getattr(value, "__name__", "")
)
def test_equals_the_text_form(function: Callable[..., object], text: str) -> None:
    written = parse(Source(text))
    assert syntax_of(function).attentions == written.attentions
    assert syntax_of(function).definitions == written.definitions
    assert attention_of(function) == load_text(text).attentions[function.__name__]


def test_an_assert_bounds_the_last_parameter_that_it_mentions() -> None:
    with pytest.raises(AttnError) as raised:
        attention_of(bounded)  # `not (i - j) % step`: an int is no condition
    assert [diagnostic.code for diagnostic in raised.value.diagnostics] == ["A020"]
    window, step, symmetric = syntax_of(bounded).attentions[0].parameters
    text = parse(
        Source("attention a(w: int where window > 0, s: int where step >= 1 and step <= window) {}")
    )
    assert (window.where, step.where) == tuple(p.where for p in text.attentions[0].parameters)
    assert symmetric.where is None


# Kernels


def test_a_kernel_computes_what_the_text_form_computes() -> None:
    import torch

    import attndsl

    @attndsl.kernel
    def local(window: int = 5):
        mask = causal and i - j < window

    text = attndsl.parse(
        "attention local(window: int = 5) { mask = causal and i - j < window }"
    ).local
    q, k, v = (torch.randn(1, 2, 13, 8) for _ in range(3))
    assert torch.equal(local(q, k, v), text(q, k, v))
    assert torch.equal(local(window=2)(q, k, v), text(q, k, v, window=2))


def test_a_kernel_that_uses_not_all_of_its_names_warns() -> None:
    import attndsl
    from attndsl.api import SpecWarning

    with pytest.warns(SpecWarning, match="`unused` is never used"):

        @attndsl.kernel
        def wasteful():
            unused = i - j
            mask = causal
