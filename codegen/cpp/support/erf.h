// x * p(x^2) up to 1, and 1 - 2^p(|x|) beyond it.
INLINE Floats erf(Floats x) {
    const Floats size = minimum((Floats)((Ints)x & 0x7fffffff), floats(4.0f));
    const Floats square = size * size;
    Floats p = 7.85386129e-05f * square - 0.000801019371f;
    p = p * square + 0.00518832771f;
    p = p * square - 0.026853812f;
    p = p * square + 0.112835851f;
    p = p * square - 0.376126258f;
    p = p * square + 1.12837917f;
    Floats q = 0.000276282164f * size - 0.00432742349f;
    q = q * size + 0.0318143116f;
    q = q * size - 0.149415451f;
    q = q * size - 0.919862403f;
    q = q * size - 1.62653203f;
    q = q * size - 0.000369971112f;
    const Floats large = 1.0f - exp2(q);
    const Floats signed_large = (Floats)((Ints)large | ((Ints)x & INT32_MIN));
    return select(x == x, select(size < 1.0f, p * x, signed_large), x);
}

INLINE float erf(float x) { return __builtin_erff(x); }
