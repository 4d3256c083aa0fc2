// x - n * pi/2 in double precision, so that positions of a million keep their angle, and n modulo 4.
INLINE Floats reduce_angle(Floats x, Ints &quadrant) {
    const Floats finite = select(x - x == 0.0f, x, floats(0.0f));
    const Doubles angle = __builtin_convertvector(finite, Doubles);
    const Doubles turns = angle * 0.63661977236758134308 + 6755399441055744.0;
    const Doubles n = turns - 6755399441055744.0;
    quadrant = __builtin_convertvector((Longs)turns & 3, Ints);
    const Floats rest = __builtin_convertvector(angle - n * 1.57079632679489661923, Floats);
    return select(x - x == 0.0f, rest, floats(__builtin_nanf("")));
}

INLINE Floats sine_of_small(Floats x) {
    const Floats square = x * x;
    Floats p = -0.000194984325f * square + 0.00833198992f;
    p = p * square - 0.166666497f;
    return x + x * square * p;
}

INLINE Floats cosine_of_small(Floats x) {
    const Floats square = x * x;
    Floats p = 2.43683417e-05f * square - 0.00138864809f;
    p = p * square + 0.0416666116f;
    return 1.0f + square * (p * square - 0.499999996f);
}
