/* The ISA levels of this build, whether this processor has them, and the table of each (storage type, level). */
#include <stddef.h>
#include <string.h>

#include "kernels/kernels.h"

/* levels.def is made by meson from the two lists in the top meson.build. */
#define BN_LEVEL(level)
#define BN_TABLE(dtype, level) extern const bn_kernels bn_kernels_##dtype##_##level;
#include "levels.def"
#undef BN_LEVEL
#undef BN_TABLE

static const char *const names[] = {
#define BN_LEVEL(level) #level,
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

int bn_level_count(void) { return (int)(sizeof names / sizeof *names); }

const char *bn_level_name(int level) { return names[level]; }

int bn_level_supported(int level)
{
#if defined(__x86_64__)
    __builtin_cpu_init(); /* also asks the system whether it saves the wide registers */
    int v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
    int v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
             __builtin_cpu_supports("bmi2");
    int v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!strcmp(names[level], "x86_v4")) return v4;
    if (!strcmp(names[level], "x86_v3")) return v3;
    if (!strcmp(names[level], "x86_v2")) return v2;
#endif
    return !strcmp(names[level], "baseline");
}

const bn_kernels *bn_table(const char *dtype, int level)
{
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (!strcmp(tables[i].dtype, dtype) && !strcmp(tables[i].level, names[level])) return tables[i].kernels;
    return NULL;
}
