"""Arrays flush against memory that may not be touched: a kernel that reads one byte too far dies.

Run as a program it puts every array of every case there and runs everything; it lives in a process of its
own.
"""

import ctypes
import mmap
import sys
from dataclasses import replace

import numpy as np

from helpers import cases

PROT_NONE = 0
libc = ctypes.CDLL(None, use_errno=True)


def guard(a, side):
    """A C-ordered copy of `a` flush against a forbidden page at its end or its beginning."""
    page = mmap.PAGESIZE
    room = -(-max(a.nbytes, 1) // page) * page
    memory = mmap.mmap(-1, room + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for forbidden in (start, start + page + room):
        if libc.mprotect(ctypes.c_void_p(forbidden), ctypes.c_size_t(page), PROT_NONE) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = page + (room - a.nbytes if side == "end" else 0)
    copy = np.frombuffer(memory, np.uint8, a.nbytes, offset).view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


def check(case, results, side):
    inside = case.map(lambda a: guard(a, side))
    inside = replace(inside, weight=guard(case.weight, side), bias=guard(case.bias, side))
    found = results(inside, out=lambda like: guard(cases.of_nan(like), side))
    assert cases.sha(found) == cases.sha(results(case))


def main(side):
    sizes = sorted({*range(1, 20), *cases.SIZES})
    problems = [*cases.SMALL, ((2, 3, 64, 65), 1), ((300, 65), -1), ((33, 70, 7, 7), 1)]
    problems += [p for n in sizes for p in [((2, 3, n), 1), ((n + 1, 5), -1), ((3, n), 1), ((2, n, 2), 1)]]
    for shape, axis in problems:
        for dtype in cases.DTYPES:
            print(cases.name(shape, axis, dtype), flush=True)  # the last line names the case that died
            check(cases.make(shape, axis, dtype), cases.everything, side)
    for shape, axis in cases.HUGE:
        print(cases.name(shape, axis, "float32"), flush=True)
        check(cases.make(shape, axis), cases.essentials, side)


if __name__ == "__main__":
    main(sys.argv[1])
