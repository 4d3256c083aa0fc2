// e^x to within a unit in the last place, by a polynomial on [-log(2) / 2, log(2) / 2] (minimax in
// relative error, 3e-9). Scores are often made of it, and what they are made of is worth more digits
// than weights are, which `exp2` serves.
INLINE Floats exp(Floats x) {
#if defined(__AVX512F__) && !defined(__clang__)
    typedef float Register __attribute__((vector_size(64)));
    // Of two numbers one of which is NaN both give the second.
    const Register limit = Register{} + 128.0f;
    const Register below = __builtin_ia32_minps512_mask(limit, static_cast<Register>(x), Register{}, -1, 4);
    const Floats near = __builtin_ia32_maxps512_mask(-limit, below, Register{}, -1, 4);
    const Floats n = __builtin_ia32_rndscaleps_mask(static_cast<Register>(near * 1.44269504f), 0, Register{}, -1, 4);
#else
    const Floats clamped = select(x == x, maximum(minimum(x, floats(128.0f)), floats(-128.0f)), floats(0.0f));
    // Adding 1.5 * 2^23 rounds to a whole number.
    const Floats n = (clamped * 1.44269504f + 12582912.0f) - 12582912.0f;
    const Floats near = x;
#endif
    // The product is taken off in two parts, so that large arguments keep their last bits.
    const Floats rest = (near - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats p = 0.0013814222f * rest + 0.008368899f;
    p = p * rest + 0.041668404f;
    p = p * rest + 0.1666652f;
    p = p * rest + 0.49999994f;
    const Floats value = (rest * rest * p + rest) + 1.0f;
#if defined(__AVX512F__) && !defined(__clang__)
    return __builtin_ia32_scalefps512_mask(static_cast<Register>(value), static_cast<Register>(n), Register{}, -1, 4);
#else
    // In two steps, either of which is a normal number.
    const Ints whole = to_int(n);
    const Ints half = whole >> 1;
    const Floats scaled = value * (Floats)((half + 127) << 23) * (Floats)((whole - half + 127) << 23);
    return select(x < -104.0f, floats(0.0f), select(x > 89.0f, floats(INFINITE), scaled));
#endif
}

INLINE float exp(float x) { return __builtin_expf(x); }
