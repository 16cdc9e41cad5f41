# cython: language_level=3
"""The compiled CPU backend: batch normalisation of NumPy arrays on the kernels of this processor.

Internal: callers are bnkern.backends.cpu and the tests. Every entry point checks what memory safety needs (types,
shapes, lengths) and raises before it writes. One that is handed arrays of mixed or unsupported memory layout returns
None and has done nothing; the backend then copies what does not fit and calls again.
"""
import os

cimport numpy as cnp
from cpython.exc cimport PyErr_Occurred
from cpython.ref cimport Py_INCREF
from cython.parallel cimport prange
from libc.math cimport isfinite
from libc.stdint cimport int64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from bn cimport *

cnp.import_array()

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **, size_t, size_t)

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept

cdef extern from "numpy/arrayobject.h":
    enum:
        NPY_USERDEF


# ---- levels -----------------------------------------------------------------------------------------------------

cdef int chosen_level = -1
cdef int64_t cache_bytes = bn_cache_bytes()  # asked once: in a virtual machine each CPUID costs microseconds
cdef int64_t stream_bytes = bn_stream_bytes()
cdef const bn_kernels *tables[BN_NTYPE]
cdef int bfloat16_number = -1  # of ml_dtypes.bfloat16 among NumPy's types, once it was seen


def levels():
    """ISA levels of this build that this processor has, lowest first."""
    return [name for name in supported_levels() if not bn_level_by_request(level_number(name))]


def supported_levels():
    """Those, and before them what is taken by request alone: the plain scalar "reference"."""
    return [bn_level_name(i).decode() for i in range(bn_level_count()) if bn_level_supported(i)]


cdef int level_number(str name) except -1:
    for i in range(bn_level_count()):
        if bn_level_name(i).decode() == name:
            return i
    raise ValueError(f"level: expected one of {', '.join(supported_levels())}, got {name!r}")


def table(str dtype, str level):
    """Address of the kernels of a storage type (f32, f64, f16, bf16) and a level, for tests and benchmarks (kernels.h)."""
    cdef const bn_kernels *kernels
    if level not in supported_levels():
        raise ValueError(f"level: expected one of {', '.join(supported_levels())}, got {level!r}")
    kernels = bn_table(dtype.encode(), level_number(level))
    if kernels == NULL:
        raise ValueError(f"dtype: expected f32, f64, f16 or bf16, got {dtype!r}")
    return <size_t> kernels


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
    if wanted and wanted not in supported_levels():
        raise ImportError(f"BNKERN_CPU: expected a level that this processor has ({', '.join(found)}), got {wanted!r}")
    chosen_level = built.index(wanted or found[len(found) - 1])
    tables[BN_F32] = bn_table("f32", chosen_level)
    tables[BN_F64] = bn_table("f64", chosen_level)
    tables[BN_F16] = bn_table("f16", chosen_level)
    tables[BN_BF16] = bn_table("bf16", chosen_level)


_choose_level()
bn_watch_fork()

include "memory.pxi"
include "passes.pxi"
include "drive.pxi"
include "usual.pxi"


# ---- from Python objects to a Job -------------------------------------------------------------------------------

cdef int type_of(cnp.ndarray a, str name) except -1:
    """BN_F32 and so on. uint16 stands for the bits of a bfloat16, which NumPy alone does not know."""
    global bfloat16_number
    cdef int number = cnp.PyArray_TYPE(a)
    if number == cnp.NPY_FLOAT32:
        return BN_F32
    if number == cnp.NPY_FLOAT64:
        return BN_F64
    if number == cnp.NPY_FLOAT16:
        return BN_F16
    if number == cnp.NPY_UINT16 or number == bfloat16_number:
        return BN_BF16
    if number >= NPY_USERDEF and a.dtype.type.__name__ == "bfloat16":
        bfloat16_number = number
        return BN_BF16
    raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {a.dtype}")


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
            self.job.kernels = tables[type_of(a, name)]
            if not -a.ndim <= self.axis < a.ndim:
                raise ValueError(f"axis: expected a channel axis of {a.ndim} axes, got {self.axis}")
            if self.axis < 0:  # C's remainder would stay negative
                self.axis += a.ndim
        elif cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(self.first):
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

    cdef object output(self, object given, bn_operand *operand, str name):
        """A result: what the user gave, or a new array in the first one's memory order."""
        cdef cnp.ndarray a
        if given is not None:
            self.add(given, operand, True, name)
            return given
        if not self.fits:
            return None
        a = new_like(self.first)
        self.add(a, operand, True, name)
        return a

    cdef int vector(self, object given, bn_vector *v, str name) except -1:
        """One number per channel, read in place unless its bytes are swapped."""
        cdef cnp.ndarray a
        if given is None:
            return 0
        a = vector_of(given, name)
        if a.shape[0] != self.first.shape[self.axis]:
            raise ValueError(f"{name}: expected shape ({self.first.shape[self.axis]},), got {given.shape}")
        view_vector(a, v, name)
        self.keep.append(a)
        return 0

    cdef object doubles(self, double **place):
        """A new float64 vector for a result."""
        cdef cnp.npy_intp channels = self.first.shape[self.axis]
        cdef cnp.ndarray a = cnp.PyArray_ZEROS(1, &channels, cnp.NPY_FLOAT64, 0)
        place[0] = <double *> a.data
        self.keep.append(a)
        return a

    cdef bint ready(self, int passes, double eps, int activation, bint frozen) except -1:
        """Collapse axes and settle the layout; False where the arrays have none in common."""
        self.job.passes = passes
        self.job.eps = eps
        self.job.flags = BN_FROZEN if frozen else 0
        self.job.activation = activation
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


cdef int reraise() except -1:
    """Hands on the exception that a signal handler left (KeyboardInterrupt, as a rule)."""
    if not PyErr_Occurred():
        raise KeyboardInterrupt
    return -1


# ---- entry points -----------------------------------------------------------------------------------------------

def layout(x, int axis):
    """The path that x and a result in its memory order share: "channels first", "channels last", or None."""
    cdef Call call = Call()
    call.axis = axis
    call.add(required(x, "x"), &call.job.x, False, "x")
    call.output(None, &call.job.out, "out")
    if not call.ready(STATS, 1.0, False, False):
        return None
    return "channels last" if call.job.layout == BN_CHANNELS_LAST else "channels first"


def stats(x, int axis, int threads):
    """(mean, biased variance) in float64, or None."""
    cdef Call call = Call()
    call.axis = axis
    call.add(required(x, "x"), &call.job.x, False, "x")
    if not call.ready(STATS, 1.0, False, False):
        return None
    mean, var = call.doubles(&call.job.mean), call.doubles(&call.job.var)
    call.go(threads)
    return mean, var


def train(x, residual, out, weight, bias, int axis, double eps, bint relu, int threads):
    """(y, mean, biased variance in float64), or None. y is out, or new where out is None."""
    cdef Call call = Call()
    call.axis = axis
    call.add(required(x, "x"), &call.job.x, False, "x")
    call.add(residual, &call.job.r, False, "residual")
    y = call.output(out, &call.job.out, "out")
    if not call.ready(STATS | APPLY, eps, relu, False):
        return None
    call.vector(weight, &call.job.weight, "weight")
    call.vector(bias, &call.job.bias, "bias")
    mean, var = call.doubles(&call.job.mean), call.doubles(&call.job.var)
    call.go(threads)
    return y, mean, var


def inference(x, residual, out, mean, var, weight, bias, int axis, double eps, bint relu, int threads):
    """y, or None."""
    cdef Call call = Call()
    call.axis = axis
    call.add(required(x, "x"), &call.job.x, False, "x")
    call.add(residual, &call.job.r, False, "residual")
    y = call.output(out, &call.job.out, "out")
    if not call.ready(APPLY, eps, relu, False):
        return None
    given(call, mean, var, weight, bias)
    call.go(threads)
    return y


def reduce(dy, x, y, mean, var, weight, bias, int axis, double eps, bint relu, int threads):
    """(sum dy, sum dy * xhat) in float64, or None."""
    cdef Call call = Call()
    call.axis = axis
    call.add(required(x, "x"), &call.job.x, False, "x")
    call.add(required(dy, "dy"), &call.job.dy, False, "dy")
    call.add(y if relu else None, &call.job.r, False, "y")
    if not call.ready(REDUCE, eps, relu, False):
        return None
    given(call, mean, var, weight, bias)
    sum_dy, sum_dy_xhat = call.doubles(&call.job.sum_dy), call.doubles(&call.job.sum_dy_xhat)
    call.go(threads)
    return sum_dy, sum_dy_xhat


def input_grad(dy, x, y, out, out2, mean, var, weight, bias, sum_dy, sum_dy_xhat, double count, bint frozen,
               bint want_dresidual, int axis, double eps, bint relu, int threads):
    """(dx, the residual's gradient if wanted and relu, else None), or None."""
    cdef Call call = Call()
    cdef bint reads_x = not frozen or (relu and y is None)
    call.axis = axis
    call.add(required(dy, "dy"), &call.job.dy, False, "dy")
    call.add(required(x, "x") if reads_x else None, &call.job.x, False, "x")
    call.add(y if relu else None, &call.job.r, False, "y")
    dx = call.output(out, &call.job.out, "out")
    dresidual = call.output(out2, &call.job.out2, "out2") if want_dresidual and relu else None
    if not call.ready(GRAD, eps, relu, frozen):
        return None
    given(call, mean, var, weight, bias)
    if not frozen:
        call.vector(required(sum_dy, "sum_dy"), &call.job.given_dy, "sum_dy")
        call.vector(required(sum_dy_xhat, "sum_dy_xhat"), &call.job.given_dy_xhat, "sum_dy_xhat")
    call.job.divisor = count
    call.go(threads)
    return dx, dresidual


def backward(dy, x, y, out, out2, mean, var, weight, bias, double count, bint frozen, bint want_dresidual, int axis,
             double eps, bint relu, int threads):
    """Both passes: (dx, sum dy, sum dy * xhat, the residual's gradient or None), or None."""
    cdef Call call = Call()
    call.axis = axis
    call.add(required(x, "x"), &call.job.x, False, "x")
    call.add(required(dy, "dy"), &call.job.dy, False, "dy")
    call.add(y if relu else None, &call.job.r, False, "y")
    dx = call.output(out, &call.job.out, "out")
    dresidual = call.output(out2, &call.job.out2, "out2") if want_dresidual and relu else None
    if not call.ready(REDUCE | GRAD, eps, relu, frozen):
        return None
    given(call, mean, var, weight, bias)
    sum_dy, sum_dy_xhat = call.doubles(&call.job.sum_dy), call.doubles(&call.job.sum_dy_xhat)
    call.job.divisor = count
    call.go(threads)
    return dx, sum_dy, sum_dy_xhat, dresidual


def run(object call, int passes, int threads, bint dresidual=False):
    """Runs `passes` (STATS, REDUCE, APPLY, GRAD) of a call: (y or dx, mean, var, sum dy, sum dy * xhat, dresidual).

    What no pass computes is None. None instead of a tuple: the arrays have no memory layout in common, nothing was done.
    Attributes read: x, dy, residual, y, out, mean, var, weight, bias, sum_dy, sum_dy_xhat, axis, eps, count, frozen,
    activation (the number of bnkern's list), parameter.
    """
    cdef Call job = Call()
    cdef bint forward_pass = passes & (STATS | APPLY), frozen = call.frozen
    cdef int activation = call.activation
    cdef object y = call.y if activation and not forward_pass else None
    cdef object out = None, mean = None, var = None, sum_dy = None, sum_dy_xhat = None, masked = None
    job.axis = call.axis
    if forward_pass:
        job.add(required(call.x, "x"), &job.job.x, False, "x")
        if passes & APPLY:
            job.add(call.residual, &job.job.r, False, "residual")
    else:
        if passes & REDUCE or not frozen or (activation and y is None):
            job.add(required(call.x, "x"), &job.job.x, False, "x")
        job.add(required(call.dy, "dy"), &job.job.dy, False, "dy")
        job.add(y, &job.job.r, False, "y")
    if passes & (APPLY | GRAD):
        out = job.output(call.out, &job.job.out, "out")
    if dresidual and activation and passes & GRAD:
        masked = job.output(None, &job.job.out2, "dresidual")
    if not job.ready(passes, call.eps, activation, frozen):
        return None
    job.job.parameter = call.parameter
    if passes & (REDUCE | APPLY | GRAD):
        job.vector(call.weight, &job.job.weight, "weight")
        job.vector(call.bias, &job.job.bias, "bias")
        if not passes & STATS:
            job.vector(required(call.mean, "mean"), &job.job.given_mean, "mean")
            job.vector(required(call.var, "var"), &job.job.given_var, "var")
    if passes & STATS:
        mean, var = job.doubles(&job.job.mean), job.doubles(&job.job.var)
    if passes & REDUCE:
        sum_dy, sum_dy_xhat = job.doubles(&job.job.sum_dy), job.doubles(&job.job.sum_dy_xhat)
    elif passes & GRAD and not frozen:
        job.vector(required(call.sum_dy, "sum_dy"), &job.job.given_dy, "sum_dy")
        job.vector(required(call.sum_dy_xhat, "sum_dy_xhat"), &job.job.given_dy_xhat, "sum_dy_xhat")
    if passes & GRAD:
        job.job.divisor = call.count
    job.go(threads)
    return out, mean, var, sum_dy, sum_dy_xhat, masked


cdef cnp.ndarray vector_of(object given, str name):
    """A 1-D array in native byte order: the one given, if it is."""
    cdef cnp.ndarray a
    if not isinstance(given, cnp.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(given).__name__}")
    a = given
    if a.ndim != 1:
        raise ValueError(f"{name}: expected a vector, got shape {given.shape}")
    return a if cnp.PyArray_ISNOTSWAPPED(a) else given.astype(given.dtype.newbyteorder("="))


cdef int view_vector(cnp.ndarray a, bn_vector *v, str name) except -1:
    v.type = type_of(a, name)
    v.data = a.data
    v.stride = a.strides[0]
    return 0


def ema_update(running, value, double momentum, double scale):
    """running = (1 - momentum) * running + momentum * (value * scale) in float64, in place; False: bytes swapped."""
    cdef cnp.ndarray value_array
    cdef bn_vector r, v
    cdef int64_t c
    if not isinstance(running, cnp.ndarray) or vector_of(running, "running") is not running:
        return False
    value_array = vector_of(value, "value")
    if (<cnp.ndarray> running).shape[0] != value_array.shape[0]:
        raise ValueError(f"running: expected the shape of value, {value.shape}, got {running.shape}")
    if not cnp.PyArray_ISWRITEABLE(running):
        raise ValueError("running: expected a writeable array, got a read-only one; see bnkern.update_running")
    view_vector(running, &r, "running")
    view_vector(value_array, &v, "value")
    for c in range(value_array.shape[0]):
        bn_put(&r, c, (1.0 - momentum) * bn_get(&r, c, 0.0) + momentum * (bn_get(&v, c, 0.0) * scale))
    return True


def cast(value, dtype):
    """A vector in another dtype, rounded once, without a warning where that is infinite."""
    cdef cnp.ndarray value_array = vector_of(value, "value")
    cdef bn_vector v, to
    cdef int64_t c
    result = PyArray_NewLikeArray(value_array, cnp.NPY_CORDER, take_descr(dtype), 0)
    view_vector(value_array, &v, "value")
    view_vector(result, &to, "dtype")
    for c in range(value_array.shape[0]):
        bn_put(&to, c, bn_get(&v, c, 0.0))
    return result


def cast_each(dtype, vectors):
    """Those of the vectors, of which any may be None, in the dtype of a result; None where one is no plain array."""
    cdef cnp.dtype to = dtype
    for v in vectors:
        if v is not None and type(v) is not cnp.ndarray:
            return None
    return [v if v is None or cnp.PyArray_TYPE(v) == to.type_num else cast(v, to) for v in vectors]


cdef void *take_descr(object dtype) except NULL:
    """A reference of its own to a dtype, for functions of NumPy's C API that keep it."""
    if not isinstance(dtype, cnp.dtype):
        raise TypeError(f"dtype: expected a NumPy dtype, got {dtype!r}")
    Py_INCREF(dtype)
    return <void *> dtype


cdef object required(object value, str name):
    if value is None:
        raise TypeError(f"{name}: expected a NumPy array, got None")
    return value


cdef int given(Call call, mean, var, weight, bias) except -1:
    call.vector(weight, &call.job.weight, "weight")
    call.vector(bias, &call.job.bias, "bias")
    call.vector(required(mean, "mean"), &call.job.given_mean, "mean")
    call.vector(required(var, "var"), &call.job.given_var, "var")
    return 0


def plan_of(x, int axis, str op, int threads):
    """What a call of `op` on x (with an output like x) would do: layout, threads, strategy, bytes."""
    cdef Call call = Call()
    cdef Job *job = &call.job
    passes, reads, writes = {
        "train": (STATS | APPLY, 1, 1), "inference": (APPLY, 1, 1), "stats": (STATS, 1, 0),
        "backward": (REDUCE | GRAD, 2, 1), "frozen": (GRAD, 1, 1)}[op]
    call.axis = axis
    call.add(required(x, "x"), &job.dy if op == "frozen" else &job.x, False, "x")
    if not call.ready(passes, 1.0, False, op == "frozen"):
        return None
    if op == "backward":
        job.dy = job.x
    if writes:
        job.out = job.dy if op == "frozen" else job.x
        job.out.data += 1  # apart from x: only its strides are looked at
    if not call.empty():
        plan(job, threads)
    size = cnp.PyArray_SIZE(call.first) * job.shape.itemsize
    two_passes = passes & (STATS | REDUCE) and passes & (APPLY | GRAD)
    in_cache = job.grouped and reads * job.group * job.shape.count * job.shape.itemsize <= stream_bytes
    again = two_passes and not in_cache
    return {
        "layout": "channels last" if job.layout == BN_CHANNELS_LAST else "channels first",
        "threads": job.threads,
        "strategy": (
            "one sweep" if not two_passes else "two sweeps" if not job.grouped
            else f"{job.group} channels at a time, second pass " + ("from memory" if again else "from cache")),
        "block": BN_BLOCK,
        "stores": None if not writes else "non-temporal" if job.flags & BN_STREAM else "cached",
        "bytes_moved": size * (reads * (2 if again else 1) + writes),
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
    call.job.threads = 1 if bn_forked() else <int> maximum(1, minimum(threads, 512))
    with nogil:
        parallel(work_limit, &call.job)
