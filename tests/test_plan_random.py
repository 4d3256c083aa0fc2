"""Plans of random masks compute what the reference does, whatever the passes make of them."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from predicates import predicates

from attndsl import reference
from attndsl.expression import BOOL, INT, Binary, Expression, Index, Literal
from attndsl.module import load_text
from attndsl.planner import plan
from attndsl.planner.execute import execute

(PLAIN,) = load_text("attention it {\nscore = dot(q, k) * scale\n}").attentions.values()


def congruent(modulus: int) -> Expression:
    remainder = Binary("%", Binary("-", Index("i"), Index("j"), INT), Literal(modulus), INT)
    return Binary("==", remainder, Literal(0), BOOL)


masks = st.one_of(
    predicates(),
    st.builds(
        lambda operator, modulus, mask: Binary(operator, congruent(modulus), mask, BOOL),
        st.sampled_from(["and", "or"]),
        st.integers(2, 9),
        predicates(),
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    mask=masks,
    rows=st.integers(1, 40),
    keys=st.integers(1, 40),
    offset=st.one_of(st.none(), st.integers(-9, 30)),
    tile=st.sampled_from([(16, 16), (8, 16), (16, 4)]),
)
def test_executor_agrees_with_reference(
    mask: Expression, rows: int, keys: int, offset: int | None, tile: tuple[int, int]
) -> None:
    attention = dataclasses.replace(PLAIN, mask=mask)
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(1, 2, length, 4)) for length in (rows, keys, keys))
    wanted = reference.run(attention, q, k, v, {}, offset=offset)
    found = execute(plan(attention), q, k, v, {}, block_m=tile[0], block_n=tile[1], offset=offset)
    np.testing.assert_allclose(found.output, wanted.output, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found.log_sum_exp, wanted.log_sum_exp, rtol=1e-9, atol=1e-9)
