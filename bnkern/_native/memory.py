"""Memory for results."""

from bnkern._native._cpu import empty_like, pool_free_all, pool_set_limit, pool_state  # noqa: F401
