// The two products of a tile by dot products of pairs (VDPBF16PS), which do twice the work of a multiplication in
// float. The loops are those of float tiles over half as many steps.
#if defined(BFLOAT16_PAIRS) && !defined(__AMX_BF16__)
struct MatrixUnit {
    ~MatrixUnit() {}
};

// sum + x[even] * y[even] + x[odd] * y[odd] in every lane.
struct AddPairs {
    typedef int32_t Number;
    INLINE Floats spread(int32_t x) { return (Floats)ints(x); }
    INLINE Floats add(Floats sum, Floats x, Floats y) {
        __asm__("vdpbf16ps %1, %2, %0" : "+v"(sum) : "v"(x), "v"(y));
        return sum;
    }
};

// scores[key][query] for the first `keys` keys of a tile; rows past the last key repeat it.
template <int size>
APART void dot_tile(const Bfloat16 *key, int64_t stride, int keys, const QueryTile<size> &query, Floats *scores) {
    // A part of the query small enough to stay in the first-level cache while the keys pass by.
    constexpr int PART = size <= 256 ? size : 256;
    for (int part = 0; part < size; part += PART) {
        const int depth = (size - part < PART ? size - part : PART) / 2;
        for (int first = 0; first < keys; first += ROWS) {
            const int32_t *rows[ROWS];
            UNROLL
            for (int row = 0; row < ROWS; ++row) {
                const int number = first + row < keys ? first + row : keys - 1;
                rows[row] = reinterpret_cast<const int32_t *>(key + number * stride + part);
            }
            for (int group = 0; group < COLUMNS; group += GROUP) {
                const Floats *elements = query.words + part / 2 * COLUMNS + group;
                if (part == 0)
                    dot_rows<true, AddPairs>(rows, elements, depth, scores + first * COLUMNS + group);
                else
                    dot_rows<false, AddPairs>(rows, elements, depth, scores + first * COLUMNS + group);
            }
        }
    }
}

// output[d][query] = output[d][query] * factor[query] + sum over keys.
template <int size>
APART void accumulate_tile(const Bfloat16 *, int64_t, const int32_t *turned, int keys, const Floats *weights,
                            const Floats *factor, bool, Floats *output) {
    for (int d = 0; d < size; d += ROWS) {
        for (int group = 0; group < COLUMNS; group += GROUP)
            accumulate_rows<ROWS, AddPairs>(turned + d * PAIRS, 1, PAIRS, (keys + 1) / 2, weights + group,
                                            factor + group, output + d * COLUMNS + group);
    }
}
template <int size>
static void dot_seen(const Bfloat16 *key, int64_t stride, int keys, const Seen &seen, const QueryTile<size> &query,
                     Floats *scores) {
    dot_seen<size, AddPairs>(key, stride, keys, seen, query.words, scores);
}

template <int size>
APART void accumulate_seen(const Bfloat16 *, int64_t, const int32_t *turned, const Seen &seen, const Floats *weights,
                            const Floats *factor, bool, Floats *output) {
    for (int column = 0; column < COLUMNS; ++column) {
        const int first = seen.first[column] / 2, pairs = (seen.last[column] + 1) / 2 - first;
        for (int d = 0; d < size; d += 8)
            accumulate_rows<8, AddPairs, 1>(turned + d * PAIRS + first, 1, PAIRS, pairs,
                                                   weights + first * COLUMNS + column, factor + column,
                                                   output + d * COLUMNS + column);
    }
}
#endif
