// Whether every element of a tile of values is a finite number.
template <int size>
INLINE bool all_finite(const float *value, int64_t stride, int keys) {
    Ints finite = ints(-1);
    for (int key = 0; key < keys; ++key) {
        const float *row = value + key * stride;
        int d = 0;
        for (; d + LANES <= size; d += LANES) {
            const Floats x = load(row + d);
            finite &= x - x == 0.0f;
        }
        for (; d < size; ++d) finite &= mask(row[d] - row[d] == 0.0f);
    }
    bool result = true;
    for (int lane = 0; lane < LANES; ++lane) result &= finite[lane] != 0;
    return result;
}

// accumulate_tile for a tile that holds NaN or infinity: a pair of weight 0 contributes nothing.
template <int size>
static void accumulate_guarded(const float *value, int64_t stride, int keys, const Seen &seen, const Floats *weights,
                               const Floats *factor, Floats *output) {
    for (int d = 0; d < size; ++d) {
        for (int column = 0; column < COLUMNS; ++column) {
            const int first = seen.few ? seen.first[column] : 0, last = seen.few ? seen.last[column] : keys;
            Floats sum = output[d * COLUMNS + column] * factor[column];
            for (int key = first; key < last; ++key) {
                const Floats weight = weights[key * COLUMNS + column];
                sum += select(weight == 0.0f, floats(0.0f), weight * value[key * stride + d]);
            }
            output[d * COLUMNS + column] = sum;
        }
    }
}
