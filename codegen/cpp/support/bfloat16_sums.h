// Sums over the queries of a tile on bfloat16 operands: values of pairs are rounded, and lanes are the elements of a
// vector. Where the processor multiplies two numbers at a time, a word holds those of two queries.
#if defined(BFLOAT16_PAIRS)
// One of the two numbers of a word.
INLINE float half_of_word(int32_t word, int number) {
    return to_float(Bfloat16{static_cast<uint16_t>(number % 2 == 0 ? word : word >> 16)});
}

struct RoundedValues {
    alignas(64) int32_t words[BLOCK_N * BLOCK_M / 2];
    float operator()(int key, int query) const {
        return half_of_word(words[key * (BLOCK_M / 2) + query / 2], query);
    }
};

template <int size>
struct RowPairs {
    Floats words[BLOCK_M / 2 * (size / LANES)];
    float operator()(int query, int d) const {
        return half_of_word(((Ints)words[query / 2 * (size / LANES) + d / LANES])[d % LANES], query);
    }
};

// The vectors of a tile's queries, those of two in one word; whether all are finite. Past the last query they are 0.
template <int size>
static bool load_row_pairs(const Bfloat16 *from, int64_t stride, int rows, RowPairs<size> &to) {
    Words largest{};
    for (int query = 0; query < BLOCK_M; query += 2)
        for (int d = 0; d < size; d += LANES) {
            Words even{}, odd{};
            if (query < rows) even = (Words)load(from + query * stride + d);
            if (query + 1 < rows) odd = (Words)load(from + (query + 1) * stride + d);
            largest = maximum(largest, maximum(even & 0x7f800000u, odd & 0x7f800000u));
            to.words[(query / 2 * size + d) / LANES] = (Floats)((even >> 16) | odd);
        }
    bool finite = true;
    for (int lane = 0; lane < LANES; ++lane) finite &= largest[lane] != 0x7f800000u;
    return finite;
}

// Values of the first `keys` keys of a block, rounded, in the order of queries.
INLINE void round_values(const Floats *values, int keys, RoundedValues &to) {
    for (int place = 0; place < keys * COLUMNS; place += 2) {
        Floats rounded;
        __asm__("vcvtne2ps2bf16 %1, %2, %0" : "=v"(rounded) : "v"(values[place]), "v"(values[place + 1]));
        store(reinterpret_cast<float *>(to.words) + place / 2 * LANES, rounded);
    }
}

INLINE Floats add_word_products(Floats sum, Floats x, Floats y) {
    __asm__("vdpbf16ps %1, %2, %0" : "+v"(sum) : "v"(x), "v"(y));
    return sum;
}

// to[key][d] += sum over queries of value[key][query] * row[query][d], for `keys` x `group` accumulators.
template <int keys, int group, class Rows>
INLINE void add_words_to_keys(const int32_t *value, const Floats *row, int width, int pairs, Rows to, int first, int d) {
    Floats sum[keys][group];
    UNROLL
    for (int key = 0; key < keys; ++key) {
        UNROLL
        for (int part = 0; part < group; ++part) sum[key][part] = load(to(first + key) + d + part * LANES);
    }
    for (int pair = 0; pair < pairs; ++pair) {
        Floats element[group];
        UNROLL
        for (int part = 0; part < group; ++part) element[part] = row[pair * width + part];
        UNROLL
        for (int key = 0; key < keys; ++key) {
            const Floats weight = (Floats)ints(value[key * (BLOCK_M / 2) + pair]);
            UNROLL
            for (int part = 0; part < group; ++part)
                sum[key][part] = add_word_products(sum[key][part], weight, element[part]);
        }
    }
    UNROLL
    for (int key = 0; key < keys; ++key) {
        UNROLL
        for (int part = 0; part < group; ++part) store(to(first + key) + d + part * LANES, sum[key][part]);
    }
}

template <int size, class Rows>
APART void add_keys(const RoundedValues &values, const RowPairs<size> &row, int queries, int keys, Rows to) {
    constexpr int WIDTH = size / LANES, PARTS = 2;
    const int pairs = (queries + 1) / 2;
    for (int part = 0; part < WIDTH; part += PARTS) {
        int key = 0;
        for (; key + ROWS <= keys; key += ROWS)
            add_words_to_keys<ROWS, PARTS>(values.words + key * (BLOCK_M / 2), row.words + part, WIDTH, pairs, to, key,
                                           part * LANES);
        for (; key < keys; ++key)
            add_words_to_keys<1, PARTS>(values.words + key * (BLOCK_M / 2), row.words + part, WIDTH, pairs, to, key,
                                        part * LANES);
    }
}
#else
struct RoundedValues {
    Floats values[BLOCK_N * COLUMNS];
    float operator()(int key, int query) const { return values[key * COLUMNS + query / LANES][query % LANES]; }
};

template <int size>
struct RowPairs {
    alignas(64) float elements[BLOCK_M * padded(size)];
    float operator()(int query, int d) const { return elements[query * padded(size) + d]; }
};

template <int size>
static bool load_row_pairs(const Bfloat16 *from, int64_t stride, int rows, RowPairs<size> &to) {
    load_rows<size>(from, stride, rows, static_cast<const Ints *>(nullptr), to.elements);
    return all_finite<size>(to.elements, padded(size), rows);
}

INLINE void round_values(const Floats *values, int keys, RoundedValues &to) {
    for (int place = 0; place < keys * COLUMNS; ++place) to.values[place] = values[place];
}

template <int size, class Rows>
static void add_keys(const RoundedValues &values, const RowPairs<size> &row, int queries, int keys, Rows to) {
    add_keys<size>(values.values, row.elements, queries, keys, to);
}
#endif

// add_keys where a query's vector holds NaN or infinity: a pair of weight 0 contributes nothing.
template <int size, class Rows>
static void add_keys_guarded(const RoundedValues &values, const RowPairs<size> &row, int queries, int keys, Rows to) {
    for (int key = 0; key < keys; ++key)
        for (int query = 0; query < queries; ++query) {
            const float weight = values(key, query);
            if (weight == 0.0f) continue;
            for (int d = 0; d < size; ++d) to(key)[d] += weight * row(query, d);
        }
}
