// The sigmoid to within 1e-4, a thirtieth of what its rounding to bfloat16 changes.
INLINE Floats short_sigmoid(Floats x) {
#if defined(BFLOAT16_PAIRS)
    typedef float Register __attribute__((vector_size(64)));
    const Floats power = short_exp2(minimum(floats(126.0f), x * -1.44269504f));
    return __builtin_ia32_rcp14ps512_mask(static_cast<Register>(1.0f + power), Register{}, -1);
#else
    return sigmoid(x);
#endif
}
