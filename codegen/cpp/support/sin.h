INLINE Floats sin(Floats x) {
    Ints quadrant;
    const Floats rest = reduce_angle(x, quadrant);
    const Floats value = select((quadrant & 1) != 0, cosine_of_small(rest), sine_of_small(rest));
    return select((quadrant & 2) != 0, -value, value);
}

INLINE float sin(float x) { return __builtin_sinf(x); }
