"""The GPU path without a GPU: compiled by NVRTC, executed by emulation; and with one (marker `gpu`)."""

import importlib.util
import warnings

import pytest
from helpers import emulator, fake_cupy, gpu_cases


def _gpu_missing():
    """Why the tests that need a GPU cannot run; None: they can."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy's own, at import, are no errors of ours
        import cupy

    return None if cupy.cuda.is_available() else "no CUDA device"


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = _gpu_missing() if marked else None
    for item in marked:
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {reason}"))


@pytest.fixture
def chip():
    """CuPy's stand-in on the emulation; the device may be changed through it."""
    if emulator.compiler() is None:
        pytest.skip("the emulation needs g++")
    with fake_cupy.installed() as device:
        yield device


@pytest.fixture(params=gpu_cases.DTYPES)
def dtype(request):
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    return request.param
