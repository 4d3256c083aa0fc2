// Which pairs of a block are visible: one bit for each lane of each vector of pairs.
typedef uint16_t Bits;

INLINE Bits bits_of(Ints mask) {
#if defined(__AVX512DQ__) && !defined(__clang__)
    typedef int Register __attribute__((vector_size(64)));
    return __builtin_ia32_cvtd2mask512(static_cast<Register>(mask));
#elif defined(__AVX2__) && !defined(__AVX512F__)
    return static_cast<Bits>(__builtin_ia32_movmskps256((Floats)mask));
#else
    Bits bits = 0;
    for (int lane = 0; lane < LANES; ++lane) bits = static_cast<Bits>(bits | (mask[lane] & 1) << lane);
    return bits;
#endif
}

INLINE Floats select(Bits bits, Floats then, Floats otherwise) {
#if defined(__AVX512F__) && !defined(__clang__)
    typedef float Register __attribute__((vector_size(64)));
    return __builtin_ia32_blendmps_512_mask(static_cast<Register>(otherwise), static_cast<Register>(then), bits);
#else
    return select((ints(bits) & ints(1) << lane_numbers()) != 0, then, otherwise);
#endif
}

// The keys of a block that some query of each column sees, in steps of 4. Where that leaves a good part out, products
// are made column by column.
constexpr int SEEN_STEP = 4;

struct Seen {
    int32_t first[COLUMNS], last[COLUMNS];
    bool none, few;
};

INLINE Seen seen_in_block(const Bits *visible, int32_t keys) {
    Seen seen;
    int32_t pairs = 0;
    for (int column = 0; column < COLUMNS; ++column) {
        int32_t first = 0, last = keys;
        while (first < last && visible[first * COLUMNS + column] == 0) ++first;
        while (first < last && visible[(last - 1) * COLUMNS + column] == 0) --last;
        seen.first[column] = first < last ? first / SEEN_STEP * SEEN_STEP : 0;
        seen.last[column] = first < last ? last : 0;
        pairs += seen.last[column] - seen.first[column];
    }
    seen.none = pairs == 0;
    seen.few = 4 * pairs <= 3 * COLUMNS * keys;
    return seen;
}

// The scores of `rows` keys from `first` on and of one column; rows past the last key repeat it.
template <int size, int rows, class Sum, class Key>
INLINE void dot_column(const Key *key, int64_t stride, int first, int keys, const Floats *query, Floats *scores) {
    constexpr int STEP = sizeof(typename Sum::Number) / sizeof(Key);
    const typename Sum::Number *from[rows];
    UNROLL
    for (int row = 0; row < rows; ++row) {
        const int number = minimum(first + row, keys - 1);
        from[row] = reinterpret_cast<const typename Sum::Number *>(key + number * stride);
    }
    dot_rows<true, Sum, rows, 1>(from, query, size / STEP, scores + first * COLUMNS);
}

// dot_tile for the pairs that may be visible; the other scores stay as they are.
template <int size, class Sum = AddProduct, class Key>
APART void dot_seen(const Key *key, int64_t stride, int keys, const Seen &seen, const Floats *query, Floats *scores) {
    for (int column = 0; column < COLUMNS; ++column) {
        int first = seen.first[column];
        for (; first + SEEN_STEP < seen.last[column]; first += 2 * SEEN_STEP)
            dot_column<size, 2 * SEEN_STEP, Sum>(key, stride, first, keys, query + column, scores + column);
        if (first < seen.last[column])
            dot_column<size, SEEN_STEP, Sum>(key, stride, first, keys, query + column, scores + column);
    }
}

// accumulate_tile for the pairs that may be visible.
template <int size>
APART void accumulate_seen(const float *value, int64_t stride, const Seen &seen, const Floats *weights,
                            const Floats *factor, Floats *output) {
    constexpr int TOGETHER = 8, REST = size % TOGETHER == 0 ? TOGETHER : size % TOGETHER;
    for (int column = 0; column < COLUMNS; ++column) {
        const int first = seen.first[column], keys = seen.last[column] - first;
        const Floats *weight = weights + first * COLUMNS + column;
        const float *from = value + first * stride;
        int d = 0;
        for (; d + TOGETHER <= size; d += TOGETHER)
            accumulate_rows<TOGETHER, AddProduct, 1>(from + d, stride, 1, keys, weight, factor + column,
                                                     output + d * COLUMNS + column);
        if (d < size)
            accumulate_rows<REST, AddProduct, 1>(from + d, stride, 1, keys, weight, factor + column,
                                                 output + d * COLUMNS + column);
    }
}
