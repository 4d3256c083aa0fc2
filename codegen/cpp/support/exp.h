INLINE Floats exp(Floats x) {
    // The product is rounded in two parts, so that large arguments keep their last bits.
    const Floats n = to_float(to_int(select(x == x, maximum(minimum(x, floats(128.0f)), floats(-128.0f)), floats(0.0f)) * 1.44269504f));
    const Floats rest = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    const Floats power = exp2(n);
    const Floats scaled = exp2(rest * 1.44269504f) * power;
    return select(x < -104.0f, floats(0.0f), select(x > 89.0f, floats(INFINITE), scaled));
}

INLINE float exp(float x) { return __builtin_expf(x); }
