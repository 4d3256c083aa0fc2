// The two products of a tile on bfloat16 operands, with sums in float. With AMX the matrix unit does
// both: keys are read where they lie, queries and weights as pairs of neighbours in 32-bit words, and
// values from a copy in which each block is turned to [d][key].
constexpr int PAIRS = BLOCK_N / 2;

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && !defined(__clang__)
static_assert(BLOCK_M % 32 == 0 && BLOCK_N % 32 == 0, "products are made 32 by 32");

#define TILE_LOAD(number, from, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #number ::"r"(from), "r"(static_cast<int64_t>(stride)) : "memory")
#define TILE_STORE(number, to, stride) \
    __asm__ volatile("tilestored %%tmm" #number ", (%0,%1,1)" ::"r"(to), "r"(static_cast<int64_t>(stride)) : "memory")
#define TILE_ZERO(number) __asm__ volatile("tilezero %%tmm" #number ::)
#define TILE_DOT(sum, x, y) __asm__ volatile("tdpbf16ps %%tmm" #y ", %%tmm" #x ", %%tmm" #sum ::)

// Linux lends the unit's registers to a process that asks for them (ARCH_REQ_XCOMP_PERM, TILE_DATA).
extern "C" long syscall(long number, ...) noexcept;
__attribute__((constructor)) static void ask_for_matrix_unit() { syscall(158, 0x1023, 18); }

// While one lives, the thread's eight tiles have 16 rows of 64 bytes.
struct MatrixUnit {
    MatrixUnit() {
        struct alignas(64) {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shape;
        __asm__ volatile("ldtilecfg %0" ::"m"(shape));
    }
    ~MatrixUnit() { __asm__ volatile("tilerelease" ::); }
};

// The two 16-bit numbers of each word are neighbours along the summed dimension.
template <int size>
struct QueryTile {
    Floats words[size / 2 * COLUMNS];
};

template <int size>
static void load_queries(const Bfloat16 *from, int64_t stride, int rows, bool negate, QueryTile<size> &to) {
    const Words sign = Words{} + (negate ? 0x80008000u : 0u);
    for (int column = 0; column < COLUMNS; ++column) {
        for (int d = 0; d < size; d += 2 * LANES) {
            Floats block[LANES];
            for (int lane = 0; lane < LANES; ++lane) {
                const int row = minimum(column * LANES + lane, rows - 1);
                Words words;
                __builtin_memcpy(&words, from + row * stride + d, sizeof words);
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

// scores[key][query]; the rows past the last key are 0.
template <int size>
static void dot_tile(const Bfloat16 *key, int64_t stride, int keys, const QueryTile<size> &query, Floats *scores) {
    alignas(64) static thread_local Bfloat16 padded[BLOCK_N * size];
    if (keys < BLOCK_N) {
        pack_keys<size>(key, stride, keys, padded);
        key = padded;
        stride = size;
    }
    const float *words = reinterpret_cast<const float *>(query.words);
    float *sums = reinterpret_cast<float *>(scores);
    for (int row = 0; row < keys; row += 32) {
        for (int column = 0; column < BLOCK_M; column += 32) {
            TILE_ZERO(0);
            TILE_ZERO(1);
            TILE_ZERO(2);
            TILE_ZERO(3);
            for (int d = 0; d < size; d += 32) {
                TILE_LOAD(4, key + row * stride + d, 2 * stride);
                TILE_LOAD(5, key + (row + 16) * stride + d, 2 * stride);
                TILE_LOAD(6, words + d / 2 * BLOCK_M + column, 4 * BLOCK_M);
                TILE_LOAD(7, words + d / 2 * BLOCK_M + column + 16, 4 * BLOCK_M);
                TILE_DOT(0, 4, 6);
                TILE_DOT(1, 4, 7);
                TILE_DOT(2, 5, 6);
                TILE_DOT(3, 5, 7);
            }
            TILE_STORE(0, sums + row * BLOCK_M + column, 4 * BLOCK_M);
            TILE_STORE(1, sums + row * BLOCK_M + column + 16, 4 * BLOCK_M);
            TILE_STORE(2, sums + (row + 16) * BLOCK_M + column, 4 * BLOCK_M);
            TILE_STORE(3, sums + (row + 16) * BLOCK_M + column + 16, 4 * BLOCK_M);
        }
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
    const Halves rounded = (Halves)__builtin_ia32_cvtne2ps2bf16_v32hi(odd, even);
    return (Floats)__builtin_shufflevector(rounded, rounded, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                           8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// Weights made of scores by `weigh(score, column)` and paired where the scores were, which keeps a tile in the
// first-level cache. Keys that do not exist weigh nothing.
template <class Weigh>
INLINE void pair_in_place(Floats *scores, int keys, Weigh weigh) {
    for (int pair = 0; pair < keys / 2; ++pair) {
        UNROLL
        for (int column = 0; column < COLUMNS; ++column) {
            const Floats even = weigh(scores[2 * pair * COLUMNS + column], column);
            const Floats odd = weigh(scores[(2 * pair + 1) * COLUMNS + column], column);
            scores[pair * COLUMNS + column] = paired(even, odd);
        }
    }
    for (int column = 0; column < COLUMNS; ++column) {
        int pair = keys / 2;
        if (keys % 2 != 0) {
            const Floats last = weigh(scores[2 * pair * COLUMNS + column], column);
            scores[pair++ * COLUMNS + column] = paired(last, Floats{});
        }
        for (; pair < (keys + 31) / 32 * 16; ++pair) scores[pair * COLUMNS + column] = Floats{};
    }
}

INLINE void pair_weights(Floats *weights, int keys) {
    pair_in_place(weights, keys, [](Floats weight, int) { return weight; });
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
INLINE void exponentiate(Floats *scores, int keys, const Floats *reference, float unit, Floats *total) {
    Floats shift[COLUMNS];
    UNROLL
    for (int column = 0; column < COLUMNS; ++column) shift[column] = reference[column] * unit;
    pair_in_place(scores, keys, [&](Floats score, int column) __attribute__((always_inline)) {
        const Floats weight = short_exp2(score * unit - shift[column]);
        total[column] += weight;
        return weight;
    });
}

// output[d][query] = output[d][query] * factor[query] + sum over keys; `changed` says whether any factor is not 1.
template <int size>
static void accumulate_tile(const Bfloat16 *, int64_t, const int32_t *turned, int keys, const Floats *weights,
                            const Floats *factor, bool changed, Floats *output) {
    if (changed) {
        for (int d = 0; d < size; ++d) {
            UNROLL
            for (int column = 0; column < COLUMNS; ++column) output[d * COLUMNS + column] *= factor[column];
        }
    }
    const float *words = reinterpret_cast<const float *>(weights);
    float *sums = reinterpret_cast<float *>(output);
    for (int d = 0; d < size; d += 32) {
        for (int column = 0; column < BLOCK_M; column += 32) {
            TILE_LOAD(0, sums + d * BLOCK_M + column, 4 * BLOCK_M);
            TILE_LOAD(1, sums + d * BLOCK_M + column + 16, 4 * BLOCK_M);
            TILE_LOAD(2, sums + (d + 16) * BLOCK_M + column, 4 * BLOCK_M);
            TILE_LOAD(3, sums + (d + 16) * BLOCK_M + column + 16, 4 * BLOCK_M);
            for (int pair = 0; 2 * pair < keys; pair += 16) {
                TILE_LOAD(4, turned + d * PAIRS + pair, 4 * PAIRS);
                TILE_LOAD(5, turned + (d + 16) * PAIRS + pair, 4 * PAIRS);
                TILE_LOAD(6, words + pair * BLOCK_M + column, 4 * BLOCK_M);
                TILE_LOAD(7, words + pair * BLOCK_M + column + 16, 4 * BLOCK_M);
                TILE_DOT(0, 4, 6);
                TILE_DOT(1, 4, 7);
                TILE_DOT(2, 5, 6);
                TILE_DOT(3, 5, 7);
            }
            TILE_STORE(0, sums + d * BLOCK_M + column, 4 * BLOCK_M);
            TILE_STORE(1, sums + d * BLOCK_M + column + 16, 4 * BLOCK_M);
            TILE_STORE(2, sums + (d + 16) * BLOCK_M + column, 4 * BLOCK_M);
            TILE_STORE(3, sums + (d + 16) * BLOCK_M + column + 16, 4 * BLOCK_M);
        }
    }
}

// The same for a block that holds NaN or infinity: a pair of weight 0 contributes nothing.
template <int size>
static void accumulate_guarded(const Bfloat16 *value, int64_t stride, int keys, const Floats *weights,
                               const Floats *factor, Floats *output) {
    static thread_local float converted[BLOCK_N * size];
    static thread_local Floats single[BLOCK_N * COLUMNS];
    convert_tile<size>(value, stride, keys, converted);
    for (int key = 0; key < keys; ++key) {
        for (int column = 0; column < COLUMNS; ++column) {
            const Words pair = (Words)weights[key / 2 * COLUMNS + column];
            single[key * COLUMNS + column] = (Floats)(key % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
        }
    }
    accumulate_guarded<size>(converted, size, keys, single, factor, output);
}

// Whether a mask has any lane set.
INLINE bool any(Ints x) {
    typedef int Register __attribute__((vector_size(64)));
    return __builtin_ia32_cvtd2mask512(static_cast<Register>(x)) != 0;
}

#else
// Without a matrix unit the tiles are converted to float.
struct MatrixUnit {
    ~MatrixUnit() {}
};

template <int size>
struct QueryTile {
    Floats elements[size * COLUMNS];
};

template <int size>
static void load_queries(const Bfloat16 *from, int64_t stride, int rows, bool negate, QueryTile<size> &to) {
    load_columns<size>(from, stride, rows, negate ? -1.0f : 1.0f, to.elements, COLUMNS);
}

template <int size>
static void dot_tile(const Bfloat16 *key, int64_t stride, int keys, const QueryTile<size> &query, Floats *scores) {
    static thread_local float converted[BLOCK_N * size];
    convert_tile<size>(key, stride, keys, converted);
    dot_tile<size>(converted, size, keys, query.elements, scores, converted, size, 0);
}

constexpr bool PACKS_KEYS = false;

template <int size>
static void pack_keys(const Bfloat16 *, int64_t, int, Bfloat16 *) {}

template <int size>
static bool turn_values(const Bfloat16 *value, int64_t stride, int keys, int32_t *) {
    bool finite = true;
    for (int key = 0; key < keys; ++key)
        for (int d = 0; d < size; ++d) finite &= (value[key * stride + d].bits & 0x7f80) != 0x7f80;
    return finite;
}

template <int size>
static void accumulate_tile(const Bfloat16 *value, int64_t stride, const int32_t *, int keys, const Floats *weights,
                            const Floats *factor, bool, Floats *output) {
    static thread_local float converted[BLOCK_N * size];
    convert_tile<size>(value, stride, keys, converted);
    accumulate_tile<size>(converted, size, keys, weights, factor, output, converted, size, 0);
}

INLINE bool any(Ints x) {
    bool result = false;
    for (int lane = 0; lane < LANES; ++lane) result |= x[lane] != 0;
    return result;
}

INLINE void pair_weights(Floats *, int) {}

INLINE void exponentiate(Floats *scores, int keys, const Floats *reference, float unit, Floats *total) {
    for (int key = 0; key < keys; ++key) {
        UNROLL
        for (int column = 0; column < COLUMNS; ++column) {
            Floats &cell = scores[key * COLUMNS + column];
            cell = exp2((cell - reference[column]) * unit);
            total[column] += cell;
        }
    }
}

// accumulate_tile for a block that holds NaN or infinity: a pair of weight 0 contributes nothing.
template <int size>
static void accumulate_guarded(const Bfloat16 *value, int64_t stride, int keys, const Floats *weights,
                               const Floats *factor, Floats *output) {
    static thread_local float converted[BLOCK_N * size];
    convert_tile<size>(value, stride, keys, converted);
    accumulate_guarded<size>(converted, size, keys, weights, factor, output);
}
#endif
