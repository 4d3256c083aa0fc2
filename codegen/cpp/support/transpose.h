// Rows in memory to lanes and back, by transposing LANES x LANES blocks in registers.
template <int distance, int... lane>
INLINE void exchange(Floats &x, Floats &y, std::integer_sequence<int, lane...>) {
    const Floats upper = __builtin_shufflevector(x, y, (lane & distance ? lane - distance + LANES : lane)...);
    const Floats lower = __builtin_shufflevector(x, y, (lane & distance ? lane + LANES : lane + distance)...);
    x = upper;
    y = lower;
}

template <int distance>
INLINE void exchange_rows(Floats (&block)[LANES]) {
    UNROLL
    for (int row = 0; row < LANES; ++row)
        if ((row & distance) == 0)
            exchange<distance>(block[row], block[row + distance], std::make_integer_sequence<int, LANES>{});
    if constexpr (distance > 1) exchange_rows<distance / 2>(block);
}

INLINE void transpose(Floats (&block)[LANES]) { exchange_rows<LANES / 2>(block); }

// Which rows the lanes of a tile are: the first so many, the last of which further lanes repeat, or those of a table.
INLINE int64_t row_of_lane(int rows, int lane) { return lane < rows ? lane : rows - 1; }
INLINE int64_t row_of_lane(const int32_t *rows, int lane) { return rows[lane]; }

// How many lanes from `first` on have a row of their own to write; rows of a table may be written twice.
INLINE int lanes_to_write(int rows, int first) { return rows - first < LANES ? rows - first : LANES; }
INLINE int lanes_to_write(const int32_t *, int) { return LANES; }

// to[d][query] = from[query][d] * factor for the rows of a tile.
template <int size, class T, class Rows>
static void load_columns(const T *from, int64_t stride, Rows rows, float factor, Floats *to, int columns) {
    for (int column = 0; column < columns; ++column) {
        const T *row[LANES];
        for (int lane = 0; lane < LANES; ++lane)
            row[lane] = from + row_of_lane(rows, column * LANES + lane) * stride;
        int d = 0;
        for (; d + LANES <= size; d += LANES) {
            Floats block[LANES];
            UNROLL
            for (int lane = 0; lane < LANES; ++lane) block[lane] = load(row[lane] + d);
            transpose(block);
            UNROLL
            for (int lane = 0; lane < LANES; ++lane) to[(d + lane) * columns + column] = block[lane] * factor;
        }
        for (; d < size; ++d)
            for (int lane = 0; lane < LANES; ++lane)
                to[d * columns + column][lane] = to_float(row[lane][d]) * factor;
    }
}

// to[query][d] = from[d][query] * factor[query] for the rows of a tile.
template <int size, class T, class Rows>
static void store_columns(const Floats *from, const Floats *factor, T *to, int64_t stride, Rows rows, int columns) {
    for (int column = 0; column < columns; ++column) {
        const int lanes = lanes_to_write(rows, column * LANES);
        T *row[LANES];
        for (int lane = 0; lane < lanes; ++lane) row[lane] = to + row_of_lane(rows, column * LANES + lane) * stride;
        int d = 0;
        for (; d + LANES <= size; d += LANES) {
            Floats block[LANES];
            UNROLL
            for (int lane = 0; lane < LANES; ++lane)
                block[lane] = from[(d + lane) * columns + column] * factor[column];
            transpose(block);
            for (int lane = 0; lane < lanes; ++lane) store(row[lane] + d, block[lane]);
        }
        for (; d < size; ++d) {
            const Floats element = from[d * columns + column] * factor[column];
            for (int lane = 0; lane < lanes; ++lane) store_one(row[lane] + d, element[lane]);
        }
    }
}
