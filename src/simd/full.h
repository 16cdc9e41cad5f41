/* Vectors of a type that is stored as it is computed with: the common part of f32.h and f64.h. */
#define STORE_BYTES VECTOR_BYTES /* of a vector in memory */

INLINE vec load(const T *p) { return load_a(p); }

INLINE vec_lo load_lo(const T *p)
{
    vec_lo v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(T *p, vec v) { store_a(p, v); }
INLINE void stream(T *p, vec v) { stream_vec(p, v); }
INLINE void store_lanes(T *p, vec v, int lo, int hi) { store_vec_lanes(p, v, lo, hi); }
INLINE vec rounded(vec v) { return v; }
INLINE vec with_stored_sign(vec v) { return v; }
