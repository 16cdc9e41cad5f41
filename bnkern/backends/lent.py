"""Arrays of other libraries on kernels that know another kind of array: lent to them, results taken back, no copy.

A `Loan` says how. Everything a backend's function is handed goes to the same function of `Loan.kernels`: arrays
lent, all else as it is. What comes back is the user's own array where it is one that was lent (`out`), and
otherwise an array of the user's kind on the memory that the kernels made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bnkern._check import Problem
from bnkern._types import Array
from bnkern.backends import Backend, generic

FUNCTIONS = ("stats", "train", "inference", "reduce", "input_grad", "backward")


class Loan(NamedTuple):
    """How arrays of one library, in one kind of place, get to kernels and back."""

    kernels: Backend
    array: type  # what is lent; any other argument is handed on as it is
    lend: Callable[[Array], Array]  # for the kernels: the same memory, as their kind of array
    give: Callable[[Array, Array], Array]  # a result of theirs, an array like x -> an array of x's kind
    wrote: Callable[[Array], None]  # tells the library that an array of the user's was written


Broker = Callable[[tuple[Any, ...]], Loan | None]  # of a call's arguments; None: they cannot all be lent


def functions(broker: Broker) -> tuple[Callable[..., Any], ...]:
    """The FUNCTIONS of a backend whose arrays are lent as `broker` says; where it says None, `generic` computes."""
    return tuple(_function(name, broker) for name in FUNCTIONS)


def _function(name: str, broker: Broker) -> Callable[..., Any]:
    def call(p: Problem, *arguments: Any) -> Any:
        loan = broker(arguments)
        if loan is None:
            return getattr(generic, name)(p, *arguments)
        owners: dict[int, Array] = {}

        def lend(a: Any) -> Any:
            if isinstance(a, loan.array):
                lent = loan.lend(a)
                owners[id(lent)] = a
                return lent
            return tuple(map(lend, a)) if type(a) is tuple else a  # the two sums

        def give(result: Any) -> Any:
            if result is None:
                return None
            owner = owners.get(id(result))
            if owner is None:
                return loan.give(result, arguments[0])
            loan.wrote(owner)
            return owner

        lent = [lend(a) for a in arguments]  # held until the end: an id is worth no more than its object
        results = getattr(loan.kernels, name)(p, *lent)
        return tuple(map(give, results)) if isinstance(results, tuple) else give(results)

    call.__name__ = call.__qualname__ = name
    return call
