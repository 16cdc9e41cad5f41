/* Storage types, and slots: 16 bytes of memory at a 16-byte boundary, V elements of T.
 *
 * A slot at the edge of a row has elements that are not the row's; they are neither read nor written. Arithmetic is
 * in T::A, float for all but float64. Conversions to the 16-bit types round to nearest even.
 */
#ifndef BN_STORAGE_CUH
#define BN_STORAGE_CUH

#include "args.cuh"
#include "formulas.cuh"

struct float32 {
    typedef float A;
    typedef unsigned Bits;
    enum { V = 4 };
    static DEVICE A load(Bits b) { return __uint_as_float(b); }
    static DEVICE Bits store(A v) { return __float_as_uint(v); }
    static DEVICE Bits get(const uint4 &q, int j) { return j == 0 ? q.x : j == 1 ? q.y : j == 2 ? q.z : q.w; }
    static DEVICE void put(uint4 &q, int j, Bits b) { (j == 0 ? q.x : j == 1 ? q.y : j == 2 ? q.z : q.w) = b; }
};

struct float64 {
    typedef double A;
    typedef unsigned long long Bits;
    enum { V = 2 };
    static DEVICE A load(Bits b) { return __longlong_as_double((long long)b); }
    static DEVICE Bits store(A v) { return (Bits)__double_as_longlong(v); }
    static DEVICE Bits get(const uint4 &q, int j) { return j == 0 ? (Bits)q.y << 32 | q.x : (Bits)q.w << 32 | q.z; }
    static DEVICE void put(uint4 &q, int j, Bits b)
    {
        (j == 0 ? q.x : q.z) = (unsigned)b;
        (j == 0 ? q.y : q.w) = (unsigned)(b >> 32);
    }
};

struct sixteen_bits {
    typedef float A;
    typedef unsigned short Bits;
    enum { V = 8 };
    static DEVICE Bits get(const uint4 &q, int j) { return (Bits)(float32::get(q, j / 2) >> 16 * (j % 2)); }
    static DEVICE void put(uint4 &q, int j, Bits b)
    {
        const unsigned pair = float32::get(q, j / 2);
        float32::put(q, j / 2, j % 2 ? (pair & 0xffffu) | (unsigned)b << 16 : (pair & 0xffff0000u) | b);
    }
};

struct float16 : sixteen_bits {
    static DEVICE A load(Bits b) { return float_of_half(b); }
    static DEVICE Bits store(A v) { return half_of_float(v); }
};

struct bfloat16 : sixteen_bits {
    static DEVICE A load(Bits b) { return bfloat16_to_float(b); }
    static DEVICE Bits store(A v) { return float_to_bfloat16(v); }
};

/* v as T has it: behind an activation counts z as the forward pass stored it, which may have underflowed to 0. */
template <class T> DEVICE typename T::A rounded(typename T::A v) { return T::load(T::store(v)); }

DEVICE double element(const Vector &v, long long c, double absent)
{
    if (!v.data) return absent;
    const long long i = c * v.stride;
    switch (v.type) {
    case BN_F32: return __ldcg((const float *)v.data + i);
    case BN_F64: return __ldcg((const double *)v.data + i);
    case BN_F16: return float16::load(__ldcg((const unsigned short *)v.data + i));
    case BN_BF16: return bfloat16::load(__ldcg((const unsigned short *)v.data + i));
    }
    return absent;
}

/* Elements lo .. hi-1 of the slot whose element 0 is element `at` of an array; only those are the array's to touch. */
struct Slot {
    long long at;
    int lo, hi;
};

template <class T> DEVICE bool full(const Slot &s) { return s.lo == 0 && s.hi == T::V; }

/* An array like x. Where it does not share x's place relative to 16-byte boundaries, it goes element by element. */
template <class T> struct Operand {
    typename T::Bits *data;
    bool aligned;

    DEVICE Operand(const Args &a, const void *p)
        : data((typename T::Bits *)p), aligned((((unsigned long long)p ^ (unsigned long long)a.x) & 15) == 0)
    {
    }

    /* Of a full slot in place. */
    DEVICE uint4 load_full(const Slot &s) const { return *(const uint4 *)(data + s.at); }
    DEVICE void store_full(const Slot &s, const uint4 &q) const { __stcs((uint4 *)(data + s.at), q); }

    DEVICE uint4 load(const Slot &s) const
    {
        if (aligned && full<T>(s)) return load_full(s);
        uint4 q = {0, 0, 0, 0};
#pragma unroll
        for (int j = 0; j < T::V; j++)
            if (j >= s.lo && j < s.hi) T::put(q, j, data[s.at + j]);
        return q;
    }

    DEVICE void store(const Slot &s, const uint4 &q) const
    {
        if (aligned && full<T>(s)) return store_full(s, q);
#pragma unroll
        for (int j = 0; j < T::V; j++)
            if (j >= s.lo && j < s.hi) data[s.at + j] = T::get(q, j);
    }
};

#endif
