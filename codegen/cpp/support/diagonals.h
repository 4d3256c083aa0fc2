// Sums of a block's pairs along its diagonals, where query and key are equally far apart. Pair (key, query) is on
// diagonal query - key + LAST_DIAGONAL, so that the farther ahead a query is, the higher its number.
constexpr int KEY_STEPS = (BLOCK_N + LANES - 1) / LANES;
constexpr int LAST_DIAGONAL = KEY_STEPS * LANES - 1;
constexpr int DIAGONALS = COLUMNS + KEY_STEPS;

// The values of the diagonals from `first` on.
INLINE Floats load_diagonal(const Floats *values, int first) {
    return load(reinterpret_cast<const float *>(values) + first);
}
INLINE Ints load_diagonal(const Ints *values, int first) {
    return load(reinterpret_cast<const int32_t *>(values) + first);
}

// sums[diagonal] = the sum of value(key, column) on it. Keys a whole vector apart have their diagonals in the same
// lanes; `skewed` takes what is left to add for each of the others, DIAGONALS vectors in a row.
template <class Value>
INLINE void sum_diagonals(int keys, float *skewed, Value value, Floats *sums) {
    constexpr int WIDTH = DIAGONALS * LANES;
    for (int turn = 0; turn < LANES; ++turn) {
        Floats sum[DIAGONALS - 1]{};
        UNROLL
        for (int step = 0; step < KEY_STEPS; ++step) {
            const int key = step * LANES + turn;
            if (key < keys) {
                UNROLL
                for (int column = 0; column < COLUMNS; ++column)
                    sum[KEY_STEPS - 1 - step + column] += value(key, column);
            }
        }
        float *row = skewed + turn * WIDTH;
        store(row, Floats{});
        store(row + WIDTH - LANES, Floats{});
        UNROLL
        for (int part = 0; part < DIAGONALS - 1; ++part) store(row + LANES - 1 - turn + part * LANES, sum[part]);
    }
    for (int part = 0; part < DIAGONALS; ++part) {
        Floats sum{};
        for (int turn = 0; turn < LANES; ++turn) sum += load(skewed + turn * WIDTH + part * LANES);
        sums[part] = sum;
    }
}

// to[place[diagonal]] += sums[diagonal], for those that a pair may lie on, one after the other.
INLINE void add_diagonals(const Floats *sums, const Longs *place, int queries, int keys, float *to) {
    for (int diagonal = LAST_DIAGONAL + 1 - keys; diagonal < LAST_DIAGONAL + queries; ++diagonal)
        to[place[diagonal / LANES][diagonal % LANES]] += sums[diagonal / LANES][diagonal % LANES];
}
