/* The storage types by number: one number space for the drivers on the CPU, the kernels on the GPU, and Python. */
#ifndef BN_DTYPES_H
#define BN_DTYPES_H

enum { BN_F32, BN_F64, BN_F16, BN_BF16, BN_NTYPE };

#endif
