// max(x, 0) + log(1 + u) with u = exp(-|x|); the second term gives back what 1 + u lost to rounding.
INLINE Floats softplus(Floats x) {
    const Floats u = exp((Floats)((Ints)x | INT32_MIN));
    const Floats sum = 1.0f + u;
    const Floats rest = log(sum) + (u - (sum - 1.0f)) / sum;
    return maximum(x, floats(0.0f)) + rest;
}

INLINE float softplus(float x) {
    return __builtin_fmaxf(x, 0.0f) + __builtin_log1pf(__builtin_expf(-__builtin_fabsf(x)));
}
