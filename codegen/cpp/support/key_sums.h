// The products of a tile where much else is done with its pairs: loops that need every register are functions.
template <int size>
APART void dot_apart(const float *key, int64_t stride, int keys, const Floats *query, Floats *scores) {
    dot_tile<size>(key, stride, keys, query, scores, key, stride, 0);
}

template <int size>
APART void accumulate_apart(const float *value, int64_t stride, int keys, const Floats *weights, const Floats *factor,
                            Floats *output) {
    accumulate_tile<size>(value, stride, keys, weights, factor, output, value, stride, 0);
}

// Sums over the queries of a tile, for each key of a block: lanes are the elements of a vector.

// A vector's length, up to whole registers.
constexpr int padded(int size) { return (size + LANES - 1) / LANES * LANES; }

// One query's vector as floats, or 0.
template <int size, class T>
INLINE void load_rows_of(const T *from, bool exists, float *to) {
    int d = 0;
    if (exists) {
        for (; d + LANES <= size; d += LANES) store(to + d, load(from + d));
        for (; d < size; ++d) to[d] = to_float(from[d]);
    }
    for (; d < padded(size); ++d) to[d] = 0.0f;
}

// The vectors of a tile's queries as floats, row after row; rows past the last query are 0.
template <int size, class T>
static void load_rows(const T *from, int64_t stride, int rows, const Ints *, float *to) {
    for (int row = 0; row < BLOCK_M; ++row)
        load_rows_of<size>(from + row * stride, row < rows, to + row * padded(size));
}

// The same for rows that lie anywhere; those of lanes that have no query of their own are 0.
template <int size, class T>
static void load_rows(const T *from, int64_t stride, const int32_t *rows, const Ints *exists, float *to) {
    for (int row = 0; row < BLOCK_M; ++row)
        load_rows_of<size>(from + rows[row] * stride, exists[row / LANES][row % LANES] != 0, to + row * padded(size));
}

// Where the sums of a block's keys lie: one after the other, or anywhere.
struct KeyRows {
    float *first;
    int64_t stride;
    float *operator()(int key) const { return first + key * stride; }
    KeyRows from(int key) const { return {first + key * stride, stride}; }
};
struct GatheredKeyRows {
    float *first;
    int64_t stride;
    const int32_t *numbers;
    float *operator()(int key) const { return first + numbers[key] * stride; }
    GatheredKeyRows from(int key) const { return {first, stride, numbers + key}; }
};

// As many elements as there are of the last vector.
INLINE Floats load_some(const float *from, int count) {
    Floats result{};
    for (int lane = 0; lane < count; ++lane) result[lane] = from[lane];
    return result;
}
INLINE void store_some(float *to, Floats x, int count) {
    for (int lane = 0; lane < count; ++lane) to[lane] = x[lane];
}

// to[key][d] += sum over queries of value[key][query] * row[query][d], for `keys` x `group` accumulators. `next` are
// the sums that are added to after these: what has left the caches is fetched in time.
template <int keys, int group, class Rows>
INLINE void add_to_keys(const float *value, const float *row, int width, int queries, int elements,
                        Rows to, Rows next, int d) {
    Floats sum[keys][group];
    UNROLL
    for (int key = 0; key < keys; ++key) {
        UNROLL
        for (int part = 0; part < group; ++part) {
            const float *from = to(key) + d + part * LANES;
            const int left = elements - part * LANES;
            sum[key][part] = left >= LANES ? load(from) : load_some(from, left);
            __builtin_prefetch(next(key) + d + part * LANES, 1, 3);
        }
    }
    for (int query = 0; query < queries; ++query, ++value, row += width) {
        Floats element[group];
        UNROLL
        for (int part = 0; part < group; ++part) element[part] = load(row + part * LANES);
        UNROLL
        for (int key = 0; key < keys; ++key) {
            const Floats weight = floats(value[key * BLOCK_M]);
            UNROLL
            for (int part = 0; part < group; ++part) sum[key][part] += weight * element[part];
        }
    }
    UNROLL
    for (int key = 0; key < keys; ++key) {
        UNROLL
        for (int part = 0; part < group; ++part) {
            float *into = to(key) + d + part * LANES;
            const int left = elements - part * LANES;
            if (left >= LANES)
                store(into, sum[key][part]);
            else
                store_some(into, sum[key][part], left);
        }
    }
}

// The whole of it for vectors of `size` elements.
template <int size, class Rows>
APART void add_keys(const Floats *values, const float *row, int queries, int keys, Rows to) {
    constexpr int WIDTH = padded(size);
    constexpr int PARTS = WIDTH / LANES % 2 == 0 ? 2 : 1;
    const float *value = reinterpret_cast<const float *>(values);
    for (int d = 0; d < size; d += PARTS * LANES) {
        int key = 0;
        Rows at = to;
        for (; key + ROWS <= keys; key += ROWS) {
            const Rows next = key + 2 * ROWS <= keys ? at.from(ROWS) : at;
            add_to_keys<ROWS, PARTS>(value + key * BLOCK_M, row + d, WIDTH, queries, size - d, at, next, d);
            at = next;
        }
        for (; key < keys; ++key) {
            at = to.from(key);
            add_to_keys<1, PARTS>(value + key * BLOCK_M, row + d, WIDTH, queries, size - d, at, at, d);
        }
    }
}

// The same where a query's vector holds NaN or infinity: a pair of weight 0 contributes nothing.
template <int size, class Rows>
static void add_keys_guarded(const Floats *values, const float *row, int queries, int keys, Rows to) {
    const float *value = reinterpret_cast<const float *>(values);
    for (int key = 0; key < keys; ++key)
        for (int query = 0; query < queries; ++query) {
            const float weight = value[key * BLOCK_M + query];
            if (weight == 0.0f) continue;
            for (int d = 0; d < size; ++d) to(key)[d] += weight * row[query * padded(size) + d];
        }
}

INLINE float sum_of_lanes(Floats x) {
    float result = 0.0f;
    UNROLL
    for (int lane = 0; lane < LANES; ++lane) result += x[lane];
    return result;
}

// to[offset] += x for the lanes that count, one after the other: several may mean one place.
INLINE void scatter_add(float *to, Longs offset, Floats x, Ints counts) {
    for (int lane = 0; lane < LANES; ++lane)
        if (counts[lane]) to[offset[lane]] += x[lane];
}

// A part of the queries and the blocks of one part of the keys, which meet in one phase; `is_first`: the queries have met
// no other keys.
struct Part {
    int32_t number, first_block, last_block;
    bool is_first;
    bool has(int32_t block) const { return first_block <= block && block < last_block; }
};

// The parts that meet as task `task` of a phase, the heaviest under a causal mask first.
INLINE Part part_of(int64_t task, int32_t phase, int32_t parts, int64_t blocks) {
    const int32_t number = static_cast<int32_t>(parts - 1 - task % parts), keys = (number + phase) % parts;
    return {number, static_cast<int32_t>(keys * blocks / parts), static_cast<int32_t>((keys + 1) * blocks / parts),
            phase == 0};
}

// Nothing has been added to these yet.
static void clear(float *to, int64_t count, int threads) {
    constexpr int64_t EACH = 1 << 18;
    threads = count < EACH ? 1 : threads;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < count; first += EACH)
        __builtin_memset(to + first, 0, sizeof(float) * minimum(EACH, count - first));
}

// total = the sum of so many copies, each of `count` numbers in all copies together.
static void add_copies(const float *copies, int64_t number, int64_t count, float *total, int threads) {
    const int64_t each = number == 0 ? 0 : count / number;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t place = 0; place < each; ++place) {
        float sum = 0.0f;
        for (int64_t copy = 0; copy < number; ++copy) sum += copies[copy * each + place];
        total[place] = sum;
    }
}
