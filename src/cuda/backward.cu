/* Backward and its parts: sum dy and sum dy * xhat, and dx = scale * ((dy - mean dy) - xhat * mean(dy * xhat)).
 *
 * First sweep: both sums of each unit. Merge: those of each channel. Second sweep: dx, and dy past ReLU where there is
 * a residual; with frozen statistics dx = scale * dy, and x is not read but for the sign of ReLU. x and dy are read
 * twice, once where they stay on chip or in cache, dx written once: 20 (12) bytes for each element in float32. Behind
 * ReLU dy counts where the forward output was not <= 0: its sign is y's where y is given, else recomputed (coefs.cuh).
 * xhat is formed before the product: dy * (x - mean) could leave the range.
 */
#include "unit.cuh"

template <class T, class Walk> struct Backward {
    typedef typename T::A A;
    enum { UNROLL = 2 };
    typedef Unit<T, Walk, UNROLL> U;
    typedef typename U::Shared Memory;
    const Args &a;
    const int slots; /* of a thread in a unit */
    const Operand<T> x, dy, y, dx, dr;
    const bool relu, given, frozen;
    U unit;

    DEVICE Backward(const Args &args, Memory &shared)
        : a(args), slots((int)a.steps * BN_UNROLL), x(a, a.x), dy(a, a.dy), y(a, a.r), dx(a, a.out), dr(a, a.out2),
          relu(a.flags & BN_RELU), given(relu && a.r), frozen(a.flags & BN_FROZEN), unit(shared)
    {
    }

    /* dy behind the activation, where its sign is y's. */
    DEVICE void gate_by_y(const Group<T, Walk, UNROLL> &group, uint4 (&p)[UNROLL]) const
    {
        uint4 r[UNROLL];
        group.read(y, r);
#pragma unroll
        for (int k = 0; k < UNROLL; k++)
#pragma unroll
            for (int j = 0; j < T::V; j++)
                if (T::load(T::get(r[k], j)) <= 0) T::put(p[k], j, 0);
    }

    /* dy behind the activation, where its sign is computed again. */
    DEVICE A gated(const Coefs<A> &c, A dy, A x) const
    {
        return relu && !given ? gate(rounded<T>(c.affine(x)), dy) : dy;
    }

    DEVICE void first(const Walk &walk, const Kept &kept, long long u, long long own)
    {
        double s[Walk::CHANNELS] = {}, t[Walk::CHANNELS] = {};
        unit.prepare(walk);
        for (int at = 0; at < slots; at += UNROLL) {
            const Group<T, Walk, UNROLL> group(a, walk, own, at);
            if (group.empty()) continue;
            uint4 q[UNROLL], p[UNROLL];
            group.read(x, q);
            group.read(dy, p);
            if (given) gate_by_y(group, p);
            group.keep(kept, 0, q);
            group.keep(kept, 1, p);
#pragma unroll
            for (int h = 0; h < Walk::CHANNELS; h++) {
                const Coefs<A> c = unit.coefs(walk, h);
                A g[U::VALUES], gx[U::VALUES];
#pragma unroll
                for (int i = 0; i < U::VALUES; i++) {
                    const int k = U::slot_of(i), j = U::element_of(i, h);
                    const A v = T::load(T::get(q[k], j));
                    g[i] = gated(c, T::load(T::get(p[k], j)), v);
                    gx[i] = g[i] * (c.centred(v) * c.v[INVSTD]);
                    if (!group.whole() && !group.has(k, j)) g[i] = gx[i] = 0;
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
        a.result[1][c] = sums[1];
    }

    DEVICE void second(const Walk &walk, const Kept &kept, long long own)
    {
        const bool needs_x = !frozen || (relu && !given);
        unit.prepare(walk);
        for (int at = slots - UNROLL; at >= 0; at -= UNROLL) {
            const Group<T, Walk, UNROLL> group(a, walk, own, at);
            if (group.empty()) continue;
            uint4 q[UNROLL] = {}, p[UNROLL];
            if (needs_x) group.reread(x, kept, 0, q);
            group.reread(dy, kept, 1, p);
            if (given && !kept.has(group.ordinal)) gate_by_y(group, p); /* what was kept has been through it */
#pragma unroll
            for (int j = 0; j < T::V; j++) {
                const Coefs<A> c = unit.coefs(walk, j);
#pragma unroll
                for (int k = 0; k < UNROLL; k++) {
                    const A v = T::load(T::get(q[k], j));
                    const A g = gated(c, T::load(T::get(p[k], j)), v);
                    const A xhat = c.centred(v) * c.v[INVSTD];
                    const A d = frozen ? g : (g - c.v[MEAN_DY]) - xhat * c.v[MEAN_DY_XHAT];
                    T::put(p[k], j, T::store(g));
                    T::put(q[k], j, T::store(d * c.v[SCALE]));
                }
            }
            if (a.out) group.write(dx, q);
            if (a.out2) group.write(dr, p);
        }
    }
};

BN_ENTRY(backward, Backward)
