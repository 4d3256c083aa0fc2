// The 16-bit float types: read as float, written with rounding to nearest even.
typedef uint16_t Shorts __attribute__((vector_size(2 * LANES)));
typedef uint16_t UnalignedShorts __attribute__((vector_size(2 * LANES), aligned(2)));
