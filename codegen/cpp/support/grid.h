// Tokens in boxes of a grid of several axes. Each axis may have classes: local coordinate c of a class is coordinate
// origin + modulus * c of the axis. A rolled axis has one class and goes on at 0 after its end.
struct Axis {
    int32_t length, modulus, pitch, phase, origin, wrap;
    int32_t first_query, last_query;  // the coordinates that queries have
    int32_t first_tile, tiles, first_lap, laps;
};

// Tiles of `pitch` queries each, which begin at local coordinates that are multiples of it less `phase`.
INLINE Axis cut_axis(int32_t length, int32_t modulus, int32_t pitch, int32_t phase, int32_t first, int32_t last) {
    const int32_t first_tile = floor_divide(floor_divide(first, modulus) + phase, pitch);
    const int32_t last_tile = floor_divide(floor_divide(last, modulus) + phase, pitch);
    return {length, modulus, pitch, phase, 0, INT32_MAX, first, last, first_tile, last_tile - first_tile + 1, 0, 1};
}

// Queries outside of the axis are in laps of their own.
INLINE Axis cut_rolled_axis(int32_t length, int32_t shift, int32_t pitch, int32_t phase, int32_t first, int32_t last) {
    Axis axis = cut_axis(length, 1, pitch, phase, 0, length - 1);
    axis.origin = floor_modulo(shift, length);
    axis.wrap = length;
    axis.first_lap = floor_divide(first, length);
    axis.laps = floor_divide(last, length) - axis.first_lap + 1;
    return axis;
}

// One axis of one tile: its class, and the local coordinates of its queries.
struct Along {
    int32_t length, modulus, origin, wrap, lap_start;
    int32_t keys;  // local coordinates 0 ... keys - 1 have keys
    int32_t start, i_first, i_last;

    // The coordinate of the axis that a local one is.
    int32_t coordinate(int32_t local) const {
        const int32_t at = origin + modulus * local;
        return at < wrap ? at : at - wrap;
    }
};

template <int axes>
struct Grid {
    Axis axis[axes];

    int64_t tiles() const {
        int64_t result = 1;
        for (const Axis &one : axis) result *= static_cast<int64_t>(one.modulus) * one.tiles * one.laps;
        return result;
    }

    // Where a tile lies on each axis; false where it has no queries.
    bool place(int64_t tile, Along (&along)[axes]) const {
        int32_t number[axes];
        for (int a = axes - 1; a >= 0; --a) {
            const int32_t tiles = axis[a].tiles * axis[a].laps;
            number[a] = static_cast<int32_t>(tile % tiles);
            tile /= tiles;
        }
        bool has_queries = true;
        for (int a = axes - 1; a >= 0; --a) {
            const Axis &one = axis[a];
            const int32_t residue = static_cast<int32_t>(tile % one.modulus);
            tile /= one.modulus;
            const int32_t start = (one.first_tile + number[a] % one.tiles) * one.pitch - one.phase;
            const int32_t first = -floor_divide(residue - one.first_query, one.modulus);
            const int32_t last = floor_divide(one.last_query - residue, one.modulus);
            along[a] = {
                one.length,
                one.modulus,
                one.origin + residue,
                one.wrap,
                (one.first_lap + number[a] / one.tiles) * one.length,
                maximum(0, -floor_divide(residue - one.length, one.modulus)),
                start,
                maximum(start, first),
                minimum(start + one.pitch - 1, last),
            };
            has_queries &= along[a].i_first <= along[a].i_last;
        }
        return has_queries;
    }
};

// The queries in the lanes of a tile, which are row-major over the sides of its box.
template <int... sides>
struct alignas(64) Queries {
    static constexpr int AXES = sizeof...(sides), SIDES[] = {sides...};
    int32_t local[AXES][BLOCK_M], positions[BLOCK_M], rows[BLOCK_M];
    int32_t exists[BLOCK_M];  // -1 for a lane that has a query of its own, else 0

    // Lanes whose query does not exist repeat one that does; false where none does.
    bool place(const Along (&along)[AXES], int32_t offset, int32_t Lq) {
        int known = -1;
        for (int lane = 0; lane < BLOCK_M; ++lane) {
            int rest = lane;
            bool own = true;
            UNROLL
            for (int a = AXES - 1; a >= 0; --a) {
                const int32_t at = along[a].start + rest % SIDES[a];
                local[a][lane] = minimum(maximum(at, along[a].i_first), along[a].i_last);
                own &= at == local[a][lane];
                rest /= SIDES[a];
            }
            int32_t position = 0;
            UNROLL
            for (int a = 0; a < AXES; ++a)
                position = position * along[a].length + along[a].lap_start + along[a].coordinate(local[a][lane]);
            positions[lane] = position;
            rows[lane] = position - offset;
            exists[lane] = -static_cast<int32_t>(own && 0 <= rows[lane] && rows[lane] < Lq);
            if (0 <= rows[lane] && rows[lane] < Lq) {
                for (int before = 0; known < 0 && before < lane; ++before) copy(lane, before);
                known = lane;
            } else if (known >= 0) {
                copy(known, lane);
            }
        }
        return known >= 0;
    }

    void copy(int from, int to) {
        for (int a = 0; a < AXES; ++a) local[a][to] = local[a][from];
        positions[to] = positions[from];
        rows[to] = rows[from];
    }
};

// Local coordinates [first, last) along one axis.
struct Window {
    int32_t first, last;
    int32_t size() const { return maximum(0, last - first); }
};

// How many keys there are in a tile's windows, and in one coordinate of the first axis; the keys numbered from
// `full_first` to `full_last` are seen by all queries.
struct Numbers {
    int32_t count, row, full_first, full_last;
};

template <int axes>
INLINE Numbers number_keys(const Window (&seen)[axes], const Window (&full)[axes]) {
    int32_t row = 1;
    bool rows_are_full = true;
    for (int a = 1; a < axes; ++a) {
        row *= seen[a].size();
        rows_are_full &= full[a].first <= seen[a].first && seen[a].last <= full[a].last;
    }
    const int32_t count = seen[0].size() * row;
    const Window both = {maximum(full[0].first, seen[0].first), minimum(full[0].last, seen[0].last)};
    const int32_t known = both.size() * row;
    // A few full keys among others are not worth blocks of their own.
    if (!rows_are_full || (known < count && known < 2 * BLOCK_N)) return {count, row, count, count};
    const int32_t first = (both.first - seen[0].first) * row;
    return {count, row, first, first + known};
}

INLINE const Ints *lanes_of(const int32_t (&values)[BLOCK_M]) { return reinterpret_cast<const Ints *>(values); }

// The keys of a block: from key number `first` on of those in the windows, row-major.
template <int axes>
struct Keys {
    int32_t local[axes][BLOCK_N], numbers[BLOCK_N];

    void place(const Along (&along)[axes], const Window (&window)[axes], int32_t first, int32_t keys) {
        int32_t at[axes];
        for (int a = axes - 1; a >= 0; --a) {
            const int32_t size = window[a].last - window[a].first;
            at[a] = window[a].first + first % size;
            first /= size;
        }
        for (int key = 0; key < keys;) {
            // A run along the last axis.
            constexpr int LAST = axes - 1;
            int32_t number = 0;
            for (int a = 0; a < LAST; ++a)
                number = (number + along[a].coordinate(at[a])) * along[a + 1].length;
            const int run = minimum(keys - key, window[LAST].last - at[LAST]);
            for (int step = 0; step < run; ++step) {
                numbers[key + step] = number + along[LAST].coordinate(at[LAST] + step);
                UNROLL
                for (int a = 0; a < LAST; ++a) local[a][key + step] = at[a];
                local[LAST][key + step] = at[LAST] + step;
            }
            key += run;
            at[LAST] = window[LAST].first;
            for (int a = LAST - 1; a >= 0 && ++at[a] == window[a].last && a > 0; --a) at[a] = window[a].first;
        }
    }
};
