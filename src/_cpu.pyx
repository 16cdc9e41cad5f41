# cython: language_level=3
"""The compiled CPU backend: batch normalisation of NumPy arrays on the kernels of this processor.

Internal: callers are bnkern.backends.cpu and the tests. Every entry point checks what memory safety needs (types, shapes,
lengths) and raises before it writes. One that is handed arrays of mixed or unsupported memory layout returns None and has
done nothing; the backend then copies what does not fit and calls again.
"""
import os

cimport numpy as cnp
from cpython.exc cimport PyErr_Occurred
from cpython.ref cimport PyObject
from cython.parallel cimport prange
from libc.math cimport isfinite
from libc.stdint cimport int64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from bn cimport *

cnp.import_array()

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **, size_t, size_t)

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept

include "passes.pxi"
include "drive.pxi"


# ---- levels -----------------------------------------------------------------------------------------------------

cdef int chosen_level = -1


def levels():
    """ISA levels of this build that this processor has, lowest first."""
    return [bn_level_name(i).decode() for i in range(bn_level_count()) if bn_level_supported(i)]


def level():
    """The ISA level in use."""
    return bn_level_name(chosen_level).decode()


def has_openmp():
    """Was this build threaded with OpenMP?"""
    return OPENMP


cdef extern from *:
    """
    #ifdef _OPENMP
    #define BN_OPENMP 1
    #else
    #define BN_OPENMP 0
    #endif
    """
    bint OPENMP "BN_OPENMP"


def _choose_level():
    """The highest level, or the one that BNKERN_CPU names."""
    global chosen_level
    wanted = os.environ.get("BNKERN_CPU", "")
    built = [bn_level_name(i).decode() for i in range(bn_level_count())]
    found = levels()
    if not found:
        raise ImportError(f"bnkern: this processor has none of the ISA levels of this build ({', '.join(built)})")
    if wanted and wanted not in built:
        raise ImportError(f"BNKERN_CPU: expected one of {', '.join(found)}, got {wanted!r}")
    if wanted and wanted not in found:
        raise ImportError(f"BNKERN_CPU: expected a level that this processor has ({', '.join(found)}), got {wanted!r}")
    chosen_level = built.index(wanted or found[len(found) - 1])


_choose_level()
bn_watch_fork()


# ---- from Python objects to a Job -------------------------------------------------------------------------------

cdef const bn_kernels *table_of(cnp.ndarray x) except NULL:
    cdef const bn_kernels *kernels = NULL
    if x.descr.type_num == cnp.NPY_FLOAT32:
        kernels = bn_table("f32", chosen_level)
    elif x.descr.type_num == cnp.NPY_FLOAT64:
        kernels = bn_table("f64", chosen_level)
    if kernels == NULL:
        raise TypeError(f"x: expected float32 or float64, got {x.dtype}")
    return kernels


cdef bint plain(cnp.ndarray a):
    """Native byte order and aligned: a kernel can read it."""
    return cnp.PyArray_ISNOTSWAPPED(a) and cnp.PyArray_ISALIGNED(a)


cdef class Call:
    """One call: the Job and the Python objects it points into."""
    cdef Job job
    cdef cnp.ndarray first
    cdef int axis, count
    cdef list keep
    cdef bn_operand *operands[BN_MAXOPERAND]
    cdef const int64_t *strides[BN_MAXOPERAND]
    cdef bint fits

    def __cinit__(self):
        memset(&self.job, 0, sizeof(Job))
        self.keep = []
        self.fits = True

    def __dealloc__(self):
        free(self.job.coef)

    cdef int add(self, object array, bn_operand *operand, bint written, str name) except -1:
        cdef cnp.ndarray a
        if array is None:
            return 0
        if not isinstance(array, cnp.ndarray):
            raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")
        a = array
        if self.count == 0:
            self.first = a
            self.job.kernels = table_of(a)
            if not -a.ndim <= self.axis < a.ndim:
                raise ValueError(f"axis: expected a channel axis of {a.ndim} axes, got {self.axis}")
            self.axis %= a.ndim
        elif a.descr.type_num != self.first.descr.type_num:
            raise TypeError(f"{name}: expected dtype {self.first.dtype}, got {a.dtype}")
        elif a.ndim != self.first.ndim or memcmp(a.shape, self.first.shape, a.ndim * sizeof(cnp.npy_intp)) != 0:
            raise ValueError(f"{name}: expected shape {(<object> self.first).shape}, got {array.shape}")
        if written and not cnp.PyArray_ISWRITEABLE(a):
            raise ValueError(f"{name}: expected a writeable array, got a read-only one")
        if not plain(a):
            self.fits = False
        operand.data = a.data
        self.operands[self.count] = operand
        self.strides[self.count] = <const int64_t *> a.strides
        self.count += 1
        self.keep.append(a)
        return 0

    cdef int vector(self, object given, bn_vector *v, str name) except -1:
        """weight or bias: read in place in float32 and float64, else through a float64 copy."""
        cdef cnp.ndarray a
        if given is None:
            return 0
        if not isinstance(given, cnp.ndarray):
            raise TypeError(f"{name}: expected a NumPy array, got {type(given).__name__}")
        a = given
        if a.ndim != 1 or a.shape[0] != self.first.shape[self.axis]:
            raise ValueError(f"{name}: expected shape ({self.first.shape[self.axis]},), got {given.shape}")
        if not (plain(a) and (a.descr.type_num == cnp.NPY_FLOAT32 or a.descr.type_num == cnp.NPY_FLOAT64)):
            a = cnp.PyArray_FROMANY(given, cnp.NPY_FLOAT64, 1, 1, cnp.NPY_ARRAY_CARRAY | cnp.NPY_ARRAY_FORCECAST)
        v.data = a.data
        v.stride = a.strides[0]
        v.is_double = a.descr.type_num == cnp.NPY_FLOAT64
        self.keep.append(a)
        return 0

    cdef double *doubles(self, object given, str name) except NULL:
        """Statistics or sums as adjacent float64; a new array of them where nothing is given."""
        cdef cnp.npy_intp channels = self.first.shape[self.axis]
        cdef cnp.ndarray a
        if given is None:
            a = cnp.PyArray_ZEROS(1, &channels, cnp.NPY_FLOAT64, 0)
        else:
            if not isinstance(given, cnp.ndarray):
                raise TypeError(f"{name}: expected a NumPy array, got {type(given).__name__}")
            if (<cnp.ndarray> given).descr.kind != c"f":
                raise TypeError(f"{name}: expected a real floating dtype, got {given.dtype}")
            a = cnp.PyArray_FROMANY(given, cnp.NPY_FLOAT64, 1, 1, cnp.NPY_ARRAY_CARRAY_RO | cnp.NPY_ARRAY_FORCECAST)
            if a.shape[0] != channels:
                raise ValueError(f"{name}: expected shape ({channels},), got {given.shape}")
        self.keep.append(a)
        return <double *> a.data

    cdef bint ready(self, int passes, double eps, bint relu, bint frozen) except -1:
        """Collapse axes and settle the layout; False where the arrays have none in common."""
        self.job.passes = passes
        self.job.eps = eps
        self.job.flags = (BN_RELU if relu else 0) | (BN_FROZEN if frozen else 0)
        if not self.fits:
            return False
        if not bn_collapse(&self.job.shape, self.first.ndim, <const int64_t *> self.first.shape, self.axis,
                           self.job.kernels.itemsize, self.operands, self.strides, self.count):
            return False
        self.job.layout = bn_layout(&self.job.shape, self.operands, self.count)
        return self.job.layout != BN_NONE or self.empty()

    cdef bint empty(self):
        return cnp.PyArray_SIZE(self.first) == 0

    cdef int go(self, int threads) except -1:
        if self.empty():
            return 0
        with nogil:
            plan(&self.job, <int> maximum(1, minimum(threads, 512)))
            if not allocate(&self.job):
                with gil:
                    raise MemoryError("bnkern: no memory for scratch")
            drive(&self.job)
        if self.job.stop:
            reraise()
        return 0


cdef extern from "string.h" nogil:
    int memcmp(const void *, const void *, size_t)


cdef int reraise() except -1:
    """Hands on the exception that a signal handler left (KeyboardInterrupt, as a rule)."""
    if not PyErr_Occurred():
        raise KeyboardInterrupt
    return -1


# ---- entry points -----------------------------------------------------------------------------------------------

def layout(x, int axis):
    """The layout path of one array: "channels first", "channels last", or None where it must be copied."""
    cdef Call call = Call()
    call.axis = axis
    call.add(x, &call.job.x, False, "x")
    if not call.ready(STATS, 1.0, False, False):
        return None
    return "channels last" if call.job.layout == BN_CHANNELS_LAST else "channels first"


def stats(x, *, int axis, int threads):
    """(mean, biased variance) in float64, or None."""
    cdef Call call = Call()
    call.axis = axis
    call.add(x, &call.job.x, False, "x")
    if not call.ready(STATS, 1.0, False, False):
        return None
    call.job.mean = call.doubles(None, "mean")
    call.job.var = call.doubles(None, "var")
    call.go(threads)
    return call.keep[1], call.keep[2]


def train(x, residual, out, weight, bias, *, int axis, double eps, bint relu, int threads):
    """Writes out; (mean, biased variance) in float64, or None."""
    cdef Call call = Call()
    call.axis = axis
    call.add(x, &call.job.x, False, "x")
    call.add(residual, &call.job.r, False, "residual")
    call.add(required(out, "out"), &call.job.out, True, "out")
    if not call.ready(STATS | APPLY, eps, relu, False):
        return None
    call.vector(weight, &call.job.weight, "weight")
    call.vector(bias, &call.job.bias, "bias")
    call.job.mean = call.doubles(None, "mean")
    call.job.var = call.doubles(None, "var")
    call.go(threads)
    return call.keep[len(call.keep) - 2], call.keep[len(call.keep) - 1]


def inference(x, residual, out, mean, var, weight, bias, *, int axis, double eps, bint relu, int threads):
    """Writes out and returns True, or None."""
    cdef Call call = Call()
    call.axis = axis
    call.add(x, &call.job.x, False, "x")
    call.add(residual, &call.job.r, False, "residual")
    call.add(required(out, "out"), &call.job.out, True, "out")
    if not call.ready(APPLY, eps, relu, False):
        return None
    call.vector(weight, &call.job.weight, "weight")
    call.vector(bias, &call.job.bias, "bias")
    call.job.mean = call.doubles(required(mean, "mean"), "mean")
    call.job.var = call.doubles(required(var, "var"), "var")
    call.go(threads)
    return True


def reduce(dy, x, y, mean, var, weight, bias, *, int axis, double eps, bint relu, int threads):
    """(sum dy, sum dy * xhat) in float64, or None."""
    cdef Call call = Call()
    call.axis = axis
    call.add(required(x, "x"), &call.job.x, False, "x")
    call.add(required(dy, "dy"), &call.job.dy, False, "dy")
    call.add(y if relu else None, &call.job.r, False, "y")
    if not call.ready(REDUCE, eps, relu, False):
        return None
    given(call, mean, var, weight, bias)
    call.job.sum_dy = call.doubles(None, "sum_dy")
    call.job.sum_dy_xhat = call.doubles(None, "sum_dy_xhat")
    call.go(threads)
    return call.keep[len(call.keep) - 2], call.keep[len(call.keep) - 1]


def input_grad(dy, x, y, out, out2, mean, var, weight, bias, sum_dy, sum_dy_xhat, *, double count, int axis, double eps,
               bint relu, bint frozen, int threads):
    """Writes out (dx) and, if given, out2 (the residual's gradient) and returns True, or None."""
    cdef Call call = Call()
    cdef bint reads_x = not frozen or (relu and y is None)
    call.axis = axis
    call.add(required(dy, "dy"), &call.job.dy, False, "dy")
    call.add(required(x, "x") if reads_x else None, &call.job.x, False, "x")
    call.add(y if relu else None, &call.job.r, False, "y")
    call.add(required(out, "out"), &call.job.out, True, "out")
    call.add(out2, &call.job.out2, True, "out2")
    if not call.ready(GRAD, eps, relu, frozen):
        return None
    given(call, mean, var, weight, bias)
    if not frozen:
        call.job.sum_dy = call.doubles(required(sum_dy, "sum_dy"), "sum_dy")
        call.job.sum_dy_xhat = call.doubles(required(sum_dy_xhat, "sum_dy_xhat"), "sum_dy_xhat")
    call.job.divisor = count
    call.go(threads)
    return True


def backward(dy, x, y, out, out2, mean, var, weight, bias, *, double count, int axis, double eps, bint relu, bint frozen,
             int threads):
    """Both passes: writes out (dx) and out2, returns (sum dy, sum dy * xhat) in float64, or None."""
    cdef Call call = Call()
    call.axis = axis
    call.add(required(x, "x"), &call.job.x, False, "x")
    call.add(required(dy, "dy"), &call.job.dy, False, "dy")
    call.add(y if relu else None, &call.job.r, False, "y")
    call.add(required(out, "out"), &call.job.out, True, "out")
    call.add(out2, &call.job.out2, True, "out2")
    if not call.ready(REDUCE | GRAD, eps, relu, frozen):
        return None
    given(call, mean, var, weight, bias)
    call.job.sum_dy = call.doubles(None, "sum_dy")
    call.job.sum_dy_xhat = call.doubles(None, "sum_dy_xhat")
    call.job.divisor = count
    call.go(threads)
    return call.keep[len(call.keep) - 2], call.keep[len(call.keep) - 1]


cdef object required(object value, str name):
    if value is None:
        raise TypeError(f"{name}: expected a NumPy array, got None")
    return value


cdef int given(Call call, mean, var, weight, bias) except -1:
    call.vector(weight, &call.job.weight, "weight")
    call.vector(bias, &call.job.bias, "bias")
    call.job.mean = call.doubles(required(mean, "mean"), "mean")
    call.job.var = call.doubles(required(var, "var"), "var")
    return 0


def plan_of(x, int axis, str op, int threads):
    """What a call of `op` on x (with an output like x) would do: layout, threads, strategy, bytes."""
    cdef Call call = Call()
    cdef bn_operand spare
    passes = {"train": STATS | APPLY, "inference": APPLY, "stats": STATS, "backward": REDUCE | GRAD}[op]
    call.axis = axis
    call.add(x, &call.job.x, False, "x")
    if not call.ready(passes, 1.0, False, False):
        return None
    cdef Job *job = &call.job
    if passes & (APPLY | GRAD):
        job.out = job.x
        job.out.data = job.x.data + 1  # apart from x: only its strides are looked at
    if passes & (REDUCE | GRAD):
        job.dy = job.x
    if not call.empty():
        plan(job, threads)
    size = cnp.PyArray_SIZE(call.first) * job.shape.itemsize
    reads = {"train": 1, "inference": 1, "stats": 1, "backward": 2}[op]
    writes = 0 if op == "stats" else 1
    twice = passes & (STATS | REDUCE) and passes & (APPLY | GRAD) and not job.resident
    return {
        "layout": "channels last" if job.layout == BN_CHANNELS_LAST else "channels first",
        "threads": job.threads,
        "strategy": "resident" if job.resident else "two sweeps" if twice else "one sweep",
        "channels_at_a_time": job.group,
        "block": BN_BLOCK,
        "stores": "non-temporal" if job.flags & BN_STREAM else "cached",
        "bytes_moved": size * (reads * (2 if twice else 1) + writes),
        "bytes_least": size * (reads + writes),
    }


def limit(x, dy, out, *, int threads):
    """The yardstick of benchmarks: streams out = x, or out = x + dy where dy is given, on gapless arrays."""
    cdef Call call = Call()
    call.axis = 0
    call.add(required(x, "x"), &call.job.x, False, "x")
    call.add(dy, &call.job.dy, False, "dy")
    call.add(required(out, "out"), &call.job.out, True, "out")
    for a in call.keep:
        if not (cnp.PyArray_IS_C_CONTIGUOUS(a) and plain(a)):
            raise ValueError("limit: expected C-contiguous, aligned arrays in native byte order")
    call.job.shape.count = cnp.PyArray_SIZE(call.first)
    call.job.threads = <int> maximum(1, minimum(threads, 512))
    with nogil:
        run(work_limit, &call.job)
