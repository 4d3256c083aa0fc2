"""Identifiers of the emitted C++: the spec's own where they are safe, others where they are not.

A spec's names are never trusted: a name that is a keyword, a macro, one of the emitter's own, or
anything but a plain word is replaced.
"""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
# What the emitter itself appends: `slope_stride_0`, `row_1`.
_GENERATED = re.compile(r"(_stride)?_[0-9]+$|__")

# Keywords, macros, and the fields that every argument block may have.
_RESERVED = frozenset(
    """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t
    char32_t class compl concept const consteval constexpr constinit const_cast continue
    co_await co_return co_yield decltype default delete do double dynamic_cast else enum
    explicit export extern false float for friend goto if inline int int8_t int16_t int32_t
    int64_t long mutable namespace new noexcept not not_eq nullptr operator or or_eq private
    protected public register reinterpret_cast requires return short signed sizeof static
    static_assert static_cast struct switch template this thread_local throw true try typedef
    typeid typename typeof uint8_t uint16_t uint32_t uint64_t union unsigned using virtual void
    volatile wchar_t while xor xor_eq linux unix i386 NULL std INLINE UNROLL INT32_MIN INT32_MAX
    scale threads B H Hkv Lq Lk D Dv offset
    """.split()  # noqa: SIM905
)


def identifier(name: str, number: int) -> str:
    """The identifier for the spec's `name`; `number` tells apart those that are replaced.

    Names with a dot are the planner's own: no name of a spec becomes an identifier that ends so.
    """
    if "." in name:
        return f"{name.replace('.', '_')}_0"
    plain = name.isascii() and _PLAIN.fullmatch(name) is not None
    if plain and name not in _RESERVED and _GENERATED.search(name) is None:
        return name
    return f"input_{number}"
