// The two matrix products of a tile. Lanes are queries: a row of COLUMNS vectors holds one number
// for each of the BLOCK_M queries, and keys and values are broadcast from where they lie in memory.
constexpr int COLUMNS = BLOCK_M / LANES;
constexpr int GROUP = COLUMNS % 2 == 0 ? 2 : 1;
// Accumulators are ROWS x GROUP of the processor's 32 or 16 vector registers.
#if defined(__AVX512F__)
constexpr int ROWS = 8;
#else
constexpr int ROWS = 4;
#endif

// How a block of keys is visited.
struct Partial {
    static constexpr bool partial = true;
};
struct Full {
    static constexpr bool partial = false;
};

// A product of numbers, added to a sum.
struct AddProduct {
    typedef float Number;
    INLINE Floats spread(float x) { return floats(x); }
    INLINE Floats add(Floats sum, Floats x, Floats y) { return sum + x * y; }
};

// A block of rows x group accumulators: scores[row][column] (+)= sum over d of keys[row][d] * query[d][column].
template <bool first, class Sum = AddProduct, int rows = ROWS, int group = GROUP>
INLINE void dot_rows(const typename Sum::Number *const (&keys)[rows], const Floats *query, int depth, Floats *scores) {
    Floats sum[rows][group];
    UNROLL
    for (int row = 0; row < rows; ++row) {
        UNROLL
        for (int column = 0; column < group; ++column)
            sum[row][column] = first ? Floats{} : scores[row * COLUMNS + column];
    }
    for (int d = 0; d < depth; ++d) {
        Floats element[group];
        UNROLL
        for (int column = 0; column < group; ++column) element[column] = query[d * COLUMNS + column];
        UNROLL
        for (int row = 0; row < rows; ++row) {
            const Floats key = Sum::spread(keys[row][d]);
            UNROLL
            for (int column = 0; column < group; ++column)
                sum[row][column] = Sum::add(sum[row][column], key, element[column]);
        }
    }
    UNROLL
    for (int row = 0; row < rows; ++row) {
        UNROLL
        for (int column = 0; column < group; ++column) scores[row * COLUMNS + column] = sum[row][column];
    }
}

// scores[key][query] = sum over d of key[key][d] * query[d][query], for the first `keys` keys of a tile.
// Rows past the last key repeat it. `ahead` is memory that is needed next: one row is fetched for each key.
template <int size>
INLINE void dot_tile(const float *key, int64_t stride, int keys, const Floats *query, Floats *scores,
                     const float *ahead, int64_t ahead_stride, int ahead_size) {
    // A part of the query small enough to stay in the first-level cache while the keys pass by.
    constexpr int PART = size <= 128 ? size : 128;
    for (int part = 0; part < size; part += PART) {
        const int depth = size - part < PART ? size - part : PART;
        const auto dot = [&](const float *const (&rows)[ROWS], int first) __attribute__((always_inline)) {
            UNROLL
            for (int row = 0; row < ROWS; ++row)
                if (part == 0)
                    for (int d = 0; d < ahead_size; d += 16)
                        __builtin_prefetch(ahead + minimum(first + row, keys - 1) * ahead_stride + d, 0, 2);
            for (int group = 0; group < COLUMNS; group += GROUP) {
                if (part == 0)
                    dot_rows<true>(rows, query + part * COLUMNS + group, depth, scores + first * COLUMNS + group);
                else
                    dot_rows<false>(rows, query + part * COLUMNS + group, depth, scores + first * COLUMNS + group);
            }
        };
        const float *rows[ROWS];
        const float *from = key + part;
        int first = 0;
        for (; first + ROWS <= keys; first += ROWS, from += ROWS * stride) {
            UNROLL
            for (int row = 0; row < ROWS; ++row) rows[row] = from + row * stride;
            dot(rows, first);
        }
        if (first < keys) {
            UNROLL
            for (int row = 0; row < ROWS; ++row) rows[row] = from + minimum(row, keys - first - 1) * stride;
            dot(rows, first);
        }
    }
}

// output[d][query] = output[d][query] * factor[query] + sum over keys of value[key][d] * weights[key][query],
// for `rows` consecutive d; `key_stride` and `stride` are the steps from one key and one d to the next.
template <int rows, class Sum = AddProduct, int group = GROUP>
INLINE void accumulate_rows(const typename Sum::Number *value, int64_t key_stride, int64_t stride, int keys,
                            const Floats *weights, const Floats *factor, Floats *output) {
    Floats sum[rows][group];
    UNROLL
    for (int row = 0; row < rows; ++row) {
        UNROLL
        for (int column = 0; column < group; ++column)
            sum[row][column] = output[row * COLUMNS + column] * factor[column];
    }
    for (int key = 0; key < keys; ++key) {
        Floats weight[group];
        UNROLL
        for (int column = 0; column < group; ++column) weight[column] = weights[key * COLUMNS + column];
        UNROLL
        for (int row = 0; row < rows; ++row) {
            const Floats element = Sum::spread(value[key * key_stride + row * stride]);
            UNROLL
            for (int column = 0; column < group; ++column)
                sum[row][column] = Sum::add(sum[row][column], element, weight[column]);
        }
    }
    UNROLL
    for (int row = 0; row < rows; ++row) {
        UNROLL
        for (int column = 0; column < group; ++column) output[row * COLUMNS + column] = sum[row][column];
    }
}

// The whole of it for vectors of `size` elements. `ahead` is memory that is needed next, one row for each key.
template <int size>
INLINE void accumulate_tile(const float *value, int64_t stride, int keys, const Floats *weights,
                            const Floats *factor, Floats *output,
                            const float *ahead, int64_t ahead_stride, int ahead_size) {
    constexpr int STEPS = (size + ROWS - 1) / ROWS;
    constexpr int FETCHES = (BLOCK_N + STEPS - 1) / STEPS;
    int fetched = 0;
    for (int d = 0; d < size; d += ROWS) {
        for (int fetch = 0; fetch < FETCHES && fetched < BLOCK_N; ++fetch, ++fetched)
            for (int element = 0; element < ahead_size; element += 16)
                __builtin_prefetch(ahead + fetched * ahead_stride + element, 0, 2);
        for (int group = 0; group < COLUMNS; group += GROUP) {
            if (d + ROWS <= size)
                accumulate_rows<ROWS>(value + d, stride, 1, keys, weights + group, factor + group,
                                      output + d * COLUMNS + group);
            else
                accumulate_rows<size % ROWS == 0 ? ROWS : size % ROWS>(
                    value + d, stride, 1, keys, weights + group, factor + group, output + d * COLUMNS + group);
        }
    }
}
