"""Bad calls raise, say which argument, and leave every array as it was: the rows of bad_calls.py."""

import inspect

import numpy as np
import pytest
from helpers.bad_calls import BAD, TAKES_X, good
from helpers.compare import same_bits

import bnkern


def arrays_in(arguments):
    """Every array among the arguments, inside stats and sums too, and the memory that views stand in."""
    found = []
    for value in arguments.values():
        for entry in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(entry, np.ndarray):
                found.append(entry)
                if isinstance(entry.base, np.ndarray):
                    found.append(entry.base)
    return found


@pytest.mark.parametrize(
    "function", [*TAKES_X, "merge_stats", "update_running", "fold_batch_norm", "set_num_threads"]
)
def test_the_good_call_is_good(function):
    getattr(bnkern, function)(**good(function))


@pytest.mark.parametrize(
    ("function", "differ", "error", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD]
)
def test_bad_call_says_what_is_wrong_and_changes_nothing(function, differ, error, words):
    arguments = good(function)
    arguments |= differ(arguments) if callable(differ) else differ
    before = [(a, a.copy()) for a in arrays_in(arguments)]
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(bnkern, function)(**arguments)
    message = str(caught.value)
    assert isinstance(caught.value, error), f"{type(caught.value).__name__}: {message}"
    assert [word for word in words if word not in message] == [], message
    assert "expected" in message, "a message gives argument, expected, got"
    assert "got" in message, "a message gives argument, expected, got"
    for array, kept in before:
        assert same_bits(array, kept), "an array was changed before the error"


def test_every_array_function_has_rows():
    covered = {row[1] for row in BAD}
    public = {name for name in bnkern.__all__ if inspect.isroutine(getattr(bnkern, name))} | {"threads"}
    assert public - covered <= {
        "get_default_memory_pool",  # its limits: test_pool.py
        "get_num_threads",
        "get_include",
        "explain",
        "show_config",
    }
