"""The tests of the slots once more, every array flush against memory that may not be touched.

`aligned` is where slots.py takes all of its memory from: here, from regions with a forbidden page at both ends. A
region serves again after many others, when nobody looks at its array any more.
"""

import ctypes
import importlib.util
import itertools
import mmap
from types import SimpleNamespace

import numpy as np

from helpers import slots

REGION, REGIONS = 1 << 17, 1500
libc = ctypes.CDLL(None, use_errno=True)


def region(size):
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, size + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for forbidden in (start, start + page + size):
        if libc.mprotect(ctypes.c_void_p(forbidden), ctypes.c_size_t(page), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    return np.frombuffer(memory, np.uint8, size, page)


def allocator(side):
    ring = itertools.cycle([region(REGION) for _ in range(REGIONS)])

    def aligned(size, dtype, offset=0, fill=0x5A):
        wanted = size * np.dtype(dtype).itemsize
        memory = next(ring) if wanted <= REGION else region(-(-wanted // mmap.PAGESIZE) * mmap.PAGESIZE)
        memory = memory[len(memory) - wanted :] if side == "end" else memory[:wanted]
        memory[:] = fill
        return memory.view(dtype)

    return aligned


def main(side, tests):
    slots.aligned = allocator(side)
    slots.surroundings_intact = lambda a: True
    spec = importlib.util.spec_from_file_location("test_slots", tests)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    count = 0
    for name, test in vars(module).items():
        marks = getattr(test, "pytestmark", [])
        if not name.startswith("test_") or "skipif" in [mark.name for mark in marks] or not marks:
            continue
        for case in cases(marks):
            if case["dtype"] == "f16":
                continue  # touches memory as bf16 does: both are sixteen.h
            print(name, case, flush=True)  # the last line names the case that died
            test(**case)
            count += 1
    print(count)


def cases(marks):
    """Every combination of the parameters of a test."""
    lists = []
    for mark in (SimpleNamespace(names=m.args[0], values=m.args[1]) for m in marks):
        names = [mark.names] if isinstance(mark.names, str) else list(mark.names)
        lists.append([dict(zip(names, v if len(names) > 1 else [v], strict=True)) for v in mark.values])
    for parts in itertools.product(*lists):
        yield {key: value for part in parts for key, value in part.items()}


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
