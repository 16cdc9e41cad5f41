/* Training forward and its parts, moments and normalise: y = activation(affine(x) [+ residual]) (src/formulas.h).
 *
 * Reduction: mean and M2 of each unit (moments.cuh). Merge: mean and variance of each channel from its units'.
 * Elementwise: y. Inference is the elementwise sweep alone. x is read twice, once where it stays on chip or in cache, y
 * written once: 12 (8) bytes for each element in float32, 4 more with a residual. The elementwise sweep reads mean and
 * var from memory whoever computed them, so training is statistics and then inference, bit for bit.
 */
#include "unit.cuh"

template <class T, class Walk> struct Forward {
    typedef typename T::A A;
    enum { UNROLL = 4 };
    typedef Unit<T, Walk, UNROLL> U;
    typedef typename U::Shared Memory;
    const Args &a;
    const int slots; /* of a thread in a unit */
    const Operand<T> x, residual, out;
    U unit;

    DEVICE Forward(const Args &args, Memory &shared)
        : a(args), slots((int)a.steps * BN_UNROLL), x(a, a.x), residual(a, a.residual), out(a, a.out), unit(shared)
    {
    }

    DEVICE void reduction(const Walk &walk, const Kept &kept, long long u, long long own)
    {
        Run<A, int> run[Walk::CHANNELS];
        for (int at = 0; at < slots; at += UNROLL) {
            const Bundle<T, Walk, UNROLL> bundle(a, walk, own, at);
            if (bundle.empty()) continue;
            uint4 q[UNROLL];
            bundle.read(x, q);
            bundle.keep(kept, 0, q);
#pragma unroll
            for (int h = 0; h < Walk::CHANNELS; h++) {
                A v[U::VALUES];
                unsigned valid = bundle.whole() ? All<U::VALUES>::lanes : 0;
#pragma unroll
                for (int i = 0; i < U::VALUES; i++) {
                    const int k = U::slot_of(i), j = U::element_of(i, h);
                    v[i] = T::load(T::get(q[k], j));
                    if (!bundle.whole()) valid |= (unsigned)bundle.has(k, j) << i;
                }
                add_bundle(run[h], v, valid);
            }
        }
        enum { K = U::TOGETHER };
#pragma unroll
        for (int h = 0; h < Walk::CHANNELS; h += K) {
            Moments m[K];
#pragma unroll
            for (int k = 0; k < K; k++) m[k] = run[h + k].moments();
            ::merge(unit.team(walk), m);
#pragma unroll
            for (int k = 0; k < K; k++) {
                const int e = unit.element(walk, h + k);
                if (!unit.writes(walk) || !unit.inside(walk, e)) continue;
                double *to = a.partial + 3 * walk.partial(u, e);
                to[0] = m[k].n, to[1] = m[k].mean, to[2] = m[k].m2;
            }
        }
    }

    template <class Team> DEVICE void merge(const Team &team, long long c)
    {
        Run<double, double> run;
        for (long long i = team.rank(); i < a.partials; i += team.size()) {
            const double *from = a.partial + 3 * Walk::partial_of(a, c, i);
            run.add(Moments{__ldcg(from), __ldcg(from + 1), __ldcg(from + 2)});
        }
        Moments m[1] = {run.moments()};
        ::merge(team, m);
        if (team.rank() != 0) return;
        a.result[0][c] = m[0].mean;
        a.result[1][c] = m[0].m2 / m[0].n;
    }

    DEVICE void elementwise(const Walk &walk, const Kept &kept, long long own)
    {
        const int activation = (int)a.activation;
        const A parameter = (A)a.parameter;
        const bool added = a.residual != nullptr;
        unit.prepare(walk);
        for (int at = slots - UNROLL; at >= 0; at -= UNROLL) {
            const Bundle<T, Walk, UNROLL> bundle(a, walk, own, at);
            if (bundle.empty()) continue;
            uint4 q[UNROLL], p[UNROLL];
            bundle.reread(x, kept, 0, q);
            if (added) bundle.read(residual, p);
#pragma unroll
            for (int j = 0; j < T::V; j++) {
                const Coefs<A> c = unit.coefs(walk, j);
#pragma unroll
                for (int k = 0; k < UNROLL; k++) {
                    A z = c.z(c.centre(T::load(T::get(q[k], j))));
                    if (added) z += T::load(T::get(p[k], j));
                    T::put(q[k], j, T::store(activate(activation, z, parameter)));
                }
            }
            bundle.write(out, q);
        }
    }
};

BN_ENTRY(forward, Forward)
