"""Plans for calls: the machine they are made for, which tests may force, and what `explain` prints of them.

What is decided, and how, stands in plan.h.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

from bnkern._native.capi cimport *
from bnkern._native.job cimport Job, maximum, minimum, passes_belong_together

cdef enum:
    MOST_THREADS = 512  # more is a mistake of the caller

cdef bn_machine machine = bn_this_machine()
bn_watch_fork()


cdef int process_threads = 1  # bnkern._threads tells; here, so that threads without Python can read it


def set_default_threads(int n):
    """How many threads the process's calls take where nothing else is said."""
    global process_threads
    process_threads = n


cdef int default_threads() noexcept nogil:
    return process_threads


cdef int at_work = 0  # calls that are being carried out, by all threads of the process


cdef void call_begins() noexcept nogil:
    bn_add(&at_work, 1)


cdef void call_ends() noexcept nogil:
    bn_add(&at_work, -1)


cdef int threads_of(int wanted) noexcept nogil:
    """Calls that run side by side share the process's threads: each may have its part, or one where there are more."""
    cdef int others = bn_raised(&at_work)
    if bn_forked():
        return 1
    if others > 0:
        wanted = <int> minimum(wanted, maximum(1, process_threads // (others + 1)))
    return <int> maximum(1, minimum(wanted, MOST_THREADS))


cdef bint prepare(Job *job, int ndim, const int64_t *sizes, int axis, const int64_t *const *strides,
                  int threads) noexcept nogil:
    cdef bn_problem problem
    if not bn_collapse(&job.shape, ndim, sizes, axis, job.kernels.itemsize, job.operands, strides):
        return False
    job.layout = bn_layout(&job.shape, job.operands, strides)
    if job.layout == BN_NONE and job.shape.channels * job.shape.count != 0:
        return False
    problem = bn_problem_of(&job.shape, job.layout, job.operands, strides, job.passes, threads_of(threads))
    job.plan = bn_plan_of(&problem, &machine)
    if job.plan.stream:
        job.flags |= BN_STREAM
    return True


cdef dict facts_of(Job *job, const int64_t *const *strides, int threads):
    cdef bn_plan *plan = &job.plan
    cdef bn_problem problem = bn_problem_of(&job.shape, job.layout, job.operands, strides, job.passes, threads)
    names = [bn_reduction_name(plan.reduction).decode(), bn_elementwise_name(plan.elementwise).decode()]
    return {
        "layout": "channels last" if job.layout == BN_CHANNELS_LAST else "channels first",
        "threads": plan.threads,
        "strategy": " + ".join(name for name in names if name),
        "block": BN_BLOCK,
        "group": plan.group,
        "piece": plan.piece,
        "row_parts": plan.row_parts,
        "chunk": plan.chunk,
        "flat": plan.flat,
        "period": plan.period,
        "joined": plan.joined,
        "slab_channels": plan.slab_channels,
        "slab_blocks": plan.slab_blocks,
        "tile_width": plan.tile_width,
        "prefetch": plan.prefetch,
        "stores": None if not job.passes & BN_ELEMENTWISE else "non-temporal" if plan.stream else "cached",
        "from_cache": bool(plan.from_cache),
        "bytes_moved": bn_bytes_moved(&problem, plan),
        "bytes_least": bn_bytes_least(&problem),
    }


def facts(shape, strides, int axis, itemsize, int passes, int threads, bint frozen=False):
    """The plan of a call whose arrays all have this shape and these strides (bytes): a dict, or None without a layout.

    No array is needed and nothing runs. Operands that the passes do not ask for are not there; frozen: no mean terms.
    """
    cdef Job job
    cdef int64_t sizes[64]
    cdef int64_t steps[64]
    cdef const int64_t *given[BN_NOPERAND]
    cdef bn_kernels sizes_alone
    cdef int k, ndim = len(shape)
    cdef int64_t total = 1
    if not 0 < ndim <= 64 or len(strides) != ndim:
        raise ValueError(f"shape: expected 1 to 64 axes with a stride each, got {shape} and {strides}")
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis: expected a channel axis of {ndim} axes, got {axis}")
    if itemsize not in (2, 4, 8):
        raise ValueError(f"itemsize: expected 2, 4 or 8 bytes, got {itemsize!r}")
    if not passes_belong_together(passes):
        raise ValueError(f"passes: expected a reduction, an elementwise pass, or the two of one kind, got {passes}")
    for k in range(ndim):
        sizes[k], steps[k] = shape[k], strides[k]
        if sizes[k] < 0 or sizes[k] > 0 and total > (<int64_t> 1 << 56) // sizes[k]:
            raise ValueError(f"shape: expected lengths of an array that can exist, got {shape}")
        total *= sizes[k]
    memset(&job, 0, sizeof(job))
    memset(&sizes_alone, 0, sizeof(sizes_alone))
    memset(given, 0, sizeof(given))
    sizes_alone.itemsize = itemsize
    job.kernels = &sizes_alone
    job.passes = passes
    if not (frozen and passes == BN_INPUT_GRAD):
        given[BN_OPERAND_X] = steps
    if passes & (BN_REDUCE | BN_INPUT_GRAD):
        given[BN_OPERAND_DY] = steps
    if passes & BN_ELEMENTWISE:
        given[BN_OPERAND_OUT] = steps
    if not prepare(&job, ndim, sizes, axis if axis >= 0 else axis + ndim, given, threads):
        return None
    return facts_of(&job, given, threads)


class forced:
    """For tests: what plans take this machine for inside a `with` block, in the whole process.

    forced(strategy="slabs + tiled rows", stream_bytes=0, grain=1): the reduction, the elementwise pass, or both, where
    the layout allows them; outputs of how many bytes are written past the caches; how many elements repay a thread.
    """

    def __init__(self, *, strategy="", stream_bytes=None, group_bytes=None, grain=None):
        reductions = {bn_reduction_name(k).decode(): k for k in range(1, BN_NREDUCTION)}
        elementwise = {bn_elementwise_name(k).decode(): k for k in range(1, BN_NELEMENTWISE)}
        self._values = {"stream_bytes": stream_bytes, "group_bytes": group_bytes, "grain": grain}
        for name in filter(None, strategy.split(" + ")):
            if name not in reductions and name not in elementwise:
                known = ", ".join([*reductions, *elementwise])
                raise ValueError(f"strategy: expected some of {known}, joined by ' + ', got {strategy!r}")
            key, number = ("reduction", reductions[name]) if name in reductions else ("elementwise", elementwise[name])
            self._values[key] = number
        for name, value in self._values.items():
            if value is not None and not 0 <= value < 2**62:
                raise ValueError(f"{name}: expected a number of at least 0, got {value!r}")

    def __enter__(self):
        global machine
        self._before = machine
        facts = dict(machine)
        facts.update((name, value) for name, value in self._values.items() if value is not None)
        machine = facts
        return self

    def __exit__(self, *_):
        global machine
        machine = self._before
