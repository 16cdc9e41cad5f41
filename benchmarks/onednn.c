/* Batch normalisation by oneDNN through its C API: one call, made for a shape, a layout and arrays, then run often.
 *
 * Compiled by onednn.py when it is needed. All memory is the caller's; `layout` is 0 for channels first, 1 for
 * channels last, 2 for blocks of 16 channels (what oneDNN's own convolutions use). Functions return 0, or a pointer,
 * when all went well.
 */
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <oneapi/dnnl/dnnl.h>

enum { INFERENCE, TRAIN, BACKWARD, FROZEN };

typedef struct {
    dnnl_primitive_t primitive;
    dnnl_stream_t stream;
    dnnl_exec_arg_t args[12];
    int count;
} bench_call;

static dnnl_engine_t engine;

static int start(void)
{
    return engine ? 0 : dnnl_engine_create(&engine, dnnl_cpu, 0);
}

static dnnl_memory_desc_t describe(int bits, int layout, int ndims, const int64_t *dims)
{
    static const dnnl_format_tag_t tags[][3] = {
        {dnnl_ab, dnnl_ab, dnnl_ab},
        {dnnl_abc, dnnl_acb, dnnl_aBc16b},
        {dnnl_abcd, dnnl_acdb, dnnl_aBcd16b},
        {dnnl_abcde, dnnl_acdeb, dnnl_aBcde16b},
    };
    dnnl_memory_desc_t md = NULL;
    if (ndims < 2 || ndims > 5) return NULL;
    dnnl_data_type_t type = bits == 32 ? dnnl_f32 : dnnl_bf16;
    return dnnl_memory_desc_create_with_tag(&md, ndims, dims, type, tags[ndims - 2][layout]) ? NULL : md;
}

static int add(bench_call *c, int argument, dnnl_memory_desc_t md, void *data)
{
    c->args[c->count].arg = argument;
    return dnnl_memory_create(&c->args[c->count++].memory, md, engine, data);
}

/* Bytes of an array in this layout: blocks are filled up with zeros. */
int64_t bench_bytes(int bits, int layout, int ndims, const int64_t *dims)
{
    dnnl_memory_desc_t md = describe(bits, layout, ndims, dims);
    return md ? (int64_t)dnnl_memory_desc_get_size(md) : 0;
}

/* The same array in another layout. */
int bench_reorder(int bits, int ndims, const int64_t *dims, int from_layout, void *from, int to_layout, void *to)
{
    bench_call c = {0};
    dnnl_primitive_desc_t pd = NULL;
    dnnl_memory_desc_t a = describe(bits, from_layout, ndims, dims), b = describe(bits, to_layout, ndims, dims);
    if (start() || !a || !b) return 1;
    if (dnnl_reorder_primitive_desc_create(&pd, a, engine, b, engine, NULL)) return 2;
    if (dnnl_primitive_create(&c.primitive, pd) || dnnl_stream_create(&c.stream, engine, 0)) return 3;
    if (add(&c, DNNL_ARG_FROM, a, from) || add(&c, DNNL_ARG_TO, b, to)) return 4;
    return dnnl_primitive_execute(c.primitive, c.stream, c.count, c.args) || dnnl_stream_wait(c.stream);
}

/* A call; NULL where oneDNN has none for this. out is y or dx; mean, var are written in training. */
bench_call *bench_make(int op, int bits, int layout, int ndims, const int64_t *dims, float eps, int threads,
                       void *x, void *dy, void *out, float *mean, float *var, float *weight, float *bias,
                       float *dweight, float *dbias)
{
    int backward = op == BACKWARD || op == FROZEN, failed = 0;
    unsigned flags = dnnl_use_scale | dnnl_use_shift | (op == INFERENCE || op == FROZEN ? dnnl_use_global_stats : 0);
    dnnl_prop_kind_t forward = op == INFERENCE ? dnnl_forward_inference : dnnl_forward_training;
    dnnl_memory_desc_t md = describe(bits, layout, ndims, dims), vector = NULL;
    dnnl_primitive_desc_t pd = NULL, hint = NULL;
    bench_call *c = calloc(1, sizeof(bench_call));

    omp_set_num_threads(threads);
    if (!c || !md || start() || dnnl_memory_desc_create_with_tag(&vector, 1, dims + 1, dnnl_f32, dnnl_a)) return NULL;
    if (dnnl_batch_normalization_forward_primitive_desc_create(&pd, engine, forward, md, md, eps, flags, NULL))
        return NULL;
    if (backward) {
        dnnl_prop_kind_t kind = op == FROZEN ? dnnl_backward_data : dnnl_backward;
        hint = pd;
        if (dnnl_batch_normalization_backward_primitive_desc_create(&pd, engine, kind, md, md, md, eps, flags, hint, NULL))
            return NULL;
    }
    if (dnnl_primitive_create(&c->primitive, pd) || dnnl_stream_create(&c->stream, engine, 0)) return NULL;

    failed |= add(c, DNNL_ARG_SRC, md, x);
    failed |= add(c, DNNL_ARG_MEAN, vector, mean) | add(c, DNNL_ARG_VARIANCE, vector, var);
    failed |= add(c, DNNL_ARG_SCALE, vector, weight);
    if (!backward) failed |= add(c, DNNL_ARG_SHIFT, vector, bias);
    if (backward) failed |= add(c, DNNL_ARG_DIFF_DST, md, dy) | add(c, DNNL_ARG_DIFF_SRC, md, out);
    else failed |= add(c, DNNL_ARG_DST, md, out);
    if (backward) failed |= add(c, DNNL_ARG_DIFF_SCALE, vector, dweight) | add(c, DNNL_ARG_DIFF_SHIFT, vector, dbias);
    return failed ? NULL : c;
}

int bench_run(bench_call *c)
{
    return dnnl_primitive_execute(c->primitive, c->stream, c->count, c->args) || dnnl_stream_wait(c->stream);
}

void bench_free(bench_call *c)
{
    for (int i = 0; i < c->count; i++) dnnl_memory_destroy(c->args[i].memory);
    dnnl_primitive_destroy(c->primitive);
    dnnl_stream_destroy(c->stream);
    free(c);
}
