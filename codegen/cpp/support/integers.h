// x to the power y by repeated squaring; 0 where y is negative.
INLINE int32_t power(int32_t x, int32_t y) {
    uint32_t result = y >= 0;
    uint32_t square = static_cast<uint32_t>(x);
    for (; y > 0; y >>= 1, square *= square)
        if (y & 1) result *= square;
    return static_cast<int32_t>(result);
}

INLINE Ints power(Ints x, Ints y) {
    Ints result;
    for (int lane = 0; lane < LANES; ++lane) result[lane] = power(x[lane], y[lane]);
    return result;
}
