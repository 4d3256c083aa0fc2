// The greatest whole number at most x.
INLINE Ints floor(Floats x) {
    const Ints truncated = to_int(x);
    return truncated + (to_float(truncated) > x);
}

INLINE int32_t floor(float x) { return static_cast<int32_t>(__builtin_floorf(x)); }
