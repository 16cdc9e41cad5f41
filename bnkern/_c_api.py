"""The C API's capsule: what `bnkern_import()` of bnkern.h takes, and where the header lies."""

from __future__ import annotations

import importlib
from pathlib import Path

from bnkern._native import c_api
from bnkern._threads import get_num_threads

get_num_threads()  # the process's number is worked out before a thread without Python can ask for it

# One for each ABI version. The version's module is there in a build alone, and import contracts know sources.
_C_API_1 = c_api.capsule(importlib.import_module("bnkern._build").VERSION)


def get_include() -> str:
    """Return the folder of `bnkern.h`, for a compiler's `-I`.

    Returns
    -------
    str

    Examples
    --------
    >>> "-I" + bnkern.get_include()
    """
    return str(Path(__file__).parent / "include")
