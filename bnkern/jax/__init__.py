"""bnkern for JAX: pure functions on the compiled kernels, under jit, grad, vmap, scan and shard_map.

Import it as `import bnkern.jax`; it needs JAX, and nothing else in bnkern imports it. `help(bnkern.jax.batch_norm_train)`
to begin, docs/jax.md for whole training steps.
"""

from __future__ import annotations

from bnkern.engines.xla.choice import Choice, use_path
from bnkern.engines.xla.choice import chosen as chosen_path
from bnkern.jax import _trees as _trees
from bnkern.jax._functions import BatchNormTrain, batch_norm_inference, batch_norm_train

__all__ = ["BatchNormTrain", "Choice", "batch_norm_inference", "batch_norm_train", "chosen_path", "use_path"]
