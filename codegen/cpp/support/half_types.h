// The 16-bit float types: read as float, written with rounding to nearest even.
typedef uint16_t Shorts __attribute__((vector_size(2 * LANES)));
typedef uint16_t UnalignedShorts __attribute__((vector_size(2 * LANES), aligned(2)));

// Each number in the low half of a word.
INLINE Words widen(Shorts x) {
#if defined(__AVX512F__) && !defined(__clang__)
    typedef short Half_register __attribute__((vector_size(32)));
    typedef int Register __attribute__((vector_size(64)));
    return (Words)__builtin_ia32_pmovzxwd512_mask((Half_register)x, Register{}, -1);
#else
    return __builtin_convertvector(x, Words);
#endif
}
