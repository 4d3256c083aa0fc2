// A polynomial near 0, where 1 - 2 / (exp(2x) + 1) would lose digits.
INLINE Floats tanh(Floats x) {
    const Floats size = (Floats)((Ints)x & 0x7fffffff);
    const Floats square = x * x;
    Floats p = -0.00566383145f * square + 0.0205943717f;
    p = p * square - 0.0537220986f;
    p = p * square + 0.133311402f;
    p = p * square - 0.333332611f;
    p = p * square + 0.999999996f;
    const Floats power = exp2(minimum(size, floats(15.0f)) * 2.88539008f);
    const Floats large = 1.0f - 2.0f * reciprocal(power + 1.0f);
    const Floats signed_large = (Floats)((Ints)large | ((Ints)x & INT32_MIN));
    return select(x == x, select(size < 0.62f, p * x, signed_large), x);
}

INLINE float tanh(float x) { return __builtin_tanhf(x); }
