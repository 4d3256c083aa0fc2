// to[key][query] = from[row[query] + key * stride]: an input that lies along the keys, turned so that
// lanes are queries.
INLINE Floats load_bits(const float *from) { return load(from); }
INLINE Floats load_bits(const int32_t *from) { return (Floats)load(from); }

INLINE Floats load_bits(const uint8_t *from) {
    typedef uint8_t Bytes __attribute__((vector_size(LANES)));
    Bytes bytes;
    __builtin_memcpy(&bytes, from, sizeof bytes);
    return (Floats)(__builtin_convertvector(bytes, Ints) != 0);
}

template <class T, class Vector>
static void load_pairs(const T *from, const Longs *row, int64_t stride, int keys, Vector *to) {
    for (int column = 0; column < COLUMNS; ++column) {
        int key = 0;
        if (stride == 1) {
            for (; key + LANES <= keys; key += LANES) {
                Floats block[LANES];
                UNROLL
                for (int lane = 0; lane < LANES; ++lane) {
                    block[lane] = load_bits(from + row[column][lane] + key);
                    // The next block's: rows lie far apart, so that no processor guesses them.
                    __builtin_prefetch(from + row[column][lane] + key + BLOCK_N, 0, 2);
                }
                transpose(block);
                UNROLL
                for (int lane = 0; lane < LANES; ++lane) to[(key + lane) * COLUMNS + column] = (Vector)block[lane];
            }
        }
        for (; key < keys; ++key) to[key * COLUMNS + column] = gather(from + key * stride, row[column]);
    }
}
