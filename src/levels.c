/* The ISA levels of this build, whether this processor has them, and the table of each (storage type, level). */
#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kernels/kernels.h"

/* ---- can this processor run a level: one function each ----------------------------------------------------------- */

static int has_reference(void) { return 1; }

#if defined(__x86_64__)
/* Bit `bit` of ecx of a CPUID leaf: for what compilers have no word for (clang 14 does not know "f16c"). */
static int cpuid_ecx(unsigned leaf, int bit)
{
    unsigned a, b, c, d;
    return __get_cpuid(leaf, &a, &b, &c, &d) && c >> bit & 1;
}

static int has_x86_v2(void)
{
    __builtin_cpu_init(); /* also asks the system whether it saves the wide registers */
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
}

static int has_x86_v3(void)
{
    /* A virtual machine may hide any of these. */
    const int f16c = cpuid_ecx(1, 29), movbe = cpuid_ecx(1, 22), lzcnt = cpuid_ecx(0x80000001, 5);
    return has_x86_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && f16c && movbe && lzcnt;
}

static int has_x86_v4(void)
{
    return has_x86_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#else
static int has_baseline(void) { return 1; }
#endif

/* ---- the lists: levels.def is made by meson from the two in the top meson.build -----------------------------------
 * */

#define BN_LEVEL(level)
#define BN_TABLE(dtype, level) extern const bn_kernels bn_kernels_##dtype##_##level;
#include "levels.def"
#undef BN_LEVEL
#undef BN_TABLE

static const struct {
    const char *name;
    int (*supported)(void);
} levels[] = {
#define BN_LEVEL(level) {#level, has_##level},
#define BN_TABLE(dtype, level)
#include "levels.def"
#undef BN_LEVEL
#undef BN_TABLE
};

static const struct {
    const char *dtype, *level;
    const bn_kernels *kernels;
} tables[] = {
#define BN_LEVEL(level)
#define BN_TABLE(dtype, level) {#dtype, #level, &bn_kernels_##dtype##_##level},
#include "levels.def"
#undef BN_LEVEL
#undef BN_TABLE
};

int bn_level_count(void) { return (int)(sizeof levels / sizeof *levels); }

const char *bn_level_name(int level) { return levels[level].name; }

int bn_level_supported(int level) { return levels[level].supported(); }

int bn_level_by_request(int level) { return levels[level].supported == has_reference; }

const bn_kernels *bn_table(const char *dtype, int level)
{
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (!strcmp(tables[i].dtype, dtype) && !strcmp(tables[i].level, levels[level].name)) return tables[i].kernels;
    return NULL;
}
