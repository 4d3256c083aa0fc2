INLINE Floats cos(Floats x) {
    Ints quadrant;
    const Floats rest = reduce_angle(x, quadrant);
    const Floats value = select((quadrant & 1) != 0, sine_of_small(rest), cosine_of_small(rest));
    return select(((quadrant + 1) & 2) != 0, -value, value);
}

INLINE float cos(float x) { return __builtin_cosf(x); }
