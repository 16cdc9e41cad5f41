"""Where there is no memory for scratch or copies, the C API says so, and has written nothing."""

from helpers import support

CODE = """
import resource
import numpy as np, bnkern
from helpers import c_api

rng = np.random.default_rng(0)
x = rng.standard_normal((64, 700, 7, 7)).astype(np.float32)
strided = rng.standard_normal((64, 700, 7, 14)).astype(np.float32)[..., ::2]  # is copied
failed = succeeded = 0
for extra in [0, *(1 << k for k in range(12, 27))]:
    for view in (x, strided):
        y, mean, var = np.full(view.shape, 7, np.float32), np.zeros(700), np.ones(700)
        call = c_api.request(x=view, y=y, running_mean=mean, running_var=var, threads=1)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + extra, resource.RLIM_INFINITY))
        status, words = c_api.perform("train", call)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if status == c_api.OK:
            succeeded += 1
        else:
            failed += 1
            assert (status, words[:17]) == (c_api.NO_MEMORY, "bnkern: no memory"), (status, words)
            assert (y == 7).all() and not mean.any() and (var == 1).all(), f"{extra}: something was written"
assert failed and succeeded, (failed, succeeded)
"""


@support.skip_sanitised
@support.linux_only
def test_no_memory_leaves_everything_as_it_was(python):
    python(CODE)
