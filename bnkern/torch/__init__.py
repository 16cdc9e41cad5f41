"""bnkern for PyTorch: layers, functions and conversions that autograd, torch.compile and torch.export know.

`convert(model)` switches a model over in one line. Importing this module imports torch; importing bnkern does not.
"""

from bnkern.torch import autograd as _autograd  # registers the gradients
from bnkern.torch import vmap as _vmap  # registers the rules  # noqa: F401
from bnkern.torch.functional import batch_norm, checkpoint_contexts, no_running_update
from bnkern.torch.modules import (
    BatchNorm1d, BatchNorm2d, BatchNorm3d, LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d,
)  # fmt: skip

del _autograd
