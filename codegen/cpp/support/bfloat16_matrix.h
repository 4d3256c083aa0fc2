// The two products of a tile on the processor's matrix unit (AMX).
#if defined(BFLOAT16_PAIRS) && defined(__AMX_BF16__)
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
// The unit's tiles are too large to leave out what a column of queries does not see.
template <int size>
static void dot_seen(const Bfloat16 *key, int64_t stride, int keys, const Seen &, const QueryTile<size> &query,
                     Floats *scores) {
    dot_tile<size>(key, stride, keys, query, scores);
}

template <int size>
static void accumulate_seen(const Bfloat16 *value, int64_t stride, const int32_t *turned, const Seen &seen,
                            const Floats *weights, const Floats *factor, bool changed, Floats *output) {
    int32_t keys = 0;
    for (int column = 0; column < COLUMNS; ++column) keys = maximum(keys, seen.last[column]);
    accumulate_tile<size>(value, stride, turned, keys, weights, factor, changed, output);
}
#endif
