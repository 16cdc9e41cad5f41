"""bnkern for JAX: pure functions on the compiled kernels, under jit, grad, vmap, scan and shard_map.

Import it as `import bnkern.jax`; it needs JAX, and nothing else in bnkern imports it. Begin with
`help(bnkern.jax.batch_norm_train)`; docs/jax.md has whole training steps.
"""

from __future__ import annotations

from bnkern.engines.xla.choice import Choice, use_path
from bnkern.engines.xla.choice import chosen as chosen_path
from bnkern.jax import _trees as _trees
from bnkern.jax._functions import batch_norm_inference, batch_norm_train
from bnkern.jax._result import BatchNormTrain

__all__ = ["BatchNormTrain", "Choice", "batch_norm_inference", "batch_norm_train", "chosen_path", "use_path"]
