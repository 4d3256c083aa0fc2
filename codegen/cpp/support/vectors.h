// Vectors of LANES floats or 32-bit integers, as wide as the processor's registers.
// A mask is an integer vector whose lanes are 0 (false) or -1 (true).
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef int64_t Longs __attribute__((vector_size(8 * LANES)));
typedef double Doubles __attribute__((vector_size(8 * LANES)));
typedef float UnalignedFloats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t UnalignedInts __attribute__((vector_size(4 * LANES), aligned(4)));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
// For loops that need every register.
#define APART static __attribute__((noinline))

constexpr float INFINITE = __builtin_inff();

INLINE Floats floats(float x) { return Floats{} + x; }
INLINE Floats floats(Floats x) { return x; }
INLINE Ints ints(int32_t x) { return Ints{} + x; }
INLINE Ints ints(Ints x) { return x; }
INLINE Ints mask(bool x) { return Ints{} - static_cast<int32_t>(x); }
INLINE Ints mask(Ints x) { return x; }

INLINE Floats to_float(Ints x) { return __builtin_convertvector(x, Floats); }
INLINE float to_float(int32_t x) { return static_cast<float>(x); }
INLINE Ints to_int(Floats x) { return __builtin_convertvector(x, Ints); }

INLINE Floats load(const float *from) { return *reinterpret_cast<const UnalignedFloats *>(from); }
INLINE Ints load(const int32_t *from) { return *reinterpret_cast<const UnalignedInts *>(from); }
INLINE void store(float *to, Floats x) { *reinterpret_cast<UnalignedFloats *>(to) = x; }

INLINE Floats select(Ints condition, Floats then, Floats otherwise) { return condition ? then : otherwise; }
INLINE Ints select(Ints condition, Ints then, Ints otherwise) { return condition ? then : otherwise; }

template <class T> INLINE T minimum(T x, T y) { return x < y ? x : y; }
template <class T> INLINE T maximum(T x, T y) { return x > y ? x : y; }

// 0, 1, 2, … in the lanes.
INLINE Ints lane_numbers() {
    Ints numbers;
    UNROLL
    for (int lane = 0; lane < LANES; ++lane) numbers[lane] = lane;
    return numbers;
}
INLINE void store_one(float *to, float x) { *to = x; }
INLINE float to_float(float x) { return x; }

INLINE Floats absolute(Floats x) { return (Floats)((Ints)x & 0x7fffffff); }
INLINE Ints absolute(Ints x) { return x < 0 ? -x : x; }
INLINE float absolute(float x) { return __builtin_fabsf(x); }
INLINE int32_t absolute(int32_t x) { return x < 0 ? -x : x; }

// An index, moved into [0, size) where a hidden pair would read outside.
INLINE Ints inside(Ints index, int32_t size) { return maximum(minimum(index, ints(size - 1)), ints(0)); }
INLINE int32_t inside(int32_t index, int32_t size) { return maximum(minimum(index, size - 1), 0); }

// While one lives, the thread takes denormal numbers for 0: weights that small cost a hundred times
// what others do, and count for nothing. Nobody outside of the kernel notices.
struct FlushDenormals {
#if defined(__x86_64__)
    const unsigned before = __builtin_ia32_stmxcsr();
    FlushDenormals() { __builtin_ia32_ldmxcsr(before | 0x8040); }
    ~FlushDenormals() { __builtin_ia32_ldmxcsr(before); }
#else
    ~FlushDenormals() {}
#endif
};

// How many threads that many steps are worth: to start and to wait for them takes longer than a few.
INLINE int threads_for(int64_t steps, int32_t threads) { return steps < 8192 ? 1 : threads; }
