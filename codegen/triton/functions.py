"""How the built-in functions are spelled in Triton, and the helpers that some of them need.

Helpers are written into the emitted file, only where they are used. They call nothing outside
`triton.language`, so that the same file runs on NVIDIA, on AMD and under the interpreter.
"""

from __future__ import annotations

import math

LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)

# Functions that Triton has under another name, of floats.
DIRECT: dict[str, str] = {
    "exp2": "tl.exp2",
    "log": "tl.log",
    "log2": "tl.log2",
    "sqrt": "tl.sqrt",
    "rsqrt": "tl.rsqrt",
    "erf": "tl.erf",
    "abs": "tl.abs",
}

HELPERS: dict[str, str] = {
    "floor_divide": '''
@triton.jit
def floor_divide(a, b):
    """a // b, rounded towards minus infinity; Triton's own division truncates."""
    quotient = tl.cast(a, tl.int32) // b
    remainder = a - quotient * b
    return tl.where((remainder != 0) & ((remainder < 0) != (b < 0)), quotient - 1, quotient)
''',
    "floor_modulo": '''
@triton.jit
def floor_modulo(a, b):
    """a % b with the sign of b; Triton's own remainder has the sign of a."""
    remainder = tl.cast(a, tl.int32) % b
    return tl.where((remainder != 0) & ((remainder < 0) != (b < 0)), remainder + b, remainder)
''',
    "floor_divide_floats": '''
@triton.jit
def floor_divide_floats(a, b):
    """a / b, rounded towards minus infinity."""
    return tl.floor(a / b)
''',
    "floor_modulo_floats": '''
@triton.jit
def floor_modulo_floats(a, b):
    """What a / b, rounded towards minus infinity, leaves of a."""
    return a - tl.floor(a / b) * b
''',
    "reciprocal": '''
@triton.jit
def reciprocal(x):
    """1 / x for x >= 1, in two instructions where a division takes ten."""
    root = tl.rsqrt(x)
    return root * root
''',
    "sign": '''
@triton.jit
def sign(x):
    """-1, 0 or 1 as x is."""
    return tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, 0.0))
''',
    # Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
    "philox": '''
@triton.jit
def philox(fours, i, h, b, seed_low, seed_high):
    """The four words of Philox-4x32-10 for each counter (fours, i, h, b)."""
    x0, x1 = tl.cast(fours, tl.uint32), tl.cast(i, tl.uint32)
    x2, x3 = tl.cast(h, tl.uint32), tl.cast(b, tl.uint32)
    low, high = tl.cast(seed_low, tl.uint32), tl.cast(seed_high, tl.uint32)
    for round in tl.static_range(10):
        first, second = tl.umulhi(x0, 0xD2511F53), tl.umulhi(x2, 0xCD9E8D57)
        first_low, second_low = x0 * 0xD2511F53, x2 * 0xCD9E8D57
        x0, x1 = second ^ x1 ^ low, second_low
        x2, x3 = first ^ x3 ^ high, first_low
        low, high = low + 0x9E3779B9, high + 0xBB67AE85
    return x0, x1, x2, x3
''',
    "kept_factor": '''
@triton.jit
def kept_factor(threshold):
    """What the weights of pairs that dropout keeps are multiplied by."""
    return 4294967296.0 / (0 - tl.cast(threshold, tl.uint32)).to(tl.float32)
''',
    "kept_pairs": '''
@triton.jit
def kept_pairs(b, h, i, j, threshold, seed_low, seed_high, first_batch):
    """What dropout multiplies the weights of pairs by, wherever their keys lie."""
    x0, x1, x2, x3 = philox(j >> 2, i, h, b + first_batch, seed_low, seed_high)
    early = tl.where((j & 1) == 0, x0, x1)
    late = tl.where((j & 1) == 0, x2, x3)
    word = tl.where((j & 2) == 0, early, late)
    return tl.where(word >= tl.cast(threshold, tl.uint32), kept_factor(threshold), 0.0)
''',
    "kept_columns": '''
@triton.jit
def kept_columns(b, h, i, first, keys: tl.constexpr, threshold, seed_low, seed_high, first_batch):
    """What dropout multiplies the weights of pairs by, [queries, keys], for keys from position
    `first` on, a multiple of 4: four share a call of the generator."""
    fours = (first >> 2) + tl.arange(0, keys // 4)
    x0, x1, x2, x3 = philox(fours[None, :], i[:, None], h, b + first_batch, seed_low, seed_high)
    least = tl.cast(threshold, tl.uint32)
    even = tl.join((x0 >= least).to(tl.int8), (x2 >= least).to(tl.int8))
    odd = tl.join((x1 >= least).to(tl.int8), (x3 >= least).to(tl.int8))
    bits = tl.reshape(tl.join(even, odd), [i.shape[0], keys])
    return tl.where(bits != 0, kept_factor(threshold), 0.0)
''',
    "kept_rows": '''
@triton.jit
def kept_rows(b, h, i, first, keys: tl.constexpr, threshold, seed_low, seed_high, first_batch):
    """What dropout multiplies the weights of pairs by, [keys, queries], for keys from position
    `first` on, a multiple of 4: four share a call of the generator."""
    fours = (first >> 2) + tl.arange(0, keys // 4)
    x0, x1, x2, x3 = philox(fours[:, None], i[None, :], h, b + first_batch, seed_low, seed_high)
    least = tl.cast(threshold, tl.uint32)
    even = tl.join((x0 >= least).to(tl.int8), (x2 >= least).to(tl.int8))
    odd = tl.join((x1 >= least).to(tl.int8), (x3 >= least).to(tl.int8))
    bits = tl.permute(tl.join(even, odd), (0, 2, 3, 1))
    return tl.where(tl.reshape(bits, [keys, i.shape[0]]) != 0, kept_factor(threshold), 0.0)
''',
    "softplus": f'''
@triton.jit
def softplus(x):
    """log(1 + exp(x)), without overflow."""
    tail = tl.log2(1.0 + tl.exp2(tl.abs(x) * {-LOG2_E!r}))
    return tl.maximum(x, 0.0) + tail * {LN_2!r}
''',
    "integer_power": '''
@triton.jit
def integer_power(base, exponent):
    """base ** exponent for integers, exponent from 0 to 31, by repeated squaring."""
    result = tl.cast(base, tl.int32) * 0 + 1
    square = tl.cast(base, tl.int32)
    for bit in tl.static_range(5):
        result = tl.where((exponent >> bit) & 1 == 1, result * square, result)
        square = square * square
    return result
''',
    "power": '''
@triton.jit
def power(base, exponent):
    """base ** exponent for floats: a negative base takes whole exponents only, else NaN."""
    size = tl.exp2(exponent * tl.log2(tl.abs(base)))
    whole = tl.floor(exponent) == exponent
    odd = tl.floor(exponent * 0.5) * 2.0 != exponent
    signed = tl.where(whole, tl.where(odd, -size, size), float("nan"))
    return tl.where(exponent == 0.0, 1.0, tl.where(base < 0.0, signed, size))
''',
    # Range reduction by a split pi/2 (W. J. Cody and W. Waite) and the polynomials of the Cephes
    # library (S. L. Moshier); Triton's own sine keeps a table on the stack for huge arguments.
    "sine": '''
@triton.jit
def sine(x, quarter_turns):
    """sin(x + quarter_turns * pi/2) for x in radians."""
    turns = tl.floor(x * 0.6366197723675814 + 0.5)
    angle = x - turns * 1.5703125
    angle = angle - turns * 4.837512969970703e-4
    angle = angle - turns * 7.549789954891882e-8
    square = angle * angle
    odd = -1.9515295891e-4 * square + 8.3321608736e-3
    odd = ((odd * square - 1.6666654611e-1) * square) * angle + angle
    even = 2.443315711809948e-5 * square - 1.388731625493765e-3
    even = ((even * square + 4.166664568298827e-2) * square - 0.5) * square + 1.0
    quadrant = turns.to(tl.int32) + quarter_turns
    value = tl.where((quadrant & 1) == 0, odd, even)
    return tl.where((quadrant & 2) == 0, value, -value)
''',
}
