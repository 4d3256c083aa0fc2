// One element for each lane, at offsets counted in elements.
INLINE Longs longs(Ints x) { return __builtin_convertvector(x, Longs); }
INLINE Longs longs(int64_t x) { return Longs{} + x; }

INLINE Floats gather(const float *from, Longs offset) {
    Floats result;
    UNROLL
    for (int lane = 0; lane < LANES; ++lane) result[lane] = from[offset[lane]];
    return result;
}

INLINE Ints gather(const int32_t *from, Longs offset) {
    Ints result;
    UNROLL
    for (int lane = 0; lane < LANES; ++lane) result[lane] = from[offset[lane]];
    return result;
}

// A mask, from an input of bools.
INLINE Ints gather(const uint8_t *from, Longs offset) {
    Ints result;
    UNROLL
    for (int lane = 0; lane < LANES; ++lane) result[lane] = -static_cast<int32_t>(from[offset[lane]] != 0);
    return result;
}
