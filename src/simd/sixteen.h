/* Vectors of a 16-bit type, computed with in float32: the common part of f16.h and bf16.h, which define
 * widen_bits and narrow_bits. The scalar twins of both stand in formulas.h. */
#define STORE_BYTES (W * 2) /* of a vector in memory */

INLINE vec load(const T *p)
{
    bits b;
    memcpy(&b, p, sizeof b);
    return widen_bits(b);
}

INLINE vec_lo load_lo(const T *p)
{
    vec_lo v;
    for (int i = 0; i < WD; i++) v[i] = get(p + i);
    return v;
}

INLINE void store(T *p, vec v)
{
    const bits b = narrow_bits(v);
    memcpy(p, &b, sizeof b);
}

INLINE void stream(T *p, vec v) { stream_bits(p, narrow_bits(v)); }
INLINE void store_lanes(T *p, vec v, int lo, int hi) { store_bits_lanes(p, narrow_bits(v), lo, hi); }
INLINE vec rounded(vec v) { return widen_bits(narrow_bits(v)); }

/* Half of the smallest number there is, and all below, are stored as 0: the difference is <= 0 where rounded(v) is. */
INLINE vec with_stored_sign(vec v) { return v - LARGEST_ZERO; }
