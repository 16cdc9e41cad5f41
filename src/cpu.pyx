"""The entry points of the CPU kernels: NumPy arrays in, NumPy arrays out.

Internal: callers are bnkern's CPU engine and the tests. Every entry point checks what memory safety needs (types,
shapes, lengths) and raises before it writes. One that is handed arrays of mixed or unsupported memory layout returns
None and has done nothing; the engine then copies what does not fit and calls again.
"""
cimport numpy as cnp
from libc.stdint cimport int64_t
from libc.string cimport memcmp, memset

from bnkern._native.capi cimport *
from bnkern._native.driver cimport drive, stream
from bnkern._native.job cimport Job, passes_belong_together
from bnkern._native.kernels cimport kernels_of
from bnkern._native.memory cimport new_like
from bnkern._native.plan cimport prepare
from bnkern._native.vectors cimport type_of, vector_of, view_vector

from bnkern._native import plan

cnp.import_array()

STATS, REDUCE, NORMALISE, INPUT_GRAD = BN_STATS, BN_REDUCE, BN_NORMALISE, BN_INPUT_GRAD  # passes


# ---- from Python objects to a Job -------------------------------------------------------------------------------

cdef struct Arrays:
    # what is known of a call's arrays; the entry point holds the references
    void *first                           # the array that gives dtype and shape
    int axis                              # not below 0 once there is a first array
    bint fits                             # native byte order and aligned, all of them: a kernel can read them
    const int64_t *strides[BN_NOPERAND]   # NULL: not there


cdef inline void begin(Job *job, Arrays *arrays, int passes, int axis) noexcept:
    memset(job, 0, sizeof(Job))
    memset(arrays, 0, sizeof(Arrays))
    job.passes = passes
    arrays.axis = axis
    arrays.fits = True


cdef int add(Job *job, Arrays *arrays, int operand, object array, bint written, str name) except -1:
    """One more operand, of the first one's dtype and shape."""
    cdef cnp.ndarray a, first
    if not isinstance(array, cnp.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")
    a = array
    if arrays.first == NULL:
        job.kernels = kernels_of(type_of(a, name))
        if not -a.ndim <= arrays.axis < a.ndim:
            raise ValueError(f"axis: expected a channel axis of {a.ndim} axes, got {arrays.axis}")
        if arrays.axis < 0:  # C's remainder would stay negative
            arrays.axis += a.ndim
        arrays.first = <void *> a
    else:
        first = <cnp.ndarray> arrays.first
        if cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(first):
            raise TypeError(f"{name}: expected dtype {first.dtype}, got {a.dtype}")
        if a.ndim != first.ndim or memcmp(a.shape, first.shape, a.ndim * sizeof(cnp.npy_intp)) != 0:
            raise ValueError(f"{name}: expected shape {(<object> first).shape}, got {array.shape}")
    if written and not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError(f"{name}: expected a writeable array, got a read-only one")
    arrays.fits = arrays.fits and cnp.PyArray_ISNOTSWAPPED(a) and cnp.PyArray_ISALIGNED(a)
    job.operands[operand].data = a.data
    arrays.strides[operand] = <const int64_t *> a.strides
    return 0


cdef object output(Job *job, Arrays *arrays, int operand, object given, str name):
    """A result: what the user gave, or a new array in the first one's memory order."""
    cdef object a = given
    if a is None:
        if not arrays.fits:
            return None
        a = new_like(<cnp.ndarray> arrays.first)
    add(job, arrays, operand, a, True, name)
    return a


cdef inline int64_t channels_of(Arrays *arrays) noexcept:
    return (<cnp.ndarray> arrays.first).shape[arrays.axis]


cdef object vector(Arrays *arrays, object given, bn_vector *v, str name):
    """One number for each channel, read in place unless its bytes are swapped: the array that `v` looks at."""
    cdef cnp.ndarray a = vector_of(given, name)
    if a.shape[0] != channels_of(arrays):
        raise ValueError(f"{name}: expected shape ({channels_of(arrays)},), got {given.shape}")
    view_vector(a, v, name)
    return a


cdef cnp.ndarray doubles(Arrays *arrays, double **place):
    """A new float64 vector for a result: zeros where there are no elements, for then nothing is written."""
    cdef cnp.npy_intp channels = channels_of(arrays)
    cdef cnp.ndarray a = cnp.PyArray_EMPTY(1, &channels, cnp.NPY_FLOAT64, 0)
    if cnp.PyArray_SIZE(<cnp.ndarray> arrays.first) == 0:
        memset(a.data, 0, channels * sizeof(double))
    place[0] = <double *> a.data
    return a


cdef inline bint ready(Job *job, Arrays *arrays, int threads) noexcept:
    """Collapse axes, settle the layout and plan; False where the arrays have no layout in common."""
    cdef cnp.ndarray first = <cnp.ndarray> arrays.first
    return arrays.fits and prepare(job, first.ndim, <const int64_t *> first.shape, arrays.axis, arrays.strides, threads)


# ---- entry points -----------------------------------------------------------------------------------------------

def run(object call, int passes, int threads, bint dresidual=False):
    """Runs passes of a call: STATS, REDUCE, NORMALISE, INPUT_GRAD, STATS | NORMALISE or REDUCE | INPUT_GRAD.

    Returns (y or dx, mean, var, sum dy, sum dy * xhat, dresidual); what no pass computes is None. None instead of a
    tuple: the arrays have no memory layout in common, nothing was done. Attributes read, as far as the passes need
    them: x, dy, residual, y, out, mean, var, weight, bias, sum_dy, sum_dy_xhat, axis, eps, count, frozen, activation
    (the number of the kernels' list), parameter.
    """
    cdef Job job
    cdef Arrays arrays
    cdef bint forward = passes & (BN_STATS | BN_NORMALISE)
    cdef object x, dy = None, added = None, out = None, masked = None, mean = None, var = None
    cdef object sum_dy = None, sum_dy_xhat = None, weight = None, bias = None, given_out = None
    cdef object _mean = None, _var = None, _sum_dy = None, _sum_dy_xhat = None  # hold what the Job points to
    if not passes_belong_together(passes):
        raise ValueError(f"passes: expected a reduction, an elementwise pass, or the two of one kind, got {passes}")
    begin(&job, &arrays, passes, call.axis)
    # Everything is read before a pointer is taken: reading an attribute may run code that resizes an array.
    x = call.x
    if passes != BN_STATS:
        job.activation = call.activation
        job.parameter = call.parameter
        job.eps = call.eps
        weight, bias = call.weight, call.bias
        if not 0 <= job.activation < BN_NACTIVATION:
            raise ValueError(f"activation: expected a number below {BN_NACTIVATION}, got {job.activation}")
        if not passes & BN_STATS:
            _mean, _var = call.mean, call.var
    if passes & BN_ELEMENTWISE:
        given_out = call.out
    if forward:
        if passes & BN_NORMALISE:
            added = call.residual
    else:
        dy = call.dy
        if call.frozen:
            job.flags = BN_FROZEN
        if job.activation:
            added = call.y
        if passes & BN_INPUT_GRAD:
            job.count = call.count
            if not passes & BN_REDUCE and not job.flags:
                _sum_dy, _sum_dy_xhat = call.sum_dy, call.sum_dy_xhat
    if forward:
        add(&job, &arrays, BN_OPERAND_X, x, False, "x")
        if added is not None:
            add(&job, &arrays, BN_OPERAND_RESIDUAL, added, False, "residual")
    else:
        if bn_reads_x(passes, job.flags & BN_FROZEN, job.activation, added is not None):
            add(&job, &arrays, BN_OPERAND_X, x, False, "x")
        add(&job, &arrays, BN_OPERAND_DY, dy, False, "dy")
        if added is not None:
            add(&job, &arrays, BN_OPERAND_Y, added, False, "y")
    if passes & BN_ELEMENTWISE:
        out = output(&job, &arrays, BN_OPERAND_OUT, given_out, "out")
    if dresidual and job.activation and passes & BN_INPUT_GRAD:
        masked = output(&job, &arrays, BN_OPERAND_DRESIDUAL, None, "dresidual")
    if not ready(&job, &arrays, threads):
        return None
    if weight is not None:
        weight = vector(&arrays, weight, &job.weight, "weight")
    if bias is not None:
        bias = vector(&arrays, bias, &job.bias, "bias")
    if passes & BN_STATS:
        mean, var = doubles(&arrays, &job.mean), doubles(&arrays, &job.var)
    else:
        _mean = vector(&arrays, _mean, &job.saved_mean, "mean")
        _var = vector(&arrays, _var, &job.saved_var, "var")
    if passes & BN_REDUCE:
        sum_dy, sum_dy_xhat = doubles(&arrays, &job.sum_dy), doubles(&arrays, &job.sum_dy_xhat)
    elif passes & BN_INPUT_GRAD and not job.flags & BN_FROZEN:
        _sum_dy = vector(&arrays, _sum_dy, &job.saved_sum_dy, "sum_dy")
        _sum_dy_xhat = vector(&arrays, _sum_dy_xhat, &job.saved_sum_dy_xhat, "sum_dy_xhat")
    drive(&job)
    return out, mean, var, sum_dy, sum_dy_xhat, masked


def backward_passes(bint dx, bint dresidual, bint sums, bint frozen, bint active):
    """The passes of a backward call by the gradients wanted, and whether dx goes without mean terms (passes.h)."""
    cdef bint fixed = False
    passes = bn_backward_passes(dx, dresidual, sums, frozen, active, &fixed)
    return passes, fixed


def layout(x, int axis):
    """The path that x and a result in its memory order share: "channels first", "channels last", or None."""
    cdef Job job
    cdef Arrays arrays
    begin(&job, &arrays, BN_NORMALISE, axis)
    add(&job, &arrays, BN_OPERAND_X, x, False, "x")
    _out = output(&job, &arrays, BN_OPERAND_OUT, None, "out")  # holds the strides
    if not ready(&job, &arrays, 1):
        return None
    return "channels last" if job.layout == BN_CHANNELS_LAST else "channels first"


def plan_of(x, int axis, int passes, bint frozen, int threads):
    """The plan of these passes on x, with other arrays like x: a dict (plan.facts), or None where x has no layout."""
    if not isinstance(x, cnp.ndarray):
        raise TypeError(f"x: expected a NumPy array, got {type(x).__name__}")
    type_of(x, "x")
    if not (cnp.PyArray_ISNOTSWAPPED(x) and cnp.PyArray_ISALIGNED(x)):
        return None
    return plan.facts(x.shape, x.strides, axis, x.itemsize, passes, threads, frozen)


def limit(x, dy, out, *, int threads):
    """The yardstick of benchmarks: streams out = x, or out = x + dy where dy is given, on gapless arrays."""
    cdef Job job
    cdef Arrays arrays
    begin(&job, &arrays, 0, 0)
    add(&job, &arrays, BN_OPERAND_X, x, False, "x")
    if dy is not None:
        add(&job, &arrays, BN_OPERAND_DY, dy, False, "dy")
    add(&job, &arrays, BN_OPERAND_OUT, out, True, "out")
    for a in (x, dy, out):
        if a is not None and not cnp.PyArray_IS_C_CONTIGUOUS(a) or not arrays.fits:
            raise ValueError("limit: expected C-contiguous, aligned arrays in native byte order")
    stream(&job, cnp.PyArray_SIZE(x), threads)
