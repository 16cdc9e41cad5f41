/* How the slots of an array are shared out.
 *
 * A unit is what one worker sums at a time: a part of one channel for a warp (channels first), or a part of the rows of
 * some columns for a block (channels last). A worker takes adjacent units; in each, `steps` times BN_UNROLL slots for
 * each thread. The second sweep takes the same units and steps from the last to the first, so that what the first
 * read last is read again first, while it is in cache; what it read first is kept on chip (Kept).
 *
 * Slots lie at 16-byte boundaries of memory; `offset` elements of the first one lie before the array.
 */
#ifndef BN_WALK_CUH
#define BN_WALK_CUH

#include "storage.cuh"
#include "team.cuh"

/* n / d for magic = 2^64 / d rounded up; exact below 2^32. */
DEVICE long long quotient(long long n, long long d, unsigned long long magic)
{
    if (d == 1) return n;
    return n >> 32 ? n / d : (long long)__umul64hi((unsigned long long)n, magic);
}

struct Units {
    long long first, last;

    DEVICE Units(const Args &a, long long worker, long long workers)
        : first(worker * a.units / workers), last((worker + 1) * a.units / workers)
    {
    }
};

/* Channels first: row q of `inner` elements belongs to channel q % channels; the slots of a channel are those of its rows,
 * one row after another. A row that begins or ends inside a slot shares it with its neighbours.
 */
template <class T> struct Rows {
    enum { CHANNELS = 1 }; /* of a slot */
    const Args &a;
    long long channel, row, begin, n;

    DEVICE Rows(const Args &args) : a(args) {}
    DEVICE long long worker() const { return (long long)blockIdx.x * BN_WARPS + threadIdx.x / 32; }
    DEVICE long long workers() const { return (long long)gridDim.x * BN_WARPS; }

    DEVICE void enter(long long unit)
    {
        channel = unit / a.parts;
        const long long first = (unit - channel * a.parts) * a.part, slots = a.rows * a.row_slots;
        n = slots - first < a.part ? slots - first : a.part;
        row = first / a.row_slots;
        begin = first - row * a.row_slots;
    }

    DEVICE Slot slot(long long step, int k) const
    {
        const long long t = (step * BN_UNROLL + k) * 32 + threadIdx.x % 32;
        if (t >= n) return Slot{0, 0, 0};
        const long long q = quotient(begin + t, a.row_slots, a.magic), i = begin + t - q * a.row_slots;
        const long long start = ((row + q) * a.channels + channel) * a.inner;
        const long long at = ((start + a.offset) / T::V + i) * T::V - a.offset;
        const long long lo = start - at, hi = start + a.inner - at;
        return Slot{at, (int)(lo > 0 ? lo : 0), (int)(hi < 0 ? 0 : hi < T::V ? hi : T::V)};
    }

    /* Where partial `i` of a channel lies; what this unit sums is its only one. */
    DEVICE long long partial(long long unit, int) const { return unit; }
    static DEVICE long long partial_of(const Args &a, long long c, long long i) { return c * a.partials + i; }
};

/* Channels last: `rows` rows of row_slots slots; a row is as many rows of the matrix as fill whole slots, so element j of
 * a row's slot w is in one column of the matrix in all rows: the remainder of (w V + j - offset) by its width. A block
 * takes `columns` slots side by side, `lines` rows at a time. Channels first with short rows comes here too: then
 * `inner` neighbouring columns are a channel.
 */
template <class T> struct Columns {
    enum { CHANNELS = T::V };
    const Args &a;
    long long group, part, column;
    int line;

    DEVICE Columns(const Args &args) : a(args) {}
    DEVICE long long worker() const { return blockIdx.x; }
    DEVICE long long workers() const { return gridDim.x; }

    DEVICE void enter(long long unit)
    {
        const int columns = (int)a.columns;
        group = unit / a.parts;
        part = unit - group * a.parts;
        column = group * columns + threadIdx.x % columns;
        line = threadIdx.x / columns;
        if (line >= a.lines || column >= a.row_slots) line = -1; /* idle */
    }

    DEVICE Slot slot(long long step, int k) const
    {
        const long long i = (step * BN_UNROLL + k) * a.lines + line, row = part * a.part + i;
        if (line < 0 || i >= a.part || row >= a.rows) return Slot{0, 0, 0};
        const long long at = (row * a.row_slots + column) * T::V - a.offset, hi = a.size - at;
        return Slot{at, (int)(at < 0 ? -at : 0), (int)(hi < 0 ? 0 : hi < T::V ? hi : T::V)};
    }

    /* The channel of element e of the group. */
    DEVICE long long channel(int e) const
    {
        const long long width = a.channels * a.inner, c = (group * a.columns * T::V + e - a.offset) % width;
        return (c < 0 ? c + width : c) / a.inner;
    }

    DEVICE bool inside(int e) const { return group * a.columns * T::V + e < a.row_slots * T::V; }

    /* The partials lie in the order of (part, element of the row). */
    DEVICE long long partial(long long, int e) const
    {
        return part * a.row_slots * T::V + group * a.columns * T::V + e;
    }
    static DEVICE long long partial_of(const Args &a, long long c, long long i)
    {
        const long long width = a.channels * a.inner, repeat = i / a.inner;
        return repeat * width + (c * a.inner + (i - repeat * a.inner) + a.offset) % width;
    }
};

/* A thread's own slots of the units at the beginning of its sweep, in shared memory. */
struct Kept {
    uint4 *space;
    long long keep;

    DEVICE uint4 *of(long long ordinal, int operand) const
    {
        return ordinal < keep ? space + (operand * keep + ordinal) * BN_THREADS + threadIdx.x : nullptr;
    }
};

/* One group of slots of a thread: the same step of the same unit in both sweeps. */
template <class T, class Walk> struct Group {
    Slot slot[BN_UNROLL];
    long long ordinal;
    bool whole;

    /* `unit` counts the worker's own. */
    DEVICE Group(const Args &a, const Walk &walk, long long unit, long long step)
        : ordinal((unit * a.steps + step) * BN_UNROLL), whole(true)
    {
#pragma unroll
        for (int k = 0; k < BN_UNROLL; k++) {
            slot[k] = walk.slot(step, k);
            whole = whole && full<T>(slot[k]);
        }
    }

    DEVICE bool empty() const
    {
        bool nothing = true;
#pragma unroll
        for (int k = 0; k < BN_UNROLL; k++) nothing = nothing && slot[k].lo >= slot[k].hi;
        return nothing;
    }

    DEVICE bool has(int k, int j) const { return j >= slot[k].lo && j < slot[k].hi; }

    /* From memory, kept for the second sweep. */
    DEVICE void read(const Operand<T> &from, const Kept &kept, int operand, uint4 (&q)[BN_UNROLL]) const
    {
#pragma unroll
        for (int k = 0; k < BN_UNROLL; k++) q[k] = from.load(slot[k]);
#pragma unroll
        for (int k = 0; k < BN_UNROLL; k++)
            if (uint4 *place = kept.of(ordinal + k, operand)) *place = q[k];
    }

    /* From where it was kept, or from memory. */
    DEVICE void reread(const Operand<T> &from, const Kept &kept, int operand, uint4 (&q)[BN_UNROLL]) const
    {
#pragma unroll
        for (int k = 0; k < BN_UNROLL; k++) {
            const uint4 *place = kept.of(ordinal + k, operand);
            q[k] = place ? *place : from.load(slot[k]);
        }
    }

    DEVICE void write(const Operand<T> &to, const uint4 (&q)[BN_UNROLL]) const
    {
#pragma unroll
        for (int k = 0; k < BN_UNROLL; k++) to.store(slot[k], q[k]);
    }
};

#endif
