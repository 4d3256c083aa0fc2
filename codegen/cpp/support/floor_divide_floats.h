// x / y rounded down, and what is left of x: on floats, as a float.
INLINE float floor_divide(float x, float y) { return __builtin_floorf(x / y); }

INLINE float floor_modulo(float x, float y) { return x - floor_divide(x, y) * y; }

INLINE Floats floor_divide(Floats x, Floats y) {
    const Floats quotient = x / y;
    const Floats truncated = to_float(to_int(quotient));
    const Floats lower = select(truncated > quotient, truncated - 1.0f, truncated);
    // From 2^23 on, a float is whole; a NaN stays what it is.
    return select((quotient < 8388608.0f) & (quotient > -8388608.0f), lower, quotient);
}

INLINE Floats floor_modulo(Floats x, Floats y) { return x - floor_divide(x, y) * y; }
