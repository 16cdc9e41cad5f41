"""Which kernels there are, and which are in use."""

from bnkern._native._cpu import has_openmp, level, levels, table  # noqa: F401
