// The natural logarithm: m * 2^e with m in [sqrt(1/2), sqrt(2)) and a polynomial of m - 1.
INLINE Floats log(Floats x) {
    const Ints tiny = x < 1.17549435e-38f;
    const Floats normal = select(tiny, x * 8388608.0f, x);
    const Ints shifted = (Ints)normal - 0x3f3504f3;
    const Ints exponent = (shifted >> 23) - select(tiny, ints(23), ints(0));
    const Floats f = (Floats)((shifted & 0x7fffff) + 0x3f3504f3) - 1.0f;
    Floats p = 0.0691515568f * f - 0.117897121f;
    p = p * f + 0.118730212f;
    p = p * f - 0.12384368f;
    p = p * f + 0.142186545f;
    p = p * f - 0.166692496f;
    p = p * f + 0.200022267f;
    p = p * f - 0.249999866f;
    p = p * f + 0.333333104f;
    const Floats e = to_float(exponent);
    const Floats square = f * f;
    const Floats small = p * f * square - e * 2.12194440e-4f - 0.5f * square;
    const Floats value = (small + f) + e * 0.693359375f;
    const Floats bounded = select(x == 0.0f, floats(-INFINITE), select(x == INFINITE, x, value));
    return select(x >= 0.0f, bounded, floats(__builtin_nanf("")));
}

INLINE float log(float x) { return __builtin_logf(x); }
