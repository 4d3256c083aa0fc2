"""Dropout: the generator, what it means, and that plans drop what the reference does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from dropout_cases import DROPOUT, SPECS, Case, case_of, kept_pairs
from hypothesis import given
from hypothesis import strategies as st

from attndsl.dropout import DROPOUT_SIZES, Dropout, philox
from attndsl.expression import Index, Kept
from attndsl.planner.pipeline import plan, plan_backward
from attndsl.runtime.torch_evaluate import Environment, evaluate

# Of the known answers that Random123 publishes: counter, key, words.
KNOWN = [
    ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_generator_gives_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    found = philox([np.array(word) for word in counter], key)
    assert tuple(map(int, found)) == words


def test_a_pair_is_a_word_of_its_counter() -> None:
    """Counter (j // 4, i, h, b), word j % 4; the seed's low word first."""
    b, h, i, j = 3, 5, -7, 42
    words = philox([np.array(word) for word in (j // 4, i, h, b)], (0x89ABCDEF, 0x01234567))
    word = int(words[j % 4])
    for probability, kept in ((word / 2**32, True), ((word + 1) / 2**32, False)):
        dropout = Dropout(probability, 0x0123456789ABCDEF)
        factor = dropout.kept(*map(np.array, (b, h, i, j)))
        assert factor == (pytest.approx(1 / (1 - probability)) if kept else 0.0)


@given(
    probability=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**64 - 1),
    corner=st.tuples(*[st.integers(-(2**31), 2**31 - 20)] * 4),
)
def test_torch_draws_the_same(probability: float, seed: int, corner: tuple[int, ...]) -> None:
    dropout = Dropout(probability, seed)
    places = np.ix_(
        *(first + np.arange(length) for first, length in zip(corner, (2, 2, 3, 9), strict=True))
    )
    indices = {name: torch.from_numpy(one) for name, one in zip("bhij", places, strict=True)}
    environment = Environment(torch.device("cpu"), indices, dropout=dropout)
    found = evaluate(Kept(tuple(map(Index, "bhij"))), environment)
    np.testing.assert_allclose(found.numpy(), dropout.kept(*places), rtol=1e-6)


def test_numbers_for_kernels() -> None:
    dropout = Dropout(0.75, 0xFEDCBA9876543210)
    assert dropout.factor == 4.0
    sizes = [dropout.sizes[name] & 0xFFFFFFFF for name in DROPOUT_SIZES]
    assert sizes == [0xC0000000, 0x76543210, 0xFEDCBA98, 0]
    assert all(-(2**31) <= size < 2**31 for size in dropout.sizes.values())
    assert Dropout(1 - 2**-53, 0).threshold == 2**32 - 1
    assert Dropout(0.0, 0).factor == 1.0


def drawn(dropout: Dropout, batches: int = 2, heads: int = 2, length: int = 500) -> np.ndarray:
    """Which pairs are kept, as floats of mean 0 and variance 1: a million of them."""
    places = np.ix_(range(batches), range(heads), range(length), range(length))
    kept = dropout.kept(*places) != 0
    p = dropout.probability
    return (kept - (1 - p)) / np.sqrt(p * (1 - p))


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.5, 0.9])
def test_the_rate_is_as_asked(probability: float) -> None:
    """Within five standard deviations of the mean of a million draws."""
    kept = drawn(Dropout(probability, 1234))
    assert abs(kept.mean()) <= 5 / np.sqrt(kept.size)


@pytest.mark.parametrize("seed", [0, 1, 1234, 2**63])
def test_neighbours_are_independent(seed: int) -> None:
    """Of keys, of queries, of heads, of batches and of seeds."""
    kept = drawn(Dropout(0.3, seed))
    others = [
        (kept[..., :-1], kept[..., 1:]),
        (kept[..., :-4], kept[..., 4:]),
        (kept[..., :-1, :], kept[..., 1:, :]),
        (kept[:, :1], kept[:, 1:]),
        (kept[:1], kept[1:]),
        (kept, np.swapaxes(kept, -1, -2)),
        (kept, drawn(Dropout(0.3, seed ^ 1))),
        (kept, drawn(Dropout(0.3, seed ^ 1 << 32))),
    ]
    for one, other in others:
        assert abs((one * other).mean()) <= 5 / np.sqrt(one.size)


@pytest.mark.parametrize("name", SPECS)
def test_the_reference_drops_weights_after_normalisation(name: str) -> None:
    case = case_of(name, one_hot=True)
    plain, found = case.reference(None), case.reference()
    wanted = np.where(kept_pairs(case), plain.output * DROPOUT.factor, 0.0)
    np.testing.assert_allclose(found.output, wanted, rtol=1e-12, atol=0)
    if plain.log_sum_exp is not None:
        np.testing.assert_array_equal(found.log_sum_exp, plain.log_sum_exp)
    if plain.divisor is not None:
        np.testing.assert_array_equal(found.divisor, plain.divisor)


@pytest.mark.parametrize("name", [*SPECS, "divided"])
def test_plans_drop_the_same_pairs(name: str) -> None:
    case = case_of(name)
    found, wanted = case.executed(), case.reference()
    np.testing.assert_allclose(found.output, wanted.output, rtol=1e-9, atol=1e-11)
    weights = case_of(name, one_hot=True)
    np.testing.assert_array_equal(weights.executed().output != 0, kept_pairs(weights))


def test_plans_say_what_is_dropped() -> None:
    attention = case_of("classes").attention
    forward, backward = plan(attention, dropout=True), plan_backward(attention, dropout=True)
    position = "kept(b, h, residue + 3 * i, residue + 3 * j)"
    assert f"dropout  = weights * {position}, where they multiply values" in str(forward)
    assert position in str(backward)
    assert "kept" not in str(plan(attention)) + str(plan_backward(attention))


def test_a_part_of_a_batch_drops_what_the_whole_does() -> None:
    case = case_of("softmax")
    last = dataclasses.replace(case, q=case.q[1:], k=case.k[1:], v=case.v[1:])
    dropout = dataclasses.replace(DROPOUT, first_batch=1)
    wanted = case.reference().output[1:]
    np.testing.assert_array_equal(last.reference(dropout).output, wanted)
    np.testing.assert_allclose(last.executed(dropout).output, wanted, rtol=1e-9, atol=1e-11)


def test_dropout_of_nothing_is_none() -> None:
    case = case_of("sink")
    nothing = Dropout(0.0, 5)
    np.testing.assert_array_equal(case.reference(nothing).output, case.reference(None).output)


@pytest.mark.parametrize("name", [*SPECS, "divided"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    case, random = case_of(name, queries=23), np.random.default_rng(1)
    out_gradient = random.normal(size=case.reference().output.shape)
    found = case.exact_gradients(out_gradient)
    floats = {"q": case.q, "k": case.k, "v": case.v, **case.inputs}
    for tensor, array in floats.items():
        if array.dtype != np.float64:
            continue
        direction = random.normal(size=array.shape)

        def moved(step: float, tensor: str = tensor, to: np.ndarray = direction) -> Case:
            array = floats[tensor] + step * to
            if tensor in case.inputs:
                return dataclasses.replace(case, inputs={**case.inputs, tensor: array})
            return dataclasses.replace(case, **{tensor: array})

        ahead, behind = (
            np.sum(moved(step).reference().output * out_gradient) for step in (1e-6, -1e-6)
        )
        wanted = (ahead - behind) / 2e-6
        assert abs(np.sum(found[tensor] * direction) - wanted) < 1e-6 * max(1.0, abs(wanted))
