/* Batch normalisation by oneDNN through its C API: one call, made for a shape, a layout and arrays, then run often.
 *
 * Compiled by onednn.py when it is needed, once for each oneDNN that is installed. That library is opened by its path
 * and its functions are looked up, because two versions have the same name for the linker. All memory is the caller's;
 * `layout` is 0 for channels first, 1 for channels last, 2 for blocks of channels (what oneDNN's own convolutions use:
 * 16 with AVX-512, else 8). `type` is 0 for float32, 1 for bfloat16, 2 for float16, 3 for float64. Functions return 0,
 * or a pointer, when all went well.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <oneapi/dnnl/dnnl.h>

enum { INFERENCE, TRAIN, BACKWARD, FROZEN };

/* clang-format off */
#define FUNCTIONS(X) \
    X(version) X(get_effective_cpu_isa) X(engine_create) X(stream_create) X(stream_wait) X(stream_destroy) \
    X(memory_create) X(memory_destroy) X(memory_desc_create_with_tag) X(memory_desc_get_size) \
    X(memory_desc_destroy) X(primitive_create) X(primitive_execute) X(primitive_destroy) \
    X(primitive_desc_destroy) X(reorder_primitive_desc_create) \
    X(batch_normalization_forward_primitive_desc_create) X(batch_normalization_backward_primitive_desc_create)
/* clang-format on */

#define MEMBER(name) __typeof__(dnnl_##name) *name;
static struct {
    FUNCTIONS(MEMBER)
} dnnl;

static dnnl_engine_t engine;

typedef struct {
    dnnl_primitive_t primitive;
    dnnl_stream_t stream;
    dnnl_exec_arg_t args[12];
    int count;
} bench_call;

/* What oneTBB's global_control is in memory: the most threads there may be, for as long as it exists. */
typedef struct {
    size_t value;
    intptr_t reserved;
    int parameter; /* 0: threads */
} tbb_control;

/* oneDNN's threads are OpenMP's or oneTBB's, whichever it was built with. */
static int limit_threads(void *library, int threads)
{
    static tbb_control control;
    void (*openmp)(int) = dlsym(library, "omp_set_num_threads");
    void (*tbb)(tbb_control *) = dlsym(library, "_ZN3tbb6detail2r16createERNS0_2d114global_controlE");
    if (openmp) openmp(threads);
    if (tbb && !control.value) {
        control.value = threads < 1 ? 1 : (size_t)threads;
        tbb(&control);
    }
    return openmp || tbb ? 0 : 1;
}

/* Open the library: 0, or where it failed. 4: it finds no processor to run on (SYCL without a CPU device). */
int bench_start(const char *path, int threads)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return 1;
#define LOOK_UP(name) \
    if (!(dnnl.name = (__typeof__(dnnl.name))dlsym(library, "dnnl_" #name))) return 2;
    FUNCTIONS(LOOK_UP)
    if (limit_threads(library, threads)) return 3;
    return dnnl.engine_create(&engine, dnnl_cpu, 0) ? 4 : 0;
}

/* major * 100 + minor */
int bench_version(void) { return dnnl.version()->major * 100 + dnnl.version()->minor; }

static dnnl_memory_desc_t describe(int type, int layout, int ndims, const int64_t *given)
{
    static const dnnl_format_tag_t tags[][3] = {
        {dnnl_ab, dnnl_ab, dnnl_ab},
        {dnnl_abc, dnnl_acb, dnnl_aBc16b},
        {dnnl_abcd, dnnl_acdb, dnnl_aBcd16b},
        {dnnl_abcde, dnnl_acdeb, dnnl_aBcde16b},
    };
    static const dnnl_format_tag_t eights[] = {dnnl_ab, dnnl_aBc8b, dnnl_aBcd8b, dnnl_aBcde8b};
    static const dnnl_data_type_t types[] = {dnnl_f32, dnnl_bf16, dnnl_f16, dnnl_f64};
    dnnl_memory_desc_t md = NULL;
    dnnl_dims_t dims = {0};
    if (ndims < 2 || ndims > 5) return NULL;
    const int wide = dnnl.get_effective_cpu_isa() >= dnnl_cpu_isa_avx512_core;
    const dnnl_format_tag_t tag = layout == 2 && !wide ? eights[ndims - 2] : tags[ndims - 2][layout];
    memcpy(dims, given, (size_t)ndims * sizeof dims[0]);
    return dnnl.memory_desc_create_with_tag(&md, ndims, dims, types[type], tag) ? NULL : md;
}

static int add(bench_call *c, int argument, dnnl_memory_desc_t md, void *data)
{
    c->args[c->count].arg = argument;
    return dnnl.memory_create(&c->args[c->count++].memory, md, engine, data);
}

static int ready(bench_call *c, dnnl_primitive_desc_t pd)
{
    return dnnl.primitive_create(&c->primitive, pd) ||
           dnnl.stream_create(&c->stream, engine, dnnl_stream_default_flags);
}

/* Bytes of an array in this layout: blocks are filled up with zeros. */
int64_t bench_bytes(int type, int layout, int ndims, const int64_t *dims)
{
    dnnl_memory_desc_t md = describe(type, layout, ndims, dims);
    const int64_t bytes = md ? (int64_t)dnnl.memory_desc_get_size(md) : 0;
    if (md) dnnl.memory_desc_destroy(md);
    return bytes;
}

int bench_run(bench_call *c)
{
    return dnnl.primitive_execute(c->primitive, c->stream, c->count, c->args) || dnnl.stream_wait(c->stream);
}

void bench_free(bench_call *c)
{
    for (int i = 0; i < c->count; i++) dnnl.memory_destroy(c->args[i].memory);
    if (c->primitive) dnnl.primitive_destroy(c->primitive);
    if (c->stream) dnnl.stream_destroy(c->stream);
    free(c);
}

/* The same array in another layout. */
int bench_reorder(int type, int ndims, const int64_t *dims, int from_layout, void *from, int to_layout, void *to)
{
    bench_call *c = calloc(1, sizeof *c);
    dnnl_primitive_desc_t pd = NULL;
    dnnl_memory_desc_t a = describe(type, from_layout, ndims, dims), b = describe(type, to_layout, ndims, dims);
    int failed = !c || !a || !b || dnnl.reorder_primitive_desc_create(&pd, a, engine, b, engine, NULL);
    failed = failed || ready(c, pd) || add(c, DNNL_ARG_FROM, a, from) || add(c, DNNL_ARG_TO, b, to) || bench_run(c);
    if (c) bench_free(c);
    return failed;
}

static dnnl_primitive_desc_t describe_call(int op, dnnl_memory_desc_t md, float eps)
{
    const unsigned fixed = op == INFERENCE || op == FROZEN ? dnnl_use_global_stats : 0;
    const unsigned flags = dnnl_use_scale | dnnl_use_shift | fixed;
    const dnnl_prop_kind_t forward = op == INFERENCE ? dnnl_forward_inference : dnnl_forward_training;
    const dnnl_prop_kind_t backward = op == FROZEN ? dnnl_backward_data : dnnl_backward;
    dnnl_primitive_desc_t hint = NULL, pd = NULL;
    if (dnnl.batch_normalization_forward_primitive_desc_create(&hint, engine, forward, md, md, eps, flags, NULL))
        return NULL;
    if (op == INFERENCE || op == TRAIN) return hint;
    if (dnnl.batch_normalization_backward_primitive_desc_create(&pd, engine, backward, md, md, md, eps, flags, hint,
                                                                NULL))
        return NULL;
    return pd;
}

/* Whether oneDNN has this call. */
int bench_has(int op, int type, int layout, int ndims, const int64_t *dims, float eps)
{
    dnnl_memory_desc_t md = describe(type, layout, ndims, dims);
    dnnl_primitive_desc_t pd = md ? describe_call(op, md, eps) : NULL;
    if (pd) dnnl.primitive_desc_destroy(pd);
    if (md) dnnl.memory_desc_destroy(md);
    return pd != NULL;
}

/* A call; NULL where oneDNN has none for this. out is y or dx; mean, var are written in training. */
bench_call *bench_make(int op, int type, int layout, int ndims, const int64_t *dims, float eps, void *x, void *dy,
                       void *out, float *mean, float *var, float *weight, float *bias, float *dweight, float *dbias)
{
    const int backward = op == BACKWARD || op == FROZEN;
    dnnl_dims_t channels = {dims[1]};
    dnnl_memory_desc_t md = describe(type, layout, ndims, dims), vector = NULL;
    dnnl_primitive_desc_t pd = md ? describe_call(op, md, eps) : NULL;
    bench_call *c = pd ? calloc(1, sizeof *c) : NULL;
    int failed;

    if (!c || dnnl.memory_desc_create_with_tag(&vector, 1, channels, dnnl_f32, dnnl_a) || ready(c, pd)) return NULL;
    failed = add(c, DNNL_ARG_SRC, md, x);
    failed |= add(c, DNNL_ARG_MEAN, vector, mean) | add(c, DNNL_ARG_VARIANCE, vector, var);
    failed |= add(c, DNNL_ARG_SCALE, vector, weight);
    if (!backward) failed |= add(c, DNNL_ARG_SHIFT, vector, bias);
    if (backward) failed |= add(c, DNNL_ARG_DIFF_DST, md, dy) | add(c, DNNL_ARG_DIFF_SRC, md, out);
    else failed |= add(c, DNNL_ARG_DST, md, out);
    if (backward) failed |= add(c, DNNL_ARG_DIFF_SCALE, vector, dweight) | add(c, DNNL_ARG_DIFF_SHIFT, vector, dbias);
    return failed ? NULL : c;
}
