// For a few queries: lanes are keys while scores are made, and elements while values are summed.
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
