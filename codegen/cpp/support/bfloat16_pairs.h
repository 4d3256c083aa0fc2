// Tiles of bfloat16 numbers in pairs: where the processor multiplies two of them at a time, the two 16-bit numbers
// of a 32-bit word are neighbours along the dimension that is summed over. Queries and weights are kept so, and
// values come from a copy in which each block is turned to [d][key].
constexpr int PAIRS = BLOCK_N / 2;

#if defined(__AVX512BF16__) && !defined(__clang__)
#define BFLOAT16_PAIRS

template <int size>
struct QueryTile {
    Floats words[size / 2 * COLUMNS];
};

template <int size, class Rows>
static void load_queries(const Bfloat16 *from, int64_t stride, Rows rows, bool negate, QueryTile<size> &to) {
    const Words sign = Words{} + (negate ? 0x80008000u : 0u);
    for (int column = 0; column < COLUMNS; ++column) {
        for (int d = 0; d < size; d += 2 * LANES) {
            Floats block[LANES];
            for (int lane = 0; lane < LANES; ++lane) {
                Words words;
                __builtin_memcpy(&words, from + row_of_lane(rows, column * LANES + lane) * stride + d, sizeof words);
                block[lane] = (Floats)(words ^ sign);
            }
            transpose(block);
            for (int lane = 0; lane < LANES; ++lane) to.words[(d / 2 + lane) * COLUMNS + column] = block[lane];
        }
    }
}

constexpr bool PACKS_KEYS = true;

// One block of keys, row after row.
template <int size>
static void pack_keys(const Bfloat16 *key, int64_t stride, int keys, Bfloat16 *to) {
    for (int row = 0; row < BLOCK_N; ++row) {
        if (row < keys)
            __builtin_memcpy(to + row * size, key + row * stride, sizeof(Bfloat16) * size);
        else
            __builtin_memset(to + row * size, 0, sizeof(Bfloat16) * size);
    }
}

// One block of values as [d][key]; whether all of them are finite.
template <int size>
static bool turn_values(const Bfloat16 *value, int64_t stride, int keys, int32_t *to) {
    Words largest{};
    for (int first = 0; first < BLOCK_N; first += 2 * LANES) {
        for (int d = 0; d < size; d += LANES) {
            Floats block[LANES];
            for (int lane = 0; lane < LANES; ++lane) {
                const int key = first + 2 * lane;
                Words even{}, odd{};
                if (key < keys) even = (Words)load(value + key * stride + d);
                if (key + 1 < keys) odd = (Words)load(value + (key + 1) * stride + d);
                largest = maximum(largest, maximum(even & 0x7f800000u, odd & 0x7f800000u));
                block[lane] = (Floats)((even >> 16) | odd);
            }
            transpose(block);
            for (int lane = 0; lane < LANES; ++lane)
                store(reinterpret_cast<float *>(to) + (d + lane) * PAIRS + first / 2, block[lane]);
        }
    }
    bool finite = true;
    for (int lane = 0; lane < LANES; ++lane) finite &= largest[lane] != 0x7f800000u;
    return finite;
}

// Two weights of a query in one word, rounded to bfloat16.
INLINE Floats paired(Floats even, Floats odd) {
    typedef short Halves __attribute__((vector_size(2 * 2 * LANES)));
    Halves rounded;
    __asm__("vcvtne2ps2bf16 %1, %2, %0" : "=v"(rounded) : "v"(even), "v"(odd));
    return (Floats)__builtin_shufflevector(rounded, rounded, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                           8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// make_weights, rounded and paired: those of two keys stand where the scores of one were, which keeps a tile in the
// first-level cache. Keys that do not exist weigh nothing.
template <class Weigh>
INLINE void make_pairs(Floats *weights, int keys, const Seen &seen, Weigh weigh) {
#if !defined(__AMX_BF16__)
    if (seen.few) {
        UNROLL
        for (int column = 0; column < COLUMNS; ++column) {
            int key = seen.first[column];
            for (; key + 1 < seen.last[column]; key += 2) {
                const Floats even = weigh(key, column), odd = weigh(key + 1, column);
                weights[key / 2 * COLUMNS + column] = paired(even, odd);
            }
            if (key < seen.last[column]) weights[key / 2 * COLUMNS + column] = paired(weigh(key, column), Floats{});
        }
        return;
    }
#endif
    for (int pair = 0; pair < keys / 2; ++pair) {
        UNROLL
        for (int column = 0; column < COLUMNS; ++column) {
            const Floats even = weigh(2 * pair, column), odd = weigh(2 * pair + 1, column);
            weights[pair * COLUMNS + column] = paired(even, odd);
        }
    }
    UNROLL
    for (int column = 0; column < COLUMNS; ++column) {
        int pair = keys / 2;
        if (keys % 2 != 0) weights[pair++ * COLUMNS + column] = paired(weigh(keys - 1, column), Floats{});
        for (; pair < (keys + 31) / 32 * 16; ++pair) weights[pair * COLUMNS + column] = Floats{};
    }
}

// 2^x to within 3e-6, far below the rounding of a weight, by a polynomial on [0, 1) (minimax in relative error).
// Exactly 0 at -inf.
INLINE Floats short_exp2(Floats x) {
    typedef float Register __attribute__((vector_size(64)));
    const Floats f = __builtin_ia32_reduceps512_mask(static_cast<Register>(x), 1, Register{}, -1);
    Floats p = 0.01353417f * f + 0.05201146f;
    p = p * f + 0.24144276f;
    p = p * f + 0.69300384f;
    p = p * f + 1.00000259f;
    return __builtin_ia32_scalefps512_mask(static_cast<Register>(p), static_cast<Register>(x), Register{}, -1, 4);
}

// 2^((score - reference) * unit), paired; sums are of the weights before they are rounded.
INLINE void exponentiate(Floats *scores, int keys, const Seen &seen, const Floats *reference, float unit,
                         Floats *total) {
    Floats shift[COLUMNS];
    UNROLL
    for (int column = 0; column < COLUMNS; ++column) shift[column] = reference[column] * unit;
    make_pairs(scores, keys, seen, [&](int key, int column) __attribute__((always_inline)) {
        const Floats weight = short_exp2(scores[key * COLUMNS + column] * unit - shift[column]);
        total[column] += weight;
        return weight;
    });
}

// The same for a block that holds NaN or infinity: a pair of weight 0 contributes nothing.
template <int size>
static void accumulate_guarded(const Bfloat16 *value, int64_t stride, int keys, const Seen &seen,
                               const Floats *weights, const Floats *factor, Floats *output) {
    static thread_local float converted[BLOCK_N * size];
    static thread_local Floats single[BLOCK_N * COLUMNS];
    convert_tile<size>(value, stride, keys, converted);
    for (int key = 0; key < keys; ++key) {
        for (int column = 0; column < COLUMNS; ++column) {
            const Words pair = (Words)weights[key / 2 * COLUMNS + column];
            single[key * COLUMNS + column] = (Floats)(key % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
        }
    }
    accumulate_guarded<size>(converted, size, keys, seen, single, factor, output);
}

// Whether a mask has any lane set.
INLINE bool any(Ints x) {
    typedef int Register __attribute__((vector_size(64)));
    return __builtin_ia32_cvtd2mask512(static_cast<Register>(x)) != 0;
}
#endif
