/* How the slots of an array are shared out.
 *
 * A unit is what one worker sums at a time: a segment of one channel for a warp (channels first), or a segment of the
 * rows of a panel, which is some columns, for a block (channels last). A worker takes adjacent units; in each, `steps`
 * times BN_UNROLL slots for each thread, of which a pass has U (its UNROLL, a divisor of BN_UNROLL) under way at a
 * time: a bundle. The elementwise sweep goes from the last slot to the first, so that what the reduction read last is
 * read again first, while it is in cache; what it read first is kept on chip (Kept).
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

/* Channels first: row q of `inner` elements belongs to channel q % channels; the slots of a channel are those of its
 * rows, one row after another. A row that begins or ends inside a slot shares it with its neighbours.
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
        channel = unit / a.segments;
        const long long first = (unit - channel * a.segments) * a.segment, slots = a.rows * a.row_slots;
        n = slots - first < a.segment ? slots - first : a.segment;
        row = first / a.row_slots;
        begin = first - row * a.row_slots;
    }

    /* A thread's slot of that number in the unit. */
    DEVICE Slot slot(int number) const
    {
        const int t = number * 32 + threadIdx.x % 32;
        if (t >= n) return Slot{0, 0, 0};
        const long long q = quotient(begin + t, a.row_slots, a.magic), i = begin + t - q * a.row_slots;
        const long long start = ((row + q) * a.channels + channel) * a.inner;
        const long long at = ((start + a.offset) / T::V + i) * T::V - a.offset;
        const long long lo = start - at, hi = start + a.inner - at;
        return Slot{at, (int)(lo > 0 ? lo : 0), (int)(hi < 0 ? 0 : hi < T::V ? hi : T::V)};
    }

    /* U slots from number i on, and whether all are full. */
    template <int U> struct Slots {
        Slot slot[U];
        bool whole;

        DEVICE Slots(const Rows &walk, int i) : whole(true)
        {
#pragma unroll
            for (int k = 0; k < U; k++) {
                slot[k] = walk.slot(i + k);
                whole = whole && full<T>(slot[k]);
            }
        }
        DEVICE Slot at(int k) const { return slot[k]; }
    };

    /* Where partial `i` of a channel lies; what this unit sums is its only one. */
    DEVICE long long partial(long long unit, int) const { return unit; }
    static DEVICE long long partial_of(const Args &a, long long c, long long i) { return c * a.partials + i; }
};

/* Channels last: `rows` rows of row_slots slots; a row is as many rows of the matrix as fill whole slots, so element j
 * of a row's slot w is in one column of the matrix in all rows, the remainder of (w V + j - offset) by its width. A
 * block takes `columns` slots side by side, `lines` rows at a time. Channels first with short rows comes here too: then
 * `inner` neighbouring columns are a channel.
 */
template <class T> struct Columns {
    enum { CHANNELS = T::V };
    const Args &a;
    long long panel, segment, column;
    int line;

    DEVICE Columns(const Args &args) : a(args) {}
    DEVICE long long worker() const { return blockIdx.x; }
    DEVICE long long workers() const { return gridDim.x; }

    DEVICE void enter(long long unit)
    {
        const int columns = (int)a.columns;
        panel = unit / a.segments;
        segment = unit - panel * a.segments;
        column = panel * columns + threadIdx.x % columns;
        line = threadIdx.x / columns;
        if (line >= a.lines || column >= a.row_slots) line = -1; /* idle */
    }

    DEVICE Slot slot(int number) const
    {
        const int i = number * (int)a.lines + line;
        const long long row = segment * a.segment + i;
        if (line < 0 || i >= a.segment || row >= a.rows) return Slot{0, 0, 0};
        const long long at = (row * a.row_slots + column) * T::V - a.offset, hi = a.size - at;
        return Slot{at, (int)(at < 0 ? -at : 0), (int)(hi < 0 ? 0 : hi < T::V ? hi : T::V)};
    }

    /* They lie one pitch apart: where all are full there is no need to hold each. */
    template <int U> struct Slots {
        const Columns &walk;
        long long first, pitch;
        int number;
        bool whole;

        DEVICE Slots(const Columns &from, int n) : walk(from), number(n)
        {
            const Args &a = walk.a;
            const int lines = (int)a.lines, i = number * lines + walk.line, end = i + (U - 1) * lines;
            pitch = a.lines * a.row_slots * T::V;
            first = ((walk.segment * a.segment + i) * a.row_slots + walk.column) * T::V - a.offset;
            whole = walk.line >= 0 && end < a.segment && walk.segment * a.segment + end < a.rows && first >= 0 &&
                    first + (U - 1) * pitch + T::V <= a.size;
        }
        DEVICE Slot at(int k) const { return whole ? Slot{first + k * pitch, 0, T::V} : walk.slot(number + k); }
    };

    /* The channel of element e of the panel. */
    DEVICE long long channel(int e) const
    {
        const long long width = a.channels * a.inner, c = (panel * a.columns * T::V + e - a.offset) % width;
        return (c < 0 ? c + width : c) / a.inner;
    }

    DEVICE bool inside(int e) const { return panel * a.columns * T::V + e < a.row_slots * T::V; }

    /* The partials lie in the order of (segment, element of the row). */
    DEVICE long long partial(long long, int e) const
    {
        return segment * a.row_slots * T::V + panel * a.columns * T::V + e;
    }
    static DEVICE long long partial_of(const Args &a, long long c, long long i)
    {
        const long long width = a.channels * a.inner, repeat = i / a.inner;
        return repeat * width + (c * a.inner + (i - repeat * a.inner) + a.offset) % width;
    }
};

/* A thread's own bundles at the beginning of its sweep, in shared memory: `keep` slots, whole bundles. */
struct Kept {
    uint4 *space;
    int keep;

    DEVICE bool has(int ordinal) const { return ordinal < keep; }
    DEVICE uint4 *of(int ordinal, int operand) const
    {
        return space + (operand * keep + ordinal) * BN_THREADS + threadIdx.x;
    }
};

/* U slots of a thread from number i of a unit on, under way together, and the same in both sweeps. */
template <class T, class Walk, int U> struct Bundle {
    const typename Walk::template Slots<U> slots;
    int ordinal;

    /* `unit` counts the worker's own. Past 2^31 slots of a thread nothing is kept any more. */
    DEVICE Bundle(const Args &a, const Walk &walk, long long unit, int i) : slots(walk, i)
    {
        const long long before = unit * a.steps * BN_UNROLL + i;
        ordinal = before >> 30 ? 1 << 30 : (int)before;
    }

    DEVICE bool whole() const { return slots.whole; }

    DEVICE bool empty() const
    {
        bool nothing = !slots.whole;
#pragma unroll
        for (int k = 0; k < U; k++) nothing = nothing && slots.at(k).lo >= slots.at(k).hi;
        return nothing;
    }

    DEVICE bool has(int k, int j) const
    {
        const Slot s = slots.at(k);
        return j >= s.lo && j < s.hi;
    }

    /* Full slots, the usual ones, are loaded without a branch between them: all are under way at once. */
    DEVICE void read(const Operand<T> &from, uint4 (&q)[U]) const
    {
        if (slots.whole && from.aligned) {
#pragma unroll
            for (int k = 0; k < U; k++) q[k] = from.load_full(slots.at(k));
        } else {
#pragma unroll
            for (int k = 0; k < U; k++) q[k] = from.load(slots.at(k));
        }
    }

    /* For the elementwise sweep, as far as there is space. */
    DEVICE void keep(const Kept &kept, int operand, const uint4 (&q)[U]) const
    {
        if (!kept.has(ordinal)) return;
#pragma unroll
        for (int k = 0; k < U; k++) *kept.of(ordinal + k, operand) = q[k];
    }

    /* From where it was kept, or from memory. */
    DEVICE void reread(const Operand<T> &from, const Kept &kept, int operand, uint4 (&q)[U]) const
    {
        if (!kept.has(ordinal)) return read(from, q);
#pragma unroll
        for (int k = 0; k < U; k++) q[k] = *kept.of(ordinal + k, operand);
    }

    DEVICE void write(const Operand<T> &to, const uint4 (&q)[U]) const
    {
        if (slots.whole && to.aligned) {
#pragma unroll
            for (int k = 0; k < U; k++) to.store_full(slots.at(k), q[k]);
        } else {
#pragma unroll
            for (int k = 0; k < U; k++) to.store(slots.at(k), q[k]);
        }
    }
};

#endif
