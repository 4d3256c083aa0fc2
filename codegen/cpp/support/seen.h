// The keys of a block that each column of queries may see, in steps of 4: those outside are hidden from all its lanes.
// Blocks on the edge of what is visible are worked on column by column where that leaves a good part out.
constexpr int SEEN_STEP = 4;

struct Seen {
    int32_t first[COLUMNS], last[COLUMNS];
    bool few;
};

// The part of a block of keys [first_key, first_key + keys) that lies between `first` and `last`.
INLINE Seen seen_in_block(const int32_t (&first)[COLUMNS], const int32_t (&last)[COLUMNS], int32_t first_key,
                          int32_t keys) {
    Seen seen;
    int32_t pairs = 0;
    for (int column = 0; column < COLUMNS; ++column) {
        seen.first[column] = minimum(maximum(first[column] - first_key, 0), keys) / SEEN_STEP * SEEN_STEP;
        seen.last[column] = maximum(minimum(last[column] - first_key, keys), seen.first[column]);
        pairs += seen.last[column] - seen.first[column];
    }
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
static void dot_seen(const Key *key, int64_t stride, int keys, const Seen &seen, const Floats *query, Floats *scores) {
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
static void accumulate_seen(const float *value, int64_t stride, const Seen &seen, const Floats *weights,
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
