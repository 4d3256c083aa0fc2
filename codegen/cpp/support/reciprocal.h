// 1 / x to within two units in the last place, for finite x that is neither 0 nor denormal.
INLINE Floats reciprocal(Floats x) {
#if defined(__AVX512F__) && !defined(__clang__)
    typedef float Register __attribute__((vector_size(64)));
    const Floats estimate = __builtin_ia32_rcp14ps512_mask(static_cast<Register>(x), Register{}, -1);
    return estimate + estimate * (1.0f - x * estimate);
#else
    return 1.0f / x;
#endif
}
