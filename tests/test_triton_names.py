"""Names in a kernel that is written out of order."""

from __future__ import annotations

from attndsl.codegen.program import DType, Specialization
from attndsl.codegen.triton.kernel import Kernel
from attndsl.codegen.triton.spelling import spell
from attndsl.codegen.triton.values import Value


def kernel() -> Kernel:
    return Kernel(Specialization(DType.FLOAT32, 16, 16), {}, set(), {}, frozenset(), spell)


def test_what_is_named_before_a_loop_has_no_name_of_a_block_in_it() -> None:
    """A block that is written already would give its name to something else on the way."""
    writer = kernel()
    with writer.loop("outer", "for {} in range(2):"):
        with writer.loop("inner", "for {} in range(2):"):
            inside = writer.assign("x", Value("1.0")).text
        with writer.at_depth(0):
            before = writer.assign("x", Value("2.0")).text
        after = writer.assign("y", Value(before)).text
    assert before not in (inside, after)


def test_names_of_a_closed_block_are_free_for_the_next() -> None:
    writer = kernel()
    names = []
    for _ in range(2):
        with writer.loop("number", "for {} in range(2):"):
            names.append(writer.assign("x", Value("1.0")).text)
    assert names == ["x", "x"]
