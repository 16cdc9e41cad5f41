"""bnkern for PyTorch: layers, functions and conversions that autograd, torch.compile and torch.export know.

`convert(model)` switches a model over in one line. Importing this module imports torch; importing bnkern does not.
"""

from bnkern.torch.convert import convert, convert_sync, restore
from bnkern.torch.fold import fold
from bnkern.torch.functional import batch_norm, checkpoint_contexts, no_running_update
from bnkern.torch.modules import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
)
from bnkern.torch.sync import SyncBatchNorm
from bnkern.torch.trace import FusionReport, fusion_report

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "FusionReport",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "SyncBatchNorm",
    "batch_norm",
    "checkpoint_contexts",
    "convert",
    "convert_sync",
    "fold",
    "fusion_report",
    "no_running_update",
    "restore",
]
