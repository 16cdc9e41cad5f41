/* What the kernels take from the device beyond C++: the one file that tests/helpers/emulation.h stands in for.
 *
 * No header of CUDA is needed, so that NVRTC can compile the kernels wherever CuPy runs.
 */
#ifndef BN_DEVICE_CUH
#define BN_DEVICE_CUH

#define DEVICE __device__ __forceinline__

/* The block's shared memory: all of it is dynamic, so that the host alone decides how much there is. */
template <class Shared> DEVICE Shared &shared_memory()
{
    extern __shared__ uint4 bn_shared[];
    return *reinterpret_cast<Shared *>(bn_shared);
}

DEVICE float float_of_half(unsigned short bits)
{
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(bits));
    return v;
}

DEVICE unsigned short half_of_float(float v)
{
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    return bits;
}

#endif
