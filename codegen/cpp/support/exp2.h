// 2^x to within 2e-7, by a polynomial on [-1/2, 1/2] (minimax in relative error). Exactly 0 at -inf.
INLINE Floats exp2(Floats x) {
#if defined(__AVX512DQ__) && !defined(__clang__)
    typedef float Register __attribute__((vector_size(64)));
    const Floats f = __builtin_ia32_reduceps512_mask(static_cast<Register>(x), 0, Register{}, -1);
    const Floats n = x - f;
#else
    const Floats clamped = minimum(maximum(x, floats(-151.0f)), floats(129.0f));
    // Adding 1.5 * 2^23 rounds to a whole number, which is then in the low bits.
    const Floats shifted = clamped + 12582912.0f;
    const Floats f = clamped - (shifted - 12582912.0f);
#endif
    Floats p = 0.0013276472f * f + 0.0096755415f;
    p = p * f + 0.0555071328f;
    p = p * f + 0.240221197f;
    p = p * f + 0.693146967f;
    p = p * f + 1.00000007f;
#if defined(__AVX512DQ__) && !defined(__clang__)
    return __builtin_ia32_scalefps512_mask(static_cast<Register>(p), static_cast<Register>(n),
                                           Register{}, -1, 4);
#else
    const Ints n = (Ints)shifted - 0x4b400000;
    const Floats power = (Floats)((Ints)p + (n << 23));
    const Floats bounded = select(x < -126.0f, floats(0.0f), select(x >= 128.0f, floats(INFINITE), power));
    return select(x == x, bounded, x);
#endif
}

INLINE float exp2(float x) { return __builtin_exp2f(x); }
