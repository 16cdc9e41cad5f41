"""Memory for results: NumPy's own for small arrays, the pool (pool.h) for the others."""
cimport numpy as cnp
from libc.stdint cimport int64_t

cnp.import_array()

cdef extern from "pool.h" nogil:
    ctypedef struct bn_pool_facts:
        int64_t used, free, limit
        int64_t free_blocks

    bn_pool_facts bn_pool_state()
    void bn_pool_set_limit(int64_t)
    void bn_pool_trim(int64_t)
    void bn_pool_begin()

cdef extern from "numpy/arrayobject.h":
    """
    #include "pool.h"
    static PyDataMem_Handler bn_handler = {
        "bnkern_pool", 1, {NULL, bn_pool_malloc, bn_pool_calloc, bn_pool_realloc, bn_pool_free}};
    static PyObject *bn_handler_capsule(void) { return PyCapsule_New(&bn_handler, "mem_handler", NULL); }
    """
    object bn_handler_capsule()
    object PyDataMem_SetHandler(object)
    object PyArray_NewLikeArray(cnp.ndarray, cnp.NPY_ORDER, void *dtype, int subok)

cdef enum:
    POOLED = 1 << 16  # bytes from which on a result begins on a cache line, in the pool's memory

cdef object pool_handler = bn_handler_capsule()
bn_pool_begin()


cdef cnp.ndarray new_like(cnp.ndarray model):
    """A new array of the model's dtype and shape, in its memory order."""
    if cnp.PyArray_NBYTES(model) < POOLED:
        return PyArray_NewLikeArray(model, cnp.NPY_KEEPORDER, NULL, 0)
    before = PyDataMem_SetHandler(pool_handler)
    try:
        return PyArray_NewLikeArray(model, cnp.NPY_KEEPORDER, NULL, 0)
    finally:
        PyDataMem_SetHandler(before)


def empty_like(model):
    """numpy.empty_like for the results of a call, from the pool."""
    if not isinstance(model, cnp.ndarray):
        raise TypeError(f"model: expected a NumPy array, got {type(model).__name__}")
    return new_like(model)


def pool_state():
    """Bytes lent, bytes kept, blocks kept, the limit (0: none, below: nothing is kept)."""
    cdef bn_pool_facts facts = bn_pool_state()
    return facts.used, facts.free, facts.free_blocks, facts.limit


def pool_set_limit(int64_t limit):
    bn_pool_set_limit(limit)


def pool_free_all():
    bn_pool_trim(0)
