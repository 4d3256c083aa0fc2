// Which pairs dropout keeps: a word of Philox-4x32-10 (Salmon, Moraes, Dror & Shaw, 2011) decides, whose counter is
// (j / 4, i, h, b) and whose key is the seed.
typedef uint64_t LongWords __attribute__((vector_size(4 * LANES)));

// The 64-bit products of the even lanes.
INLINE LongWords even_products(LongWords x, LongWords y) {
#if defined(__AVX512F__) && !defined(__clang__)
    typedef int Register __attribute__((vector_size(64)));
    typedef long long Longest __attribute__((vector_size(64)));
    return (LongWords)__builtin_ia32_pmuludq512_mask((Register)x, (Register)y, Longest{}, -1);
#elif defined(__AVX2__) && !defined(__AVX512F__)
    typedef int Register __attribute__((vector_size(32)));
    return (LongWords)__builtin_ia32_pmuludq256((Register)x, (Register)y);
#else
    return (x & 0xffffffffu) * (y & 0xffffffffu);
#endif
}

INLINE Words high_product(Words x, uint32_t by) {
    const LongWords both = (LongWords)x, factor = LongWords{} + by;
    const LongWords even = even_products(both, factor), odd = even_products(both >> 32, factor);
    return (Words)(even >> 32 | (odd & 0xffffffff00000000u));
}

struct Dropout {
    // A pair is kept where its word is at least the threshold, and its weight multiplied by the factor.
    uint32_t threshold, seed_low, seed_high;
    int32_t first_batch;
    float factor;

    Dropout(int32_t below, int32_t low, int32_t high, int32_t first)
        : threshold(static_cast<uint32_t>(below)),
          seed_low(static_cast<uint32_t>(low)),
          seed_high(static_cast<uint32_t>(high)),
          first_batch(first),
          factor(4294967296.0f / static_cast<float>(4294967296 - threshold)) {}

    // The words of the keys 4 * fours, 4 * fours + 1, …
    template <class Fours, class Position>
    inline __attribute__((always_inline)) void draw(int32_t b, int32_t h, Position i, Fours fours, Words (&words)[4]) const {
        Words x0 = (Words)ints(fours), x1 = (Words)ints(i), x2 = (Words)ints(h), x3 = (Words)ints(b + first_batch);
        uint32_t low = seed_low, high = seed_high;
        UNROLL
        for (int round = 0; round < 10; ++round) {
            const Words first = high_product(x0, 0xd2511f53u), second = high_product(x2, 0xcd9e8d57u);
            const Words first_low = x0 * 0xd2511f53u, second_low = x2 * 0xcd9e8d57u;
            x0 = second ^ x1 ^ low;
            x1 = second_low;
            x2 = first ^ x3 ^ high;
            x3 = first_low;
            low += 0x9e3779b9u;
            high += 0xbb67ae85u;
        }
        words[0] = x0;
        words[1] = x1;
        words[2] = x2;
        words[3] = x3;
    }

    // What the weights of pairs are multiplied by whose keys are the lanes.
    inline __attribute__((always_inline)) Floats kept(int32_t b, int32_t h, int32_t i, Ints j) const {
        Words words[4];
        draw(b, h, i, j >> 2, words);
        const Ints odd = (j & 1) != 0, later = (j & 2) != 0;
        const Words word = later ? (odd ? words[3] : words[2]) : (odd ? words[1] : words[0]);
        return select(word >= threshold, floats(factor), floats(0.0f));
    }
};
