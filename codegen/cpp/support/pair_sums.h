// So many sums are in no cache any more when they are next read. They are written past all caches: memory that is
// written in whole lines need not be read first, and what is needed again is not displaced. The barrier at the end of
// the tasks is what makes them visible.
constexpr int64_t PAST_CACHES = 1 << 23;
INLINE void store_past_caches(float *to, Floats x) {
#if defined(__AVX512F__) && !defined(__clang__)
    // A whole line of a cache: parts of one would wait for each other.
    if (reinterpret_cast<int64_t>(to) % sizeof x == 0) {
        typedef float Register __attribute__((vector_size(64)));
        __builtin_ia32_movntps512(to, static_cast<Register>(x));
        return;
    }
#endif
    store(to, x);
}

// to[row[query] + key * stride] += from[key][query] for the pairs of a block: elements of an input that lies along the
// keys, which has `count` in all. Where `first`, nothing has been added to these yet.
template <bool first>
static void add_pairs(const Floats *from, const Longs *row, int64_t stride, int queries, int keys, float *to,
                      int64_t count) {
    for (int column = 0; column < COLUMNS; ++column) {
        const int lanes = minimum(LANES, queries - column * LANES);
        int key = 0;
        if (stride == 1) {
            for (; key + LANES <= keys; key += LANES) {
                Floats block[LANES];
                UNROLL
                for (int lane = 0; lane < LANES; ++lane) block[lane] = from[(key + lane) * COLUMNS + column];
                transpose(block);
                for (int lane = 0; lane < lanes; ++lane) {
                    float *into = to + row[column][lane] + key;
                    if (!first)
                        store(into, load(into) + block[lane]);
                    else if (count >= PAST_CACHES)
                        store_past_caches(into, block[lane]);
                    else
                        store(into, block[lane]);
                }
            }
        }
        for (; key < keys; ++key)
            for (int lane = 0; lane < lanes; ++lane) {
                float *into = to + row[column][lane] + key * stride;
                *into = first ? from[key * COLUMNS + column][lane] : *into + from[key * COLUMNS + column][lane];
            }
    }
}
