/* Threads that sum together: lanes of a warp, threads of a block, threads of a block above one another in a column.
 *
 * Every sum has one order, so results are the same to the bit from run to run. All threads of a team get the result.
 */
#ifndef BN_TEAM_CUH
#define BN_TEAM_CUH

#include "device.cuh"

struct Sum {
    static DEVICE double of(double a, double b) { return a + b; }
};
struct Max {
    static DEVICE double of(double a, double b) { return fmax(a, b); }
};

struct Warp {
    DEVICE int rank() const { return threadIdx.x % 32; }
    DEVICE int size() const { return 32; }

    template <class Op, int K> DEVICE void all(double (&v)[K]) const
    {
#pragma unroll
        for (int k = 0; k < K; k++)
#pragma unroll
            for (int d = 16; d > 0; d /= 2) v[k] = Op::of(v[k], __shfl_xor_sync(0xffffffffu, v[k], d));
    }
};

struct Block {
    double *space; /* BN_WARPS */

    DEVICE int rank() const { return threadIdx.x; }
    DEVICE int size() const { return BN_THREADS; }

    template <class Op, int K> DEVICE void all(double (&v)[K]) const
    {
        Warp().all<Op>(v);
        for (int k = 0; k < K; k++) {
            __syncthreads();
            if (threadIdx.x % 32 == 0) space[threadIdx.x / 32] = v[k];
            __syncthreads();
            v[k] = space[0];
            for (int w = 1; w < BN_WARPS; w++) v[k] = Op::of(v[k], space[w]);
        }
    }
};

/* Thread t is in column t % columns, line t / columns. All threads of the block must come along, idle ones too. */
struct Column {
    double *space; /* K * BN_THREADS */
    int columns, lines;

    template <class Op, int K> DEVICE void all(double (&v)[K]) const
    {
        const int t = threadIdx.x, line = t / columns, column = t % columns;
        __syncthreads();
#pragma unroll
        for (int k = 0; k < K; k++) space[k * BN_THREADS + t] = v[k];
        for (int h = lines; h > 1;) {
            const int half = (h + 1) / 2;
            __syncthreads();
            if (line + half < h)
#pragma unroll
                for (int k = 0; k < K; k++) {
                    double *mine = space + k * BN_THREADS + t;
                    *mine = Op::of(*mine, mine[half * columns]);
                }
            h = half;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < K; k++) v[k] = space[k * BN_THREADS + column];
    }
};

/* All threads of a cooperative launch meet, and see what the others wrote before. `word` was 0 once; each barrier flips
 * its highest bit and leaves the others as they were, so it serves any number of launches, one after another.
 */
DEVICE void grid_barrier(unsigned *word)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        const unsigned top = 0x80000000u;
        __threadfence();
        const unsigned before = atomicAdd(word, blockIdx.x == 0 ? top - (gridDim.x - 1) : 1u);
        while (((before ^ *(volatile unsigned *)word) & top) == 0) __nanosleep(32);
        __threadfence();
    }
    __syncthreads();
}

#endif
