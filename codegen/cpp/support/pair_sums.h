// to[row[query] + key * stride] += from[key][query] for the pairs of a block: elements of an input that lies along the
// keys. Where `first`, nothing has been added to these yet.
template <bool first>
static void add_pairs(const Floats *from, const Longs *row, int64_t stride, int queries, int keys, float *to) {
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
                    store(into, first ? block[lane] : load(into) + block[lane]);
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
