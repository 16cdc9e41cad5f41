"""What the tests of bnkern.jax share. Without JAX all of them are skipped by name."""

import pytest
from helpers import cases
from helpers.libraries import of_framework

jax = of_framework("jax")
import bnkern.jax  # noqa: E402
from bnkern.engines.xla import ffi  # noqa: E402

PATHS = ["ffi", "callback"]


@pytest.fixture(params=PATHS)
def path(request):
    """Each path that takes the kernels into a program, in a block of its own."""
    if request.param == "ffi" and ffi.missing():
        pytest.skip(f"no handler here: {ffi.missing()}")
    with bnkern.jax.use_path(request.param):
        yield request.param


@pytest.fixture
def case():
    return cases.make((4, 5, 6, 3), 1)


@pytest.fixture
def arrays(case):
    """The case and running statistics as JAX arrays, by name."""
    found = {name: getattr(case, name) for name in ("x", "dy", "weight", "bias", "residual")}
    found |= {"running_mean": case.bias / 2, "running_var": case.weight**2}
    return {name: jax.numpy.asarray(a) for name, a in found.items()}
