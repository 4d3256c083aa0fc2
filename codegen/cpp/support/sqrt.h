INLINE Floats sqrt(Floats x) {
    Floats result;
    UNROLL
    for (int lane = 0; lane < LANES; ++lane) result[lane] = __builtin_sqrtf(x[lane]);
    return result;
}

INLINE float sqrt(float x) { return __builtin_sqrtf(x); }
