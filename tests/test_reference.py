"""The definition of the language, where it could be misread."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attndsl import reference
from attndsl.attention import Attention
from attndsl.binding import bind
from attndsl.diagnostics import AttnError, InternalError
from attndsl.module import load_text


def attention(body: str, **parameters: object) -> Attention:
    """The attention `a` with this body; parameters are bound to literals."""
    declared = ", ".join(f"{name}: {type(value).__name__}" for name, value in parameters.items())
    text = f"attention a({declared}) {{ {body} }}"
    return bind(load_text(text).attentions["a"], **parameters)


def vectors(rows: int = 5, keys: int = 5, heads: int = 2, key_heads: int = 2, width: int = 4):
    random = np.random.default_rng(0)
    return (
        random.normal(size=(1, heads, rows, width)),
        random.normal(size=(1, key_heads, keys, width)),
        random.normal(size=(1, key_heads, keys, width)),
    )


def test_softmax_by_hand() -> None:
    q, k, v = (
        np.array([[[[2.0]]]]),
        np.array([[[[0.0], [math.log(3)]]]]),
        np.array([[[[1.0], [5.0]]]]),
    )
    result = reference.run(attention("mask = True"), q, k, v, {}, scale=0.5)
    # Scores 0 and log 3, so weights 1/4 and 3/4.
    assert result.output[0, 0, 0, 0] == pytest.approx(4.0)
    assert result.log_sum_exp is not None
    assert result.log_sum_exp[0, 0, 0] == pytest.approx(math.log(4))


def test_rows_are_aligned_at_the_end_by_default() -> None:
    q, k, v = vectors(rows=2, keys=5)
    sees_only_itself = attention("mask = i == j")
    result = reference.run(sees_only_itself, q, k, v, {})
    np.testing.assert_array_equal(result.output, v[:, :, 3:])
    moved = reference.run(sees_only_itself, q, k, v, {}, offset=1)
    np.testing.assert_array_equal(moved.output, v[:, :, 1:3])


def test_row_counts_from_zero() -> None:
    q, k, v = vectors(rows=2, keys=5)
    result = reference.run(attention("mask = j == row"), q, k, v, {})
    np.testing.assert_array_equal(result.output, v[:, :, :2])


def test_query_heads_share_key_heads_in_order() -> None:
    q, k, v = vectors(heads=6, key_heads=2)
    result = reference.run(attention("mask = i == j"), q, k, v, {})
    np.testing.assert_array_equal(result.output, v[:, [0, 0, 0, 1, 1, 1]])


def test_empty_row_gives_zero_and_minus_infinity() -> None:
    q, k, v = vectors()
    result = reference.run(attention("mask = i - j > 0"), q, k, v, {})
    assert result.log_sum_exp is not None
    assert np.all(result.output[:, :, 0] == 0)
    assert np.all(np.isneginf(result.log_sum_exp[:, :, 0]))
    assert np.all(np.isfinite(result.log_sum_exp[:, :, 1:]))


def test_no_keys_at_all() -> None:
    q, k, v = vectors(keys=0)
    result = reference.run(attention("mask = True"), q, k, v, {})
    assert np.all(result.output == 0)


def test_sink_alone_takes_all_the_weight() -> None:
    q, k, v = vectors()
    spec = "input s: float[H] mask = i - j > 0 normalize = softmax(sink = s[h])"
    result = reference.run(attention(spec), q, k, v, {"s": [1.5, -2.0]})
    assert result.log_sum_exp is not None
    np.testing.assert_allclose(result.log_sum_exp[0, :, 0], [1.5, -2.0])
    assert np.all(result.output[:, :, 0] == 0)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "normalize",
    ["softmax", "softmax1", "sum", "none", "sigmoid", "relu2(divide = Lk)", "exp(divide = sum)"],
)
def test_hidden_scores_and_values_never_leak(poison: float, normalize: str) -> None:
    q, k, v = vectors()
    spec = attention(
        f"input bias: float[Lq, Lk] score = dot(q, k) * scale + bias[row, j] "
        f"mask = j < 3 normalize = {normalize}"
    )
    bias = np.zeros((5, 5))
    clean = reference.run(spec, q, k, v, {"bias": bias})
    bias[:, 3] = poison
    k[:, :, 4], v[:, :, 3:] = poison, poison
    poisoned = reference.run(spec, q, k, v, {"bias": bias})
    # Another order of summation is all that may differ.
    np.testing.assert_allclose(poisoned.output, clean.output, rtol=1e-12)
    if clean.log_sum_exp is not None:
        np.testing.assert_allclose(poisoned.log_sum_exp, clean.log_sum_exp, rtol=1e-12)


def test_value_that_one_row_hides_and_another_sees() -> None:
    q, k, v = vectors()
    v[:, :, 2] = np.nan
    output = reference.run(attention("mask = causal"), q, k, v, {}).output
    assert np.all(np.isfinite(output[:, :, :2]))
    assert np.all(np.isnan(output[:, :, 2:]))


def test_visible_nan_is_not_hidden() -> None:
    q, k, v = vectors()
    k[:, :, 0] = np.nan
    assert np.all(np.isnan(reference.run(attention("mask = causal"), q, k, v, {}).output))


def test_great_scores_do_not_overflow() -> None:
    q, k, v = vectors()
    result = reference.run(attention("score = dot(q, k) * 1e6"), q, k, v, {})
    assert np.all(np.isfinite(result.output))


def test_weights_that_are_not_exponentials_have_no_log_sum_exp() -> None:
    q, k, v = vectors()
    assert reference.run(attention("normalize = relu"), q, k, v, {}).log_sum_exp is None


def test_zero_divisor_gives_zero() -> None:
    q, k, v = vectors()
    spec = "score = 0.0 mask = i - j > 0 normalize = "
    for normalize in ("sum", "none(divide = i)"):
        output = reference.run(attention(spec + normalize), q, k, v, {}).output
        assert np.all(output[:, :, 0] == 0)


def test_divisor_varies_by_row() -> None:
    q, k, v = vectors()
    output = reference.run(attention("score = 1.0 normalize = none(divide = i + 1)"), q, k, v, {})
    expected = v.sum(axis=2)[:, :, None] / np.arange(1, 6)[:, None]
    np.testing.assert_allclose(output.output, expected)


def test_epsilon_joins_the_sum() -> None:
    q, k, v = vectors()
    spec = attention("score = 1.0 normalize = none(divide = sum, epsilon = 3.0)")
    output = reference.run(spec, q, k, v, {}).output
    np.testing.assert_allclose(output[:, :, 0], v.sum(axis=2) / 8)


def test_token_scan_runs_over_keys() -> None:
    q, k, v = vectors()
    spec = attention("input f: float[B, H, Lk] let c = cumsum(f) score = c[b, h, j]")
    f = np.random.default_rng(1).normal(size=(1, 2, 5))
    weights = np.exp(np.cumsum(f, axis=-1))
    weights /= weights.sum(axis=-1, keepdims=True)
    output = reference.run(spec, q, k, v, {"f": f}).output
    np.testing.assert_allclose(
        output, np.einsum("bhj,bhjd->bhd", weights, v)[:, :, None].repeat(5, 2)
    )


def test_value_made_of_the_key() -> None:
    q, k, _ = vectors()
    output = reference.run(attention("v = k[1:3] mask = i == j"), q, k, None, {}).output
    np.testing.assert_array_equal(output, k[..., 1:3])


def test_values_made_of_keys_have_a_size_of_their_own() -> None:
    q, k, _ = vectors()
    output = reference.run(attention("v = k[0:D - 1] mask = i == j"), q, k, None, {}).output
    np.testing.assert_array_equal(output, k[..., :-1])


def test_prepared_vectors_are_made_of_those_given() -> None:
    q, k, v = vectors()
    # Were `k` in `v = …` the prepared one, the values would be doubled.
    output = reference.run(attention("k = 2.0 * k v = k mask = i == j"), q, k, v, {}).output
    np.testing.assert_array_equal(output, k)


def test_coordinates_are_row_major() -> None:
    q, k, v = vectors(rows=6, keys=6)
    spec = attention("axes y, x mask = i.y == j.y and i.x == j.x + 1")
    output = reference.run(spec, q, k, v, {}, axes={"y": 2, "x": 3}).output
    assert np.all(output[:, :, [0, 3]] == 0)
    np.testing.assert_array_equal(output[:, :, [1, 2, 4, 5]], v[:, :, [0, 1, 3, 4]])


def test_division_and_remainder_floor() -> None:
    q, k, v = vectors(rows=6, keys=6)
    spec = attention("mask = (i - j) // 4 == -1 and (i - j) % 4 == 1")
    # -3 // 4 is -1 and -3 % 4 is 1.
    output = reference.run(spec, q, k, v, {}).output
    np.testing.assert_array_equal(output[:, :, :3], v[:, :, 3:])


READS_BEHIND = "input bias: float[w] score = bias[i - j] "


def test_hidden_pairs_may_read_out_of_range() -> None:
    q, k, v = vectors()
    spec = attention(READS_BEHIND + "mask = causal and i - j < w", w=2)
    result = reference.run(spec, q, k, v, {"bias": [0.0, -np.inf]})
    np.testing.assert_array_equal(result.output, v)


def test_a_visible_read_out_of_range_is_an_error() -> None:
    q, k, v = vectors()
    with pytest.raises(AttnError) as raised:
        reference.run(attention(READS_BEHIND + "mask = causal", w=2), q, k, v, {"bias": [0.0, 0.0]})
    (diagnostic,) = raised.value.diagnostics
    assert diagnostic.code == "A078"
    assert diagnostic.span is not None
    assert diagnostic.span.text == "i - j"


@pytest.mark.parametrize(
    "mask",
    [
        "causal and (i - j >= w or flags[i - j])",
        "causal and (flags[i - j] if i - j < w else True)",
        "causal and i - j < w and flags[i - j]",
    ],
)
def test_what_a_mask_does_not_ask_may_be_out_of_range(mask: str) -> None:
    q, k, v = vectors()
    spec = attention(f"input flags: bool[w] mask = {mask}", w=2)
    result = reference.run(spec, q, k, v, {"flags": [True, True]})
    assert np.all(np.isfinite(result.output))


def test_mask_reads_out_of_range_for_a_pair_that_it_shows() -> None:
    q, k, v = vectors()
    spec = attention("input flags: bool[w] mask = flags[abs(i - j)]", w=2)
    with pytest.raises(AttnError, match="A078"):
        reference.run(spec, q, k, v, {"flags": [True, True]})


def test_parameters_must_be_bound() -> None:
    q, k, v = vectors()
    unbound = load_text("attention a(w: int = 3) { mask = i - j < w }").attentions["a"]
    with pytest.raises(InternalError):
        reference.run(unbound, q, k, v, {})


def test_what_cannot_be_run_yet_is_named() -> None:
    q, k, v = vectors()
    spec = attention("route blocks of 2 { affinity = dot(q, mean(k)) keep = top(1) }")
    with pytest.raises(AttnError, match=r"A080.*`route`"):
        reference.run(spec, q, k, v, {})


def test_landmark_by_its_paper() -> None:
    """Mohtashami & Jaggi 2023, section 3.1, a query at a time.

    Softmax over the tokens of the own block and the landmarks of the earlier ones; the weight of a
    landmark is passed on to the tokens of its block by their own softmax.
    """
    q, k, v = vectors(rows=14, keys=14)
    block = 4
    spec = attention(
        "mask = causal normalize = grouped_softmax("
        "group = j // block, own = i // block, gate = j % block == block - 1)",
        block=block,
    )
    expected = np.zeros_like(v)
    for h in range(2):
        for i in range(14):
            score = {j: q[0, h, i] @ k[0, h, j] / 2 for j in range(i + 1)}
            own = [j for j in score if j // block == i // block and j % block != block - 1]
            landmarks = {c: c * block + block - 1 for c in range(i // block)}
            total = sum(math.exp(score[j]) for j in (*own, *landmarks.values()))
            for j in own:
                expected[0, h, i] += math.exp(score[j]) / total * v[0, h, j]
            for c, landmark in landmarks.items():
                tokens = range(c * block, landmark)
                inner = sum(math.exp(score[j]) for j in tokens)
                for j in tokens:
                    weight = math.exp(score[landmark]) / total * math.exp(score[j]) / inner
                    expected[0, h, i] += weight * v[0, h, j]
    np.testing.assert_allclose(reference.run(spec, q, k, v, {}).output, expected, atol=1e-12)
