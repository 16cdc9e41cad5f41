/* Count, mean and M2 = sum (x - mean)^2: of a few values in registers, of a thread, of a team.
 *
 *     about a shift near the mean:  S = sum n (mean - shift),  Q = sum M2 + n (mean - shift)^2
 *     mean = shift + S / n,  M2 = Q - S^2 / n
 *
 * A bundle of values is taken about its own first value and then about its own mean, in the arithmetic type, and joins
 * the thread's sums in float64. The thread's shift is its first value, so a constant has exactly its value for mean and
 * 0 for M2, and an outlier spoils a single bundle. A bundle whose squares leave the range of float, or that is not
 * complete, goes value by value in float64. Parts are merged about the largest of their means, which is exact for
 * equal ones.
 */
#ifndef BN_MOMENTS_CUH
#define BN_MOMENTS_CUH

#include "formulas.cuh"
#include "team.cuh"

struct Moments {
    double n, mean, m2;
};

/* A sum by pairs; G is a power of two. */
template <int G> struct Pairs {
    template <class A> static DEVICE A sum(const A *v) { return Pairs<G / 2>::sum(v) + Pairs<G / 2>::sum(v + G / 2); }
};
template <> struct Pairs<1> {
    template <class A> static DEVICE A sum(const A *v) { return *v; }
};
template <int G, class A> DEVICE A pairwise(const A (&v)[G]) { return Pairs<G>::sum(v); }

DEVICE double finite_or_0(double v) { return isfinite(v) ? v : 0; }

/* Shift is A where single values start it: they are exact there, and take fewer registers. */
template <class Shift, class Count> struct Run {
    Shift shift;
    Count n;
    double s, q;

    DEVICE Run() : shift(0), n(0), s(0), q(0) {}

    DEVICE void add(Count count, double mean, double m2)
    {
        const double d = mean - (double)shift;
        s = fma((double)count, d, s);
        q += merged_m2((double)count, d, m2);
        n += count;
    }

    DEVICE void add(const Moments &m)
    {
        if (m.n == 0) return;
        if (n == 0) shift = finite_or_0(m.mean);
        add(m.n, m.mean, m.m2);
    }

    template <int G> DEVICE void each(const Shift (&v)[G], unsigned valid)
    {
#pragma unroll
        for (int i = 0; i < G; i++)
            if (valid >> i & 1) {
                if (n == 0) shift = (Shift)finite_or_0(v[i]);
                add(1, v[i], 0);
            }
    }

    DEVICE Moments moments() const
    {
        if (n == 0) return Moments{0, 0, 0};
        Moments m = {(double)n, 0, 0};
        moments_of_sums(m.n, (double)shift, s, q, &m.mean, &m.m2);
        if (m.m2 < 0) m.m2 = 0;
        return m;
    }
};

template <int G> struct All {
    enum : unsigned { lanes = G == 32 ? 0xffffffffu : (1u << G % 32) - 1 };
};

/* G values of one channel; bit i of `valid` says that value i is one. */
template <int G> DEVICE void add_bundle(Run<double, int> &run, const double (&v)[G], unsigned valid)
{
    run.each(v, valid);
}

template <int G> DEVICE void add_bundle(Run<float, int> &run, const float (&v)[G], unsigned valid)
{
    if (valid == All<G>::lanes) {
        float d[G], square[G];
        bool constant = true;
#pragma unroll
        for (int i = 0; i < G; i++) d[i] = v[i] - v[0];
        const float s = pairwise(d), mean = s * (1.0f / G);
#pragma unroll
        for (int i = 0; i < G; i++) square[i] = (d[i] - mean) * (d[i] - mean);
        const float m2 = pairwise(square);
        if (!(m2 >= G * 0x1p-100f)) /* squares were rounded to subnormals, or NaN; or all are equal */
#pragma unroll
            for (int i = 0; i < G; i++) constant &= d[i] == 0;
        else constant = m2 <= 0x1.fffffep127f; /* not infinite */
        if (constant) {                        /* here: nothing was lost */
            if (run.n == 0) run.shift = v[0];
            run.add(G, fma((double)s, 1.0 / G, (double)v[0]), m2);
            return;
        }
    }
    run.each(v, valid);
}

/* K moments of each thread to those of its team. */
template <class Team, int K> DEVICE void merge(const Team &team, Moments (&m)[K])
{
    double pivot[K], n[K], s[K];
#pragma unroll
    for (int k = 0; k < K; k++) {
        n[k] = m[k].n;
        pivot[k] = m[k].n > 0 ? m[k].mean : -0x1.fffffffffffffp1023;
    }
    team.template all<Max>(pivot);
    team.template all<Sum>(n);
#pragma unroll
    for (int k = 0; k < K; k++) {
        pivot[k] = finite_or_0(pivot[k]);
        s[k] = m[k].n > 0 ? m[k].n * (m[k].mean - pivot[k]) : 0;
    }
    team.template all<Sum>(s);
#pragma unroll
    for (int k = 0; k < K; k++) {
        const double mean = n[k] > 0 ? pivot[k] + s[k] / n[k] : 0, d = m[k].mean - mean;
        s[k] = m[k].n > 0 ? merged_m2(m[k].n, d, m[k].m2) : 0;
        m[k].mean = mean;
        m[k].n = n[k];
    }
    team.template all<Sum>(s);
#pragma unroll
    for (int k = 0; k < K; k++) m[k].m2 = s[k];
}

#endif
