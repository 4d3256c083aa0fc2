// Rows of bfloat16 numbers, two in a word: the even ones and the odd ones are floats after a shift and a mask,
// so both operands are kept in that order and nothing is widened.
INLINE Words load_words(const Bfloat16 *from) {
    Words words;
    __builtin_memcpy(&words, from, sizeof words);
    return words;
}

INLINE Floats even_of(Words words) { return (Floats)(words << 16); }
INLINE Floats odd_of(Words words) { return (Floats)(words & 0xffff0000u); }

template <int... lane>
INLINE void separate(const float *from, Floats &even, Floats &odd, std::integer_sequence<int, lane...>) {
    const Floats first = load(from), second = load(from + LANES);
    even = __builtin_shufflevector(first, second, 2 * lane...);
    odd = __builtin_shufflevector(first, second, (2 * lane + 1)...);
}

template <int... lane>
INLINE void join(Floats even, Floats odd, float *to, std::integer_sequence<int, lane...>) {
    store(to, __builtin_shufflevector(even, odd, (lane / 2 + lane % 2 * LANES)...));
    store(to + LANES, __builtin_shufflevector(even, odd, (LANES / 2 + lane / 2 + lane % 2 * LANES)...));
}

constexpr auto EVERY_LANE = std::make_integer_sequence<int, LANES>{};

template <int size>
INLINE void dot_keys(const Bfloat16 *key, int64_t stride, int keys, const float *queries, int count, Floats *scores) {
    if constexpr (size % (2 * LANES) != 0) {
        dot_keys<size, Bfloat16>(key, stride, keys, queries, count, scores);
    } else {
        constexpr int STEPS = size / (2 * LANES);
        for (int first = 0; first < keys; first += LANES) {
            for (int query = 0; query < count; ++query) {
                Floats even[STEPS], odd[STEPS], products[LANES];
                for (int step = 0; step < STEPS; ++step)
                    separate(queries + query * size + step * 2 * LANES, even[step], odd[step], EVERY_LANE);
                for (int lane = 0; lane < LANES; ++lane) {
                    const Bfloat16 *row = key + minimum(first + lane, keys - 1) * stride;
                    Floats even_sum{}, odd_sum{};
                    for (int step = 0; step < STEPS; ++step) {
                        const Words words = load_words(row + step * 2 * LANES);
                        even_sum += even_of(words) * even[step];
                        odd_sum += odd_of(words) * odd[step];
                    }
                    products[lane] = even_sum + odd_sum;
                }
                scores[query * COLUMNS + first / LANES] = sums_of(products);
            }
        }
    }
}

template <int steps>
INLINE void add_words(const Bfloat16 *value, int64_t stride, int keys, const float *weights, float factor,
                      float *output) {
    Floats even[2][steps], odd[2][steps];
    UNROLL
    for (int step = 0; step < steps; ++step) {
        separate(output + step * 2 * LANES, even[0][step], odd[0][step], EVERY_LANE);
        even[0][step] *= factor;
        odd[0][step] *= factor;
        even[1][step] = odd[1][step] = Floats{};
    }
    for (int key = 0; key < keys; key += 2) {
        UNROLL
        for (int turn = 0; turn < 2; ++turn) {
            if (key + turn < keys && weights[key + turn] != 0.0f) {
                const float weight = weights[key + turn];
                UNROLL
                for (int step = 0; step < steps; ++step) {
                    const Words words = load_words(value + (key + turn) * stride + step * 2 * LANES);
                    even[turn][step] += even_of(words) * weight;
                    odd[turn][step] += odd_of(words) * weight;
                }
            }
        }
    }
    UNROLL
    for (int step = 0; step < steps; ++step)
        join(even[0][step] + even[1][step], odd[0][step] + odd[1][step], output + step * 2 * LANES, EVERY_LANE);
}

template <int size>
INLINE void add_values(const Bfloat16 *value, int64_t stride, int keys, const float *weights, float factor,
                       float *output) {
    if constexpr (size % (2 * LANES) != 0) {
        add_values<size, Bfloat16>(value, stride, keys, weights, factor, output);
    } else {
        int d = 0;
        for (; d + 8 * LANES <= size; d += 8 * LANES)
            add_words<4>(value + d, stride, keys, weights, factor, output + d);
        for (; d + 4 * LANES <= size; d += 4 * LANES)
            add_words<2>(value + d, stride, keys, weights, factor, output + d);
        for (; d < size; d += 2 * LANES) add_words<1>(value + d, stride, keys, weights, factor, output + d);
    }
}
