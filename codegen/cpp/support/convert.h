// The first `rows` rows of a tile as floats, row after row.
template <int size, class T>
INLINE void convert_tile(const T *from, int64_t stride, int rows, float *to) {
    for (int row = 0; row < rows; ++row) {
        int d = 0;
        for (; d + LANES <= size; d += LANES) store(to + row * size + d, load(from + row * stride + d));
        for (; d < size; ++d) to[row * size + d] = to_float(from[row * stride + d]);
    }
}
