struct Half {
    uint16_t bits;
};

INLINE Floats load(const Half *from) {
    const Shorts halves = *reinterpret_cast<const UnalignedShorts *>(from);
    const Words bits = widen(halves);
    // Exponent and mantissa move to their places; the multiplication by 2^112 sets the exponent's bias.
    const Floats magnitude = (Floats)((bits & 0x7fff) << 13) * 0x1p112f;
    const Words special = magnitude >= 65536.0f ? Words{} + 0x7f800000u : Words{};
    return (Floats)((Words)magnitude | special | (bits & 0x8000) << 16);
}

INLINE float to_float(Half x) {
    _Float16 value;
    __builtin_memcpy(&value, &x, sizeof value);
    return static_cast<float>(value);
}

INLINE void store_one(Half *to, float x) {
    const _Float16 value = static_cast<_Float16>(x);
    __builtin_memcpy(to, &value, sizeof value);
}

INLINE void store(Half *to, Floats x) {
    for (int lane = 0; lane < LANES; ++lane) store_one(to + lane, x[lane]);
}
