// weights[key][query] = weigh(key, column), made where the scores were; only what is seen of a block where that is
// little.
template <class Weigh>
INLINE void make_weights(Floats *weights, int keys, const Seen &seen, Weigh weigh) {
    if (seen.few) {
        UNROLL
        for (int column = 0; column < COLUMNS; ++column)
            for (int key = seen.first[column]; key < seen.last[column]; ++key)
                weights[key * COLUMNS + column] = weigh(key, column);
        return;
    }
    for (int key = 0; key < keys; ++key) {
        UNROLL
        for (int column = 0; column < COLUMNS; ++column) weights[key * COLUMNS + column] = weigh(key, column);
    }
}
