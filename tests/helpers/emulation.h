/* The threads of a grid on the CPU, for tests: stands in for src/cuda/device.cuh and for what NVRTC declares itself.
 *
 * Every thread is a fibre with a stack of its own. All blocks of the grid are alive at once, as in a cooperative
 * launch, and fibres run in turn until they wait: at __syncthreads for their block, at a shuffle for their warp, at
 * __nanosleep for anyone. So barriers, shuffles and spinning have their real meaning, and a missing barrier shows:
 * fibres run in order of their number, or with `order` 1 against it. A barrier that not all threads reach ends the
 * process with words. What it cannot show are the weak order of a GPU's memory, and how fast anything is.
 *
 * EMULATION_FTZ: floats below 2^-126 are 0, as with NVRTC's -ftz=true, where the processor can do that. Unlike on a GPU
 * doubles below 2^-1022 are too; no kernel meets those but in values that a user has scaled so.
 */
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define BN_DEVICE_CUH
#define DEVICE inline
#define __global__
#define __launch_bounds__(...)

struct uint4 {
    unsigned x, y, z, w;
} __attribute__((aligned(16)));

struct Dim {
    unsigned x;
};

namespace emulation {

enum { STACK = 64 * 1024, LANES = 32 };

struct Fibre {
    unsigned thread, block;
    bool done;
    unsigned meeting; /* __syncthreads so far */
    unsigned shuffles;
    double lent[2]; /* to the other lanes, in even and odd shuffles */
    ucontext_t start;
    jmp_buf at;
    bool begun;
    void *fake_stack;
};

static Fibre *fibres, *self;
static unsigned threads, blocks;
static unsigned char **shared; /* of each block */
static void (*body)(const void *);
static const void *arguments;
static jmp_buf scheduler;
static bool moved; /* since the last round */
static const void *main_stack;
static size_t main_stack_size;
static void *main_fake_stack;

static void fail(const char *what)
{
    fprintf(stderr, "emulation: %s (block %u, thread %u)\n", what, self->block, self->thread);
    abort();
}

static void leave(bool last)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &self->fake_stack, main_stack, main_stack_size);
#endif
    if (last || !_setjmp(self->at)) _longjmp(scheduler, 1);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self->fake_stack, &main_stack, &main_stack_size);
#endif
}

static void enter()
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &main_stack, &main_stack_size);
#endif
    body(arguments);
    self->done = true;
    moved = true;
    leave(true);
}

static void resume(Fibre *f)
{
    self = f;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&main_fake_stack, f->start.uc_stack.ss_sp, STACK);
#endif
    if (!_setjmp(scheduler)) {
        if (f->begun) _longjmp(f->at, 1);
        f->begun = true;
        setcontext(&f->start);
    }
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(main_fake_stack, nullptr, nullptr);
#endif
}

/* Until all of `n` fibres from `first` on have counted as far as this one. Who ended counts no more. */
static void wait(Fibre *first, unsigned n, unsigned Fibre::*count)
{
    moved = true;
    const unsigned mine = ++(self->*count);
    for (;;) {
        bool all = true;
        for (unsigned i = 0; i < n && all; i++) {
            if (first[i].*count >= mine) continue;
            if (first[i].done) fail("a barrier or a shuffle that a thread has left out");
            all = false;
        }
        if (all) return;
        leave(false);
    }
}

static Fibre *block_of(Fibre *f) { return fibres + (size_t)f->block * threads; }

static double shuffle(double v, unsigned lane)
{
    Fibre *warp = block_of(self) + self->thread / LANES * LANES;
    const unsigned turn = self->shuffles & 1; /* who is one shuffle ahead writes the other place */
    self->lent[turn] = v;
    wait(warp, LANES, &Fibre::shuffles);
    return warp[lane].lent[turn];
}

static void launch(void (*kernel)(const void *), const void *args, unsigned grid, unsigned block, size_t bytes,
                   int order)
{
    const size_t n = (size_t)grid * block;
    unsigned char *stacks = (unsigned char *)mmap(nullptr, n * STACK, PROT_READ | PROT_WRITE,
                                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED || block % LANES) fprintf(stderr, "emulation: no stacks\n"), abort();
    fibres = new Fibre[n]();
    shared = new unsigned char *[grid];
    threads = block, blocks = grid, body = kernel, arguments = args;
    for (unsigned b = 0; b < grid; b++) {
        shared[b] = (unsigned char *)aligned_alloc(16, (bytes + 15) / 16 * 16 + 16);
        memset(shared[b], 0x7f, bytes); /* 3.4e38, 1.4e306: what is read before it is written shows */
    }
#if defined(EMULATION_FTZ) && defined(__SSE2__)
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040); /* results and operands; each fibre begins with this mode */
#endif
    for (size_t i = 0; i < n; i++) {
        Fibre *f = fibres + i;
        f->thread = i % block, f->block = i / block;
        getcontext(&f->start);
        f->start.uc_stack.ss_sp = stacks + i * STACK;
        f->start.uc_stack.ss_size = STACK;
        makecontext(&f->start, enter, 0);
    }
    for (size_t left = n, round = 0; left; round++) {
        moved = false;
        left = 0;
        for (size_t i = 0; i < n; i++) {
            Fibre *f = fibres + (order ? n - 1 - i : i);
            if (f->done) continue;
            resume(f);
            left += !f->done;
        }
        if (left && !moved) self = fibres, fail("all threads wait");
    }
#if defined(EMULATION_FTZ) && defined(__SSE2__)
    _mm_setcsr(mode);
#endif
    for (unsigned b = 0; b < grid; b++) free(shared[b]);
    delete[] shared;
    delete[] fibres;
    munmap(stacks, n * STACK);
}

} // namespace emulation

#define threadIdx (Dim{emulation::self->thread})
#define blockIdx (Dim{emulation::self->block})
#define gridDim (Dim{emulation::blocks})

template <class Shared> inline Shared &shared_memory() { return *(Shared *)emulation::shared[emulation::self->block]; }

static inline void __syncthreads()
{
    emulation::wait(emulation::block_of(emulation::self), emulation::threads, &emulation::Fibre::meeting);
}
static inline double __shfl_xor_sync(unsigned mask, double v, int bits)
{
    if (mask != 0xffffffffu) emulation::fail("a shuffle of a part of a warp");
    return emulation::shuffle(v, (emulation::self->thread % emulation::LANES) ^ bits);
}
static unsigned spins;
static inline void __nanosleep(unsigned)
{
    emulation::moved = emulation::moved || ++spins % 64; /* the others may move; if none does for long, all wait */
    emulation::leave(false);
}
static inline void __threadfence() {}
static inline unsigned atomicAdd(unsigned *p, unsigned v)
{
    const unsigned before = *p;
    emulation::moved = true;
    *p += v;
    return before;
}

template <class A> static inline A __ldcg(const A *p) { return *p; }
static inline void __stcs(uint4 *p, const uint4 &v) { *p = v; }

template <class To, class From> static inline To bits(From v)
{
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &v, sizeof to);
    return to;
}
static inline float __uint_as_float(unsigned v) { return bits<float>(v); }
static inline unsigned __float_as_uint(float v) { return bits<unsigned>(v); }
static inline double __longlong_as_double(long long v) { return bits<double>(v); }
static inline long long __double_as_longlong(double v) { return bits<long long>(v); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

/* float16 as the device's instructions convert it; src/formulas.h, which the kernels bring along, has the rules. */
inline float float16_to_float(unsigned short);
inline unsigned short float_to_float16(float);
static inline float float_of_half(unsigned short h) { return float16_to_float(h); }
static inline unsigned short half_of_float(float v) { return v != v ? 0x7fff : float_to_float16(v); }
