/* Every operation of the C API on many threads that Python has never seen, while Python runs beside them.
 *
 * All threads have the same numbers in memory of their own (odd ones channels last or strided), and must get the same
 * bits. The last line tells.
 */
#include <Python.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bnkern.h"

enum { THREADS = 16, ROUNDS = 20, N = 4, C = 5, L = 3000, ALL = N * C * L };

static const bnkern_api *bn;

typedef struct {
    int number, failed;
    float y[ALL], dx[ALL], dresidual[ALL], applied[ALL], again[ALL];
    float running[2][C];
    double mean[C], var[C], dweight[C], dbias[C], sums[2][C];
} results;

/* Where element i in C order lies: C order, channels last, or with a gap after each element. */
static int64_t place(int order, int64_t i)
{
    const int64_t n = i / (C * L), c = i / L % C, l = i % L;
    return order == 0 ? i : order == 1 ? (n * L + l) * C + c : 2 * i;
}

static bnkern_tensor tensor(void *data, int order, int bits, int vector)
{
    static int64_t shape[3] = {N, C, L}, channels[1] = {C};
    static int64_t strides[3][3] = {{C * L, L, 1}, {C * L, 1, C}, {2 * C * L, 2 * L, 2}};
    bnkern_tensor t;
    memset(&t, 0, sizeof(t));
    t.data = data, t.device.device_type = 1, t.ndim = vector ? 1 : 3;
    t.dtype.code = 2, t.dtype.bits = (uint8_t)bits, t.dtype.lanes = 1;
    t.shape = vector ? channels : shape, t.strides = vector ? NULL : strides[order];
    return t;
}

static float *array(int order, int64_t factor)
{
    float *a = malloc(2 * ALL * sizeof(float));
    if (!a) abort();
    for (int64_t i = 0; i < 2 * ALL; i++) a[i] = 7;
    for (int64_t i = 0; i < ALL; i++) a[place(order, i)] = (float)(i * factor % 101) / 7;
    return a;
}

static void keep(float *to, float *from, int order)
{
    for (int64_t i = 0; i < ALL; i++) to[i] = from[place(order, i)];
    free(from);
}

static void must(results *r, bnkern_function function, bnkern_call *call)
{
    char words[200] = "";
    if (function(call, words, sizeof(words)) != BNKERN_OK) {
        fprintf(stderr, "thread %d: %s\n", r->number, words);
        r->failed = 1;
    }
}

static void step(results *r, int order)
{
    float *x = array(order, 13), *dy = array(order, 29), *residual = array(order, 31), *y = array(order, 1);
    float *dx = array(order, 1), *dresidual = array(order, 1), *applied = array(order, 1), *again = array(order, 1);
    bnkern_tensor x_ = tensor(x, order, 32, 0), dy_ = tensor(dy, order, 32, 0),
                  residual_ = tensor(residual, order, 32, 0);
    bnkern_tensor y_ = tensor(y, order, 32, 0), dx_ = tensor(dx, order, 32, 0), again_ = tensor(again, order, 32, 0);
    bnkern_tensor dresidual_ = tensor(dresidual, order, 32, 0), applied_ = tensor(applied, order, 32, 0);
    bnkern_tensor mean = tensor(r->mean, 0, 64, 1), var = tensor(r->var, 0, 64, 1);
    bnkern_tensor running_mean = tensor(r->running[0], 0, 32, 1), running_var = tensor(r->running[1], 0, 32, 1);
    bnkern_tensor dweight = tensor(r->dweight, 0, 64, 1), dbias = tensor(r->dbias, 0, 64, 1);
    bnkern_tensor sum_dy = tensor(r->sums[0], 0, 64, 1), sum_dy_xhat = tensor(r->sums[1], 0, 64, 1);
    bnkern_call call = BNKERN_CALL_INIT;
    memset(r->running, 0, sizeof(r->running));
    call.activation = BNKERN_LEAKY_RELU, call.slope = 0.25, call.threads = r->number % 3;
    call.x = &x_, call.residual = &residual_, call.y = &y_, call.mean = &mean, call.var = &var;
    call.running_mean = &running_mean, call.running_var = &running_var;
    must(r, bn->train, &call);
    call.dy = &dy_, call.dx = &dx_, call.dresidual = &dresidual_, call.dweight = &dweight, call.dbias = &dbias;
    must(r, bn->backward, &call);
    call.sum_dy = &sum_dy, call.sum_dy_xhat = &sum_dy_xhat, call.count = N * L, call.dresidual = NULL;
    must(r, bn->reduce, &call);
    call.dx = &applied_;
    must(r, bn->apply, &call);
    call.running_mean = &mean, call.running_var = &var, call.y = &again_;
    must(r, bn->inference, &call);
    call.running_mean = &running_mean, call.running_var = &running_var;
    must(r, bn->stats, &call);
    must(r, bn->update_running, &call);
    free(x), free(dy), free(residual);
    keep(r->y, y, order), keep(r->dx, dx, order), keep(r->dresidual, dresidual, order),
        keep(r->applied, applied, order);
    keep(r->again, again, order);
}

static void *work(void *given)
{
    results *r = given;
    for (int k = 0; k < ROUNDS; k++) step(r, r->number % 3);
    return NULL;
}

/* A call so long that Python's own would have looked for Ctrl-C: 0.05 s at the least. */
static void *long_call(void *given)
{
    int64_t shape[2] = {1 << 17, 512};
    bnkern_tensor x;
    bnkern_call call = BNKERN_CALL_INIT;
    memset(&x, 0, sizeof(x));
    x.data = calloc((size_t)(shape[0] * shape[1]), sizeof(float)), x.device.device_type = 1, x.ndim = 2,
    x.shape = shape;
    x.dtype.code = 2, x.dtype.bits = 32, x.dtype.lanes = 1;
    call.x = call.y = &x, call.threads = 1;
    *(int *)given = !x.data || bn->train(&call, NULL, 0);
    free(x.data);
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    results *all = calloc(THREADS, sizeof(results));
    int failed = 0;
    if (!all) return 1;
    Py_Initialize();
    bn = bnkern_import();
    if (!bn) {
        PyErr_Print();
        return 1;
    }
    for (int t = 0; t < THREADS; t++) {
        all[t].number = t;
        if (pthread_create(&threads[t], NULL, work, &all[t])) return 1;
    }
    if (PyRun_SimpleString("import numpy, bnkern\n"
                           "for _ in range(20): bnkern.batch_norm_train(numpy.ones((4, 5, 3000), 'f4'))\n"))
        return 1;
    for (int t = 0; t < THREADS; t++) pthread_join(threads[t], NULL);
    /* The GIL stays here: a call that took it on the way would wait for ever. */
    if (pthread_create(&threads[0], NULL, long_call, &failed) || pthread_join(threads[0], NULL)) return 1;
    for (int t = 0; t < THREADS; t++) {
        const size_t from = offsetof(results, y);
        failed |= all[t].failed;
        if (memcmp((char *)&all[t] + from, (char *)&all[0] + from, sizeof(results) - from)) {
            fprintf(stderr, "thread %d has other bits\n", t);
            failed = 1;
        }
        if (memcmp(all[t].y, all[t].again, sizeof(all[t].y)) || memcmp(all[t].dx, all[t].applied, sizeof(all[t].dx))) {
            fprintf(stderr, "thread %d: the parts give other bits than the whole\n", t);
            failed = 1;
        }
    }
    if (!failed) printf("%d threads, the same bits\n", THREADS);
    Py_FinalizeEx();
    return failed;
}
