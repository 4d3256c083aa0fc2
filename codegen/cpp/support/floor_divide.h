// Division that floors, as the language says. Anything divided by 0 gives 0: only a hidden pair can ask for it.
INLINE int32_t floor_divide(int32_t x, int32_t y) {
    if (y == 0) return 0;
    if (y == -1) return static_cast<int32_t>(-static_cast<uint32_t>(x));
    return x / y - (x % y != 0 && (x ^ y) < 0);
}

INLINE int32_t floor_modulo(int32_t x, int32_t y) {
    if (y == 0 || y == -1) return 0;
    const int32_t remainder = x % y;
    return remainder != 0 && (remainder ^ y) < 0 ? remainder + y : remainder;
}

// A double holds the quotient of two 32-bit integers precisely enough for its floor to be right.
INLINE Ints floor_divide(Ints x, Ints y) {
    const Doubles quotient = __builtin_convertvector(x, Doubles) / __builtin_convertvector(select(y == 0, ints(1), y), Doubles);
    const Longs truncated = __builtin_convertvector(quotient, Longs);
    const Longs floored = truncated + (__builtin_convertvector(truncated, Doubles) > quotient);
    return select(y == 0, ints(0), __builtin_convertvector(floored, Ints));
}

INLINE Ints floor_modulo(Ints x, Ints y) {
    return select(y == 0, ints(0), x - floor_divide(x, y) * y);
}

// By a positive constant: a shift where it is a power of two.
template <int32_t divisor>
INLINE Ints floor_divide(Ints x) {
    if constexpr ((divisor & (divisor - 1)) == 0)
        return x >> __builtin_ctz(divisor);
    else
        return x / divisor + ((x % divisor) < 0);
}

template <int32_t divisor>
INLINE Ints floor_modulo(Ints x) {
    if constexpr ((divisor & (divisor - 1)) == 0) {
        return x & (divisor - 1);
    } else {
        const Ints remainder = x % divisor;
        return remainder + ((remainder < 0) & divisor);
    }
}
