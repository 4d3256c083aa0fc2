INLINE Floats sign(Floats x) {
    return select(x > 0.0f, floats(1.0f), select(x < 0.0f, floats(-1.0f), floats(0.0f)));
}

INLINE float sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f; }
