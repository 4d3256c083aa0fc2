// Sums of a block's pairs along its diagonals, each pair's value times its query's vector: lanes are the elements of
// that vector. `padded_values` has ROWS rows of 0 around those of the keys.
constexpr int PADDED_KEYS = LAST_DIAGONAL + 1 + 2 * ROWS;

INLINE void pad_values(const Floats *values, int keys, Floats *padded_values) {
    for (int place = 0; place < PADDED_KEYS * COLUMNS; ++place) {
        const int from = place - ROWS * COLUMNS;
        padded_values[place] = from >= 0 && from < keys * COLUMNS ? values[from] : Floats{};
    }
}

// sums[diagonal][d] for ROWS x group accumulators.
template <int group>
INLINE void sum_rows_of_diagonals(const float *value, const float *row, int width, int queries, int first,
                                  float *sums) {
    Floats sum[ROWS][group]{};
    const int from = maximum(0, first - LAST_DIAGONAL), to = minimum(queries, first + ROWS);
    for (int query = from; query < to; ++query) {
        Floats element[group];
        UNROLL
        for (int part = 0; part < group; ++part) element[part] = load(row + query * width + part * LANES);
        const float *weights = value + (ROWS + LAST_DIAGONAL + query - first) * BLOCK_M + query;
        UNROLL
        for (int diagonal = 0; diagonal < ROWS; ++diagonal) {
            const Floats weight = floats(weights[-diagonal * BLOCK_M]);
            UNROLL
            for (int part = 0; part < group; ++part) sum[diagonal][part] += weight * element[part];
        }
    }
    UNROLL
    for (int diagonal = 0; diagonal < ROWS; ++diagonal) {
        UNROLL
        for (int part = 0; part < group; ++part)
            store(sums + (first + diagonal) * width + part * LANES, sum[diagonal][part]);
    }
}

// The whole of it for vectors of `size` elements: row[query][d], and sums[diagonal][d] up to whole registers.
template <int size>
APART void sum_rows_of_diagonals(const Floats *values, const float *row, int queries, int keys, Floats *padded_values,
                                 float *sums) {
    constexpr int WIDTH = padded(size);
    constexpr int PARTS = WIDTH / LANES % 2 == 0 ? 2 : 1;
    pad_values(values, keys, padded_values);
    const float *value = reinterpret_cast<const float *>(padded_values);
    for (int d = 0; d < size; d += PARTS * LANES)
        for (int first = 0; first < DIAGONALS * LANES; first += ROWS)
            sum_rows_of_diagonals<PARTS>(value, row + d, WIDTH, queries, first, sums + d);
}

// The same where a query's vector holds NaN or infinity: a pair of value 0 contributes nothing.
template <int size>
static void sum_rows_of_diagonals_guarded(const Floats *values, const float *row, int queries, int keys, float *sums) {
    constexpr int WIDTH = padded(size);
    const float *value = reinterpret_cast<const float *>(values);
    for (int place = 0; place < DIAGONALS * LANES * WIDTH; ++place) sums[place] = 0.0f;
    for (int key = 0; key < keys; ++key)
        for (int query = 0; query < queries; ++query) {
            const float weight = value[key * BLOCK_M + query];
            float *sum = sums + (query - key + LAST_DIAGONAL) * WIDTH;
            if (weight != 0.0f)
                for (int d = 0; d < size; ++d) sum[d] += weight * row[query * WIDTH + d];
        }
}

// The vectors of a tile's queries, row after row, of element(d, column).
template <int size, class Element>
INLINE void store_query_rows(Element element, float *row) {
    constexpr int WIDTH = padded(size);
    for (int d = 0; d < WIDTH; ++d)
        for (int column = 0; column < COLUMNS; ++column) {
            const Floats x = d < size ? element(d, column) : Floats{};
            for (int lane = 0; lane < LANES; ++lane) row[(column * LANES + lane) * WIDTH + d] = x[lane];
        }
}

// to[place[diagonal]] += the diagonal's vector, for those that a pair may lie on, one after the other: several may
// mean one place.
template <int size>
INLINE void add_rows_of_diagonals(const float *sums, const Longs *place, int queries, int keys, float *to) {
    constexpr int WIDTH = padded(size);
    for (int diagonal = LAST_DIAGONAL + 1 - keys; diagonal < LAST_DIAGONAL + queries; ++diagonal) {
        float *into = to + place[diagonal / LANES][diagonal % LANES];
        const float *sum = sums + diagonal * WIDTH;
        int d = 0;
        for (; d + LANES <= size; d += LANES) store(into + d, load(into + d) + load(sum + d));
        for (; d < size; ++d) into[d] += sum[d];
    }
}
