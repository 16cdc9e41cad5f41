/* running = (1 - momentum) * running + momentum * (value * scale), in float64, rounded once; any strides.
 *
 * Args as in a pass: mean is `running`, var is `value`, eps is momentum, count is scale. BN_CAST: running = value.
 */
#include "storage.cuh"

/* On the way to 16 bits: what float cannot hold leaves its last bit set, so that the second rounding alone counts. */
DEVICE float to_odd(double v)
{
    const float f = (float)v;
    if ((double)f == v || !isfinite(f) || v != v) return f;
    return __uint_as_float((__float_as_uint(f) - (fabs((double)f) > fabs(v))) | 1u);
}

DEVICE void put(const Vector &v, long long c, double value)
{
    const long long i = c * v.stride;
    void *to = (void *)v.data;
    switch (v.type) {
    case BN_FLOAT32: ((float *)to)[i] = (float)value; break;
    case BN_FLOAT64: ((double *)to)[i] = value; break;
    case BN_FLOAT16: ((unsigned short *)to)[i] = float16::store(to_odd(value)); break;
    case BN_BFLOAT16: ((unsigned short *)to)[i] = bfloat16::store(to_odd(value)); break;
    }
}

extern "C" __global__ void __launch_bounds__(BN_THREADS) bn_running(const Args a)
{
    const long long c = (long long)blockIdx.x * BN_THREADS + threadIdx.x;
    if (c >= a.channels) return;
    const double value = element(a.var, c, 0);
    put(a.mean, c, a.flags & BN_CAST ? value : (1 - a.eps) * element(a.mean, c, 0) + a.eps * (value * a.count));
}
