// Rows of a tensor that lie anywhere, one after the other; converted where `to` is of floats.
template <int size, class T, class To>
static void gather_rows(const T *from, int64_t stride, const int32_t *numbers, int rows, To *to) {
    for (int row = 0; row < rows; ++row) {
        const T *const one = from + numbers[row] * stride;
        if constexpr (__is_same(T, To)) {
            __builtin_memcpy(to + row * size, one, sizeof(T) * size);
        } else {
            int d = 0;
            for (; d + LANES <= size; d += LANES) store(to + row * size + d, load(one + d));
            for (; d < size; ++d) to[row * size + d] = to_float(one[d]);
        }
    }
}
