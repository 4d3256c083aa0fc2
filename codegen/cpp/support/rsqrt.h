INLINE Floats rsqrt(Floats x) { return 1.0f / sqrt(x); }
INLINE float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
