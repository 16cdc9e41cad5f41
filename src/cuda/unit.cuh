/* What a pass needs for each unit: who sums it, who writes the sum, and its coefficients. */
#ifndef BN_UNIT_CUH
#define BN_UNIT_CUH

#include "coefs.cuh"
#include "moments.cuh"
#include "walk.cuh"

/* U: slots of a thread under way at a time. */
template <class T, class Walk, int U> struct Unit;

/* A warp, one channel: coefficients in registers. */
template <class T, int U> struct Unit<T, Rows<T>, U> {
    struct Shared {
        double space[2 * BN_WARPS];
    };
    typedef Warp Team;
    typedef typename T::A A;
    enum {
        VALUES = U * T::V, /* of a channel in a bundle of slots */
        TOGETHER = 1,      /* channels that the team merges at once */
    };
    Coefs<A> k;

    DEVICE Unit(Shared &) {}
    DEVICE void prepare(const Rows<T> &walk) { k = coefs_of<A>(walk.a, walk.channel); }
    DEVICE Coefs<A> coefs(const Rows<T> &, int) const { return k; }
    DEVICE Team team(const Rows<T> &) const { return Warp(); }
    DEVICE bool writes(const Rows<T> &) const { return threadIdx.x % 32 == 0; }
    DEVICE int element(const Rows<T> &, int) const { return 0; }
    DEVICE bool inside(const Rows<T> &, int) const { return true; }

    /* The slot, and the element in it, of value i of the bundle's channel j. */
    static DEVICE int slot_of(int i) { return i / T::V; }
    static DEVICE int element_of(int i, int) { return i % T::V; }
};

/* A block, many channels: coefficients in shared memory, read once for the U values of each. */
template <class T, int U> struct Unit<T, Columns<T>, U> {
    enum { VALUES = U, TOGETHER = 2 };
    struct Shared {
        Table<T> table;
        double space[2 * TOGETHER * BN_THREADS];
    };
    typedef Column Team;
    typedef typename T::A A;
    Shared &shared;

    DEVICE Unit(Shared &memory) : shared(memory) {}
    DEVICE void prepare(const Columns<T> &walk)
    {
        __syncthreads();
        for (int e = threadIdx.x; e < walk.a.columns * T::V && walk.inside(e); e += BN_THREADS) {
            const Coefs<A> k = coefs_of<A>(walk.a, walk.channel(e));
#pragma unroll
            for (int i = 0; i < BN_NCOEF; i++) shared.table.v[i][e % T::V][e / T::V] = k.v[i];
        }
        __syncthreads();
    }
    DEVICE Coefs<A> coefs(const Columns<T> &walk, int j) const
    {
        return shared.table.at(threadIdx.x % (int)walk.a.columns, j);
    }
    DEVICE Team team(const Columns<T> &walk) const
    {
        return Column{shared.space, (int)walk.a.columns, (int)walk.a.lines};
    }
    DEVICE bool writes(const Columns<T> &walk) const { return walk.line == 0; }
    DEVICE int element(const Columns<T> &walk, int j) const { return threadIdx.x % (int)walk.a.columns * T::V + j; }
    DEVICE bool inside(const Columns<T> &walk, int e) const { return walk.inside(e); }
    static DEVICE int slot_of(int i) { return i; }
    static DEVICE int element_of(int, int j) { return j; }
};

/* The sweeps of a pass, with a barrier after each phase that another follows in the same launch. */
template <template <class, class> class Pass, class T, class Walk> DEVICE void sweep(const Args &a)
{
    typedef typename Pass<T, Walk>::Memory Shared;
    static_assert(sizeof(Shared) % 16 == 0, "what is kept on chip comes after it");
    Shared &shared = shared_memory<Shared>();
    const Kept kept = {(uint4 *)(&shared + 1), (int)a.keep};
    Walk walk(a);
    Pass<T, Walk> pass(a, shared);
    const Units units(a, walk.worker(), walk.workers());
    if (a.phases & BN_PHASE_REDUCTION)
        for (long long u = units.first; u < units.last; u++) {
            walk.enter(u);
            pass.reduction(walk, kept, u, u - units.first);
        }
    if (a.phases & BN_PHASE_REDUCTION && a.phases & BN_PHASE_MERGE) grid_barrier(a.barrier);
    if (a.phases & BN_PHASE_MERGE) {
        const long long warp = (long long)blockIdx.x * BN_WARPS + threadIdx.x / 32;
        if (a.partials <= 16 * 32) /* enough for a warp; more of them call for all warps of a block */
            for (long long c = warp; c < a.channels; c += (long long)gridDim.x * BN_WARPS) pass.merge(Warp(), c);
        else
            for (long long c = blockIdx.x; c < a.channels; c += gridDim.x) pass.merge(Block{shared.space}, c);
    }
    if (a.phases & BN_PHASE_MERGE && a.phases & BN_PHASE_ELEMENTWISE) grid_barrier(a.barrier);
    if (a.phases & BN_PHASE_ELEMENTWISE)
        for (long long u = units.last; u-- > units.first;) {
            walk.enter(u);
            pass.elementwise(walk, kept, u - units.first);
        }
}

#define BN_PASTE_(name, layout, dtype) bn_##name##_##layout##_##dtype
#define BN_PASTE(name, layout, dtype) BN_PASTE_(name, layout, dtype)

/* Two blocks on a multiprocessor: up to 128 registers for each thread. */
#define BN_LAYOUT(name, layout, Pass, Walk, bytes)                                                             \
    static_assert(sizeof(Pass<BN_DTYPE, Walk<BN_DTYPE>>::Memory) == bytes, "plan.py has another size");        \
    extern "C" __global__ void __launch_bounds__(BN_THREADS, 2) BN_PASTE(name, layout, BN_DTYPE)(const Args a) \
    {                                                                                                          \
        sweep<Pass, BN_DTYPE, Walk<BN_DTYPE>>(a);                                                              \
    }

#define BN_ENTRY(name, Pass)                      \
    BN_LAYOUT(name, cf, Pass, Rows, BN_SHARED_CF) \
    BN_LAYOUT(name, cl, Pass, Columns, BN_SHARED_CL)

#endif
