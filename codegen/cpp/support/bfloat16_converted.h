// Without instructions for bfloat16 the tiles are converted to float.
#if !defined(BFLOAT16_PAIRS)
struct MatrixUnit {
    ~MatrixUnit() {}
};

template <int size>
struct QueryTile {
    Floats elements[size * COLUMNS];
};

template <int size, class Rows>
static void load_queries(const Bfloat16 *from, int64_t stride, Rows rows, bool negate, QueryTile<size> &to) {
    load_columns<size>(from, stride, rows, negate ? -1.0f : 1.0f, to.elements, COLUMNS);
}

template <int size>
static void dot_tile(const Bfloat16 *key, int64_t stride, int keys, const QueryTile<size> &query, Floats *scores) {
    static thread_local float converted[BLOCK_N * size];
    convert_tile<size>(key, stride, keys, converted);
    dot_tile<size>(converted, size, keys, query.elements, scores, converted, size, 0);
}

template <int size>
static void dot_seen(const Bfloat16 *key, int64_t stride, int keys, const Seen &seen, const QueryTile<size> &query,
                     Floats *scores) {
    static thread_local float converted[BLOCK_N * size];
    convert_tile<size>(key, stride, keys, converted);
    dot_seen<size>(converted, size, keys, seen, query.elements, scores);
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

template <int size>
static void accumulate_seen(const Bfloat16 *value, int64_t stride, const int32_t *, const Seen &seen,
                            const Floats *weights, const Floats *factor, bool, Floats *output) {
    static thread_local float converted[BLOCK_N * size];
    int32_t keys = 0;
    for (int column = 0; column < COLUMNS; ++column) keys = maximum(keys, seen.last[column]);
    convert_tile<size>(value, stride, keys, converted);
    accumulate_seen<size>(converted, size, seen, weights, factor, output);
}

INLINE bool any(Ints x) {
    bool result = false;
    for (int lane = 0; lane < LANES; ++lane) result |= x[lane] != 0;
    return result;
}

template <class Weigh>
INLINE void make_pairs(Floats *weights, int keys, const Seen &seen, Weigh weigh) {
    make_weights(weights, keys, seen, weigh);
}

INLINE void exponentiate(Floats *scores, int keys, const Seen &seen, const Floats *reference, float unit,
                         Floats *total) {
    make_weights(scores, keys, seen, [&](int key, int column) __attribute__((always_inline)) {
        const Floats weight = exp2((scores[key * COLUMNS + column] - reference[column]) * unit);
        total[column] += weight;
        return weight;
    });
}

// accumulate_tile for a block that holds NaN or infinity: a pair of weight 0 contributes nothing.
template <int size>
static void accumulate_guarded(const Bfloat16 *value, int64_t stride, int keys, const Seen &seen,
                               const Floats *weights, const Floats *factor, Floats *output) {
    static thread_local float converted[BLOCK_N * size];
    convert_tile<size>(value, stride, keys, converted);
    accumulate_guarded<size>(converted, size, keys, seen, weights, factor, output);
}
#endif
