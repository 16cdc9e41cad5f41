"""Arithmetic on one number for each channel, as the kernels do it."""

from bnkern._native._cpu import cast, cast_each, ema_update  # noqa: F401
