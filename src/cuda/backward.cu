/* Backward and its parts: sum dy and sum dy * xhat, and dx = scale * ((dy - mean dy) - xhat * mean(dy * xhat)).
 *
 * First sweep: both sums of each unit. Merge: those of each channel. Second sweep: dx, and dy past ReLU where there is a
 * residual; with frozen statistics dx = scale * dy, and x is not read but for the sign of ReLU. x and dy are read twice,
 * once where they stay on chip or in cache, dx written once: 20 (12) bytes for each element in float32. Behind ReLU dy
 * counts where the forward output was not <= 0: its sign is y's where y is given, else recomputed (coefs.cuh).
 * xhat is formed before the product: dy * (x - mean) could leave the range.
 */
#include "unit.cuh"

template <class T, class Walk> struct Backward {
    typedef typename T::A A;
    typedef Unit<T, Walk> U;
    const Args &a;
    const Operand<T> x, dy, y, dx, dr;
    const bool relu, given, frozen;
    U unit;

    DEVICE Backward(const Args &args, typename U::Shared &shared)
        : a(args), x(a, a.x), dy(a, a.dy), y(a, a.r), dx(a, a.out), dr(a, a.out2), relu(a.flags & BN_RELU),
          given(relu && a.r), frozen(a.flags & BN_FROZEN), unit(shared)
    {
    }

    /* dy behind the activation. */
    DEVICE A gated(const Coefs<A> &c, A dy, A x, A y) const
    {
        return relu ? gate(given ? y : rounded<T>(c.affine(x)), dy) : dy;
    }

    DEVICE void first(const Walk &walk, const Kept &kept, long long u, long long own)
    {
        double s[Walk::CHANNELS] = {}, t[Walk::CHANNELS] = {};
        unit.prepare(walk);
        for (long long step = 0; step < a.steps; step++) {
            const Group<T, Walk> group(a, walk, own, step);
            if (group.empty()) continue;
            uint4 q[BN_UNROLL], p[BN_UNROLL], r[BN_UNROLL] = {};
            group.read(x, kept, 0, q);
            group.read(dy, kept, 1, p);
            if (given) group.read(y, kept, 2, r);
#pragma unroll
            for (int h = 0; h < Walk::CHANNELS; h++) {
                const Coefs<A> c = unit.coefs(walk, h);
                A g[U::VALUES], gx[U::VALUES];
#pragma unroll
                for (int i = 0; i < U::VALUES; i++) {
                    const int k = U::slot_of(i), j = U::element_of(i, h);
                    const A v = T::load(T::get(q[k], j));
                    g[i] = gated(c, T::load(T::get(p[k], j)), v, T::load(T::get(r[k], j)));
                    gx[i] = g[i] * (c.centred(v) * c.v[INVSTD]);
                    if (!group.whole && !group.has(k, j)) g[i] = gx[i] = 0;
                }
                s[h] += pairwise(g);
                t[h] += pairwise(gx);
            }
        }
        unit.team(walk).template all<Sum>(s);
        unit.team(walk).template all<Sum>(t);
        if (!unit.writes(walk)) return;
#pragma unroll
        for (int h = 0; h < Walk::CHANNELS; h++) {
            const int e = unit.element(walk, h);
            if (!unit.inside(walk, e)) continue;
            double *to = a.partial + 2 * walk.partial(u, e);
            to[0] = s[h], to[1] = t[h];
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
        for (long long step = a.steps; step-- > 0;) {
            const Group<T, Walk> group(a, walk, own, step);
            if (group.empty()) continue;
            uint4 q[BN_UNROLL] = {}, p[BN_UNROLL], r[BN_UNROLL] = {};
            if (needs_x) group.reread(x, kept, 0, q);
            group.reread(dy, kept, 1, p);
            if (given) group.reread(y, kept, 2, r);
#pragma unroll
            for (int j = 0; j < T::V; j++) {
                const Coefs<A> c = unit.coefs(walk, j);
#pragma unroll
                for (int k = 0; k < BN_UNROLL; k++) {
                    const A v = T::load(T::get(q[k], j));
                    const A g = gated(c, T::load(T::get(p[k], j)), v, T::load(T::get(r[k], j)));
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
