struct Bfloat16 {
    uint16_t bits;
};

INLINE Floats load(const Bfloat16 *from) {
    const Shorts bits = *reinterpret_cast<const UnalignedShorts *>(from);
    return (Floats)(widen(bits) << 16);
}

INLINE float to_float(Bfloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE void store(Bfloat16 *to, Floats x) {
    const Words bits = (Words)x;
    const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Words kept = x == x ? rounded : (bits >> 16) | 0x40;
    *reinterpret_cast<UnalignedShorts *>(to) = __builtin_convertvector(kept, Shorts);
}

INLINE void store_one(Bfloat16 *to, float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    to->bits = static_cast<uint16_t>(x == x ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : (bits >> 16) | 0x40);
}
