/* running = (1 - momentum) * running + momentum * (value * scale), in float64, rounded once; any strides.
 *
 * Args as in a pass: mean is `running`, var is `value`, eps is momentum, count is scale.
 */
#include "storage.cuh"

DEVICE void put(const Vector &v, long long c, double value)
{
    const long long i = c * v.stride;
    void *to = (void *)v.data;
    switch (v.type) {
    case BN_FLOAT32: ((float *)to)[i] = (float)value; break;
    case BN_FLOAT64: ((double *)to)[i] = value; break;
    case BN_FLOAT16: ((unsigned short *)to)[i] = float16::store((float)value); break;
    case BN_BFLOAT16: ((unsigned short *)to)[i] = bfloat16::store((float)value); break;
    }
}

extern "C" __global__ void __launch_bounds__(BN_THREADS) bn_running(const Args a)
{
    const long long c = (long long)blockIdx.x * BN_THREADS + threadIdx.x;
    if (c >= a.channels) return;
    const double old = element(a.mean, c, 0), value = element(a.var, c, 0);
    put(a.mean, c, (1 - a.eps) * old + a.eps * (value * a.count));
}
