/* Backward and its parts, reduce and input_grad: sum g and sum g * xhat, and dx from them (src/formulas.h); g is dy
 * behind the activation, whose z is y where y is given, else computed again and rounded as the forward pass stored it.
 *
 * Reduction: both sums of each unit. Merge: those of each channel. Elementwise: dx, and g where there is a residual;
 * with frozen statistics x is not read but for z. x and dy are read twice, once where they stay on chip or in cache, dx
 * written once: 20 (12) bytes for each element in float32, with y given 8 (4) more.
 */
#include "unit.cuh"

template <class T, class Walk> struct Backward {
    typedef typename T::A A;
    enum { UNROLL = 2 };
    typedef Unit<T, Walk, UNROLL> U;
    typedef typename U::Shared Memory;
    const Args &a;
    const int slots; /* of a thread in a unit */
    const Operand<T> x, dy, y, dx, dresidual;
    const int activation;
    const A parameter;
    const bool given, frozen; /* given: y is */
    U unit;

    DEVICE Backward(const Args &args, Memory &shared)
        : a(args), slots((int)a.steps * BN_UNROLL), x(a, a.x), dy(a, a.dy), y(a, a.y), dx(a, a.out),
          dresidual(a, a.dresidual), activation((int)a.activation), parameter((A)a.parameter),
          given(activation != BN_IDENTITY && a.y), frozen(a.frozen), unit(shared)
    {
    }

    /* dy behind the activation. */
    DEVICE A gradient(const Coefs<A> &c, A dy, A d, A y) const
    {
        if (activation == BN_IDENTITY) return dy;
        return activation_grad(activation, given ? y : rounded<T>(c.z(d)), dy, parameter);
    }

    DEVICE void reduction(const Walk &walk, const Kept &kept, long long u, long long own)
    {
        double s[Walk::CHANNELS] = {}, t[Walk::CHANNELS] = {};
        unit.prepare(walk);
        for (int at = 0; at < slots; at += UNROLL) {
            const Bundle<T, Walk, UNROLL> bundle(a, walk, own, at);
            if (bundle.empty()) continue;
            uint4 q[UNROLL], p[UNROLL], r[UNROLL] = {};
            bundle.read(x, q);
            bundle.read(dy, p);
            if (given) bundle.read(y, r);
            bundle.keep(kept, 0, q);
            bundle.keep(kept, 1, p);
            if (given) bundle.keep(kept, 2, r);
#pragma unroll
            for (int h = 0; h < Walk::CHANNELS; h++) {
                const Coefs<A> c = unit.coefs(walk, h);
                A g[U::VALUES], gx[U::VALUES];
#pragma unroll
                for (int i = 0; i < U::VALUES; i++) {
                    const int k = U::slot_of(i), j = U::element_of(i, h);
                    const A d = c.centre(T::load(T::get(q[k], j)));
                    g[i] = gradient(c, T::load(T::get(p[k], j)), d, T::load(T::get(r[k], j)));
                    gx[i] = g[i] * c.xhat(d);
                    if (!bundle.whole() && !bundle.has(k, j)) g[i] = gx[i] = 0;
                }
                s[h] += pairwise(g);
                t[h] += pairwise(gx);
            }
        }
        enum { K = U::TOGETHER };
#pragma unroll
        for (int h = 0; h < Walk::CHANNELS; h += K) {
            double sums[2 * K];
#pragma unroll
            for (int k = 0; k < K; k++) sums[k] = s[h + k], sums[K + k] = t[h + k];
            unit.team(walk).template all<Sum>(sums);
#pragma unroll
            for (int k = 0; k < K; k++) {
                const int e = unit.element(walk, h + k);
                if (!unit.writes(walk) || !unit.inside(walk, e)) continue;
                double *to = a.partial + 2 * walk.partial(u, e);
                to[0] = sums[k], to[1] = sums[K + k];
            }
        }
    }

    template <class Team> DEVICE void merge(const Team &team, long long c)
    {
        double sums[2] = {0, 0};
        for (long long i = team.rank(); i < a.partials; i += team.size()) {
            const double *from = a.partial + 2 * Walk::partial_of(a, c, i);
            sums[0] += __ldcg(from);
            sums[1] += __ldcg(from + 1);
        }
        team.template all<Sum>(sums);
        if (team.rank() != 0) return;
        a.result[0][c] = sums[0];
        const Coefs<A> k = coefs_of<A>(a, c);
        a.result[1][c] = less_offset(sums[1], &k.v[BN_OFFSET], sums[0]);
    }

    DEVICE void elementwise(const Walk &walk, const Kept &kept, long long own)
    {
        const bool needs_x = !frozen || (activation != BN_IDENTITY && !given);
        unit.prepare(walk);
        for (int at = slots - UNROLL; at >= 0; at -= UNROLL) {
            const Bundle<T, Walk, UNROLL> bundle(a, walk, own, at);
            if (bundle.empty()) continue;
            uint4 q[UNROLL] = {}, p[UNROLL], r[UNROLL] = {};
            if (needs_x) bundle.reread(x, kept, 0, q);
            bundle.reread(dy, kept, 1, p);
            if (given) bundle.reread(y, kept, 2, r);
#pragma unroll
            for (int j = 0; j < T::V; j++) {
                const Coefs<A> c = unit.coefs(walk, j);
#pragma unroll
                for (int k = 0; k < UNROLL; k++) {
                    const A d = c.centre(T::load(T::get(q[k], j)));
                    const A g = gradient(c, T::load(T::get(p[k], j)), d, T::load(T::get(r[k], j)));
                    T::put(p[k], j, T::store(g));
                    T::put(q[k], j, T::store(frozen ? c.frozen_dx(g) : c.dx(g, d)));
                }
            }
            if (a.out) bundle.write(dx, q);
            if (a.dresidual) bundle.write(dresidual, p);
        }
    }
};

BN_ENTRY(backward, Backward)
