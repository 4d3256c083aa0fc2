// For a few queries: keys are read row by row and values too, as they come from memory; lanes are
// elements, and of the finished scores keys.
INLINE float greatest(Floats x) {
    float result = x[0];
    for (int lane = 1; lane < LANES; ++lane) result = maximum(result, x[lane]);
    return result;
}

INLINE float total_of(Floats x) {
    float result = 0.0f;
    for (int lane = 0; lane < LANES; ++lane) result += x[lane];
    return result;
}

// Adds the halves of two vectors that `distance` tells apart: lanes without that bit are about x, lanes
// with it about y.
template <int distance, int... lane>
INLINE Floats add_halves(Floats x, Floats y, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(x, y, (lane & distance ? lane + LANES : lane)...) +
           __builtin_shufflevector(x, y, (lane & distance ? (lane ^ distance) + LANES : lane ^ distance)...);
}

// The sum of vector number n in lane n.
template <int count = LANES / 2>
INLINE Floats sums_of(Floats *vectors) {
    UNROLL
    for (int number = 0; number < count; ++number)
        vectors[number] = add_halves<count>(vectors[number], vectors[number + count],
                                            std::make_integer_sequence<int, LANES>{});
    if constexpr (count > 1) return sums_of<count / 2>(vectors);
    return vectors[0];
}

// scores[query][key] for `count` queries, row after row of `size` floats. Lanes past the last key repeat it.
template <int size, class T>
INLINE void dot_keys(const T *key, int64_t stride, int keys, const float *queries, int count, Floats *scores) {
    constexpr int WHOLE = size / LANES * LANES;
    for (int first = 0; first < keys; first += LANES) {
        for (int query = 0; query < count; ++query) {
            const float *elements = queries + query * size;
            Floats products[LANES];
            UNROLL
            for (int lane = 0; lane < LANES; ++lane) {
                const T *row = key + minimum(first + lane, keys - 1) * stride;
                Floats sum{};
                for (int d = 0; d < WHOLE; d += LANES) sum += load(row + d) * load(elements + d);
                products[lane] = sum;
            }
            Floats score = sums_of(products);
            if constexpr (WHOLE < size) {
                for (int lane = 0; lane < LANES; ++lane) {
                    const T *row = key + minimum(first + lane, keys - 1) * stride;
                    for (int d = WHOLE; d < size; ++d) score[lane] += to_float(row[d]) * elements[d];
                }
            }
            scores[query * COLUMNS + first / LANES] = score;
        }
    }
}

template <int size, class T>
INLINE void load_rows(const T *from, int64_t stride, int rows, float factor, float *to) {
    for (int row = 0; row < rows; ++row)
        for (int d = 0; d < size; ++d) to[row * size + d] = to_float(from[row * stride + d]) * factor;
}

// output[d] = output[d] * factor + sum over keys of weights[key] * value[key][d], four vectors at a time.
// A key of weight 0 is left out, whatever its value holds.
template <int vectors, class T>
INLINE void add_vectors(const T *value, int64_t stride, int keys, const float *weights, float factor, float *output) {
    Floats even[vectors], odd[vectors];
    UNROLL
    for (int part = 0; part < vectors; ++part) {
        even[part] = load(output + part * LANES) * factor;
        odd[part] = Floats{};
    }
    for (int key = 0; key < keys; key += 2) {
        if (weights[key] != 0.0f) {
            UNROLL
            for (int part = 0; part < vectors; ++part)
                even[part] += load(value + key * stride + part * LANES) * weights[key];
        }
        if (key + 1 < keys && weights[key + 1] != 0.0f) {
            UNROLL
            for (int part = 0; part < vectors; ++part)
                odd[part] += load(value + (key + 1) * stride + part * LANES) * weights[key + 1];
        }
    }
    UNROLL
    for (int part = 0; part < vectors; ++part) store(output + part * LANES, even[part] + odd[part]);
}

template <int size, class T>
INLINE void add_values(const T *value, int64_t stride, int keys, const float *weights, float factor, float *output) {
    int d = 0;
    for (; d + 4 * LANES <= size; d += 4 * LANES)
        add_vectors<4>(value + d, stride, keys, weights, factor, output + d);
    for (; d + LANES <= size; d += LANES) add_vectors<1>(value + d, stride, keys, weights, factor, output + d);
    for (; d < size; ++d) {
        float sum = output[d] * factor;
        for (int key = 0; key < keys; ++key)
            if (weights[key] != 0.0f) sum += weights[key] * to_float(value[key * stride + d]);
        output[d] = sum;
    }
}
