// The relative error grows with a negative argument, by 6e-8 for each unit: the result is small there.
INLINE Floats sigmoid(Floats x) {
    return reciprocal(1.0f + exp2(minimum(floats(126.0f), x * -1.44269504f)));
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + __builtin_expf(-x)); }
