// x ** y for x >= 0; a negative x has a real power only where y is whole.
INLINE Floats power(Floats x, Floats y) {
    const Floats size = (Floats)((Ints)x & 0x7fffffff);
    const Floats magnitude = select(size == 0.0f, select(y > 0.0f, floats(0.0f), floats(INFINITE)), exp(y * log(size)));
    const Floats whole = to_float(to_int(y));
    const Floats signed_value = select((to_int(y) & 1) != 0, -magnitude, magnitude);
    const Floats negative = select(whole == y, signed_value, floats(__builtin_nanf("")));
    return select(y == 0.0f, floats(1.0f), select(x < 0.0f, negative, magnitude));
}

INLINE float power(float x, float y) { return __builtin_powf(x, y); }
