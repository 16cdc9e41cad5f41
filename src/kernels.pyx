"""Which kernels there are, and which are in use."""
import os

from bnkern._native.capi cimport *

cdef extern from *:
    """
    #ifdef _OPENMP
    #define BN_OPENMP 1
    #else
    #define BN_OPENMP 0
    #endif
    """
    bint OPENMP "BN_OPENMP"

cdef int chosen_level = -1
cdef const bn_kernels *tables[BN_NTYPE]


def levels():
    """ISA levels of this build that this processor has, lowest first."""
    return [bn_level_name(i).decode() for i in range(bn_level_count())
            if bn_level_supported(i) and not bn_level_by_request(i)]


def supported_levels():
    """Those, and before them what is taken by request alone: the plain scalar "reference"."""
    return [bn_level_name(i).decode() for i in range(bn_level_count()) if bn_level_supported(i)]


cdef int level_number(str name) except -1:
    for i in range(bn_level_count()):
        if bn_level_supported(i) and bn_level_name(i).decode() == name:
            return i
    raise ValueError(f"level: expected one of {', '.join(supported_levels())}, got {name!r}")


def table(str dtype, str level):
    """Address of the kernels (kernels.h) of a storage type (f32, f64, f16, bf16) and a level, for tests."""
    cdef const bn_kernels *kernels = bn_table(dtype.encode(), level_number(level))
    if kernels == NULL:
        raise ValueError(f"dtype: expected f32, f64, f16 or bf16, got {dtype!r}")
    return <size_t> kernels


def level():
    """The ISA level in use."""
    return bn_level_name(chosen_level).decode()


def has_openmp():
    """Was this build threaded with OpenMP?"""
    return OPENMP


cdef const bn_kernels *kernels_of(int type) noexcept nogil:
    return tables[type]


def _choose_level():
    """The highest level, or the one that BNKERN_CPU names."""
    global chosen_level
    wanted = os.environ.get("BNKERN_CPU", "")
    built = [bn_level_name(i).decode() for i in range(bn_level_count())]
    found = levels()
    if not found:
        raise ImportError(f"bnkern: this processor has none of the ISA levels of this build ({', '.join(built)})")
    if wanted and wanted not in built:
        raise ImportError(f"BNKERN_CPU: expected one of {', '.join(supported_levels())}, got {wanted!r}")
    if wanted and wanted not in supported_levels():
        raise ImportError(f"BNKERN_CPU: expected a level that this processor has ({', '.join(found)}), got {wanted!r}")
    chosen_level = built.index(wanted or found[len(found) - 1])
    tables[BN_F32] = bn_table("f32", chosen_level)
    tables[BN_F64] = bn_table("f64", chosen_level)
    tables[BN_F16] = bn_table("f16", chosen_level)
    tables[BN_BF16] = bn_table("bf16", chosen_level)


_choose_level()
