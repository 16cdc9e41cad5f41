"""One line for a whole model: `convert` and `restore`, `convert_sync`.

A layer is switched by giving the object another class: parameters, buffers, hooks, the training flag, and every place
that holds the layer or its parameters (optimisers, tied layers) stay as they are, and so does the state_dict.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from bnkern.torch import fuse as _fuse
from bnkern.torch import modules
from bnkern.torch.sync import SyncBatchNorm

M = TypeVar("M", bound="torch.nn.Module")

_TO_BNKERN: dict[type, type] = {
    torch.nn.BatchNorm1d: modules.BatchNorm1d,
    torch.nn.BatchNorm2d: modules.BatchNorm2d,
    torch.nn.BatchNorm3d: modules.BatchNorm3d,
    torch.nn.LazyBatchNorm1d: modules.LazyBatchNorm1d,
    torch.nn.LazyBatchNorm2d: modules.LazyBatchNorm2d,
    torch.nn.LazyBatchNorm3d: modules.LazyBatchNorm3d,
    torch.nn.SyncBatchNorm: SyncBatchNorm,
}
_TO_TORCH = {ours: theirs for theirs, ours in _TO_BNKERN.items()}


def convert(module: M, *, fuse: bool = False) -> Any:
    """Switch every BatchNorm layer of PyTorch's in a model to bnkern's.

    Parameters
    ----------
    module : torch.nn.Module
        Its layers are switched in place: torch.nn.BatchNorm1d, 2d, 3d, their lazy kin and SyncBatchNorm, of exactly
        these types; subclasses, whose forward may be another, stay.
    fuse : bool
        Also take BatchNorm + ReLU, ReLU6 or LeakyReLU, and BatchNorm + addition + one of these, in one sweep. What is
        found by torch.fx; what is not safe stays, and `fusion_report(result)` lists it with the reason.

    Returns
    -------
    torch.nn.Module
        `module` itself; with fuse=True a torch.fx.GraphModule that shares its layers, with the same state_dict, or,
        where the model cannot be traced, `module` with what its torch.nn.Sequential parts allow.

    Notes
    -----
    `restore` is the way back. momentum=None, track_running_stats=False, affine=False, eval() and requires_grad stay.
    """
    _check_module(module)
    _switch(module, _TO_BNKERN)
    return _fuse.fuse(module) if fuse else module


def restore(module: M) -> M:
    """Switch every layer of bnkern's in a model to PyTorch's: the way back from `convert`, also from fuse=True.

    A `SyncBatchNorm` becomes torch.nn.SyncBatchNorm, also where `convert_sync` made it of a layer of another class.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place.

    Returns
    -------
    torch.nn.Module
        `module`; one that fuse=True made stays a GraphModule, of PyTorch's layers alone.

    Raises
    ------
    ValueError
        If a layer was made with an activation by hand, for which PyTorch's has no place. Nothing has been changed then.
    """
    _check_module(module)
    _fuse.unfuse(module)
    _switch(module, _TO_TORCH)
    return module


def convert_sync(module: M, process_group: Any = None) -> M:
    """Switch every BatchNorm layer in a model, PyTorch's or bnkern's, to `SyncBatchNorm`.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place; to be called before torch.nn.parallel.DistributedDataParallel.
    process_group : optional
        The processes whose batches are one batch; all by default.

    Returns
    -------
    torch.nn.Module
        `module`.

    Raises
    ------
    ValueError
        If a layer is lazy and has seen no input yet. Nothing has been changed then.

    Notes
    -----
    `restore` makes torch.nn.SyncBatchNorm of these layers, whatever rank they had before: PyTorch's class knows none.
    """
    _check_module(module)
    layers = [layer for layer in module.modules() if type(layer) in _TO_BNKERN or type(layer) in _TO_TORCH]
    if any(isinstance(layer, torch.nn.modules.lazy.LazyModuleMixin) for layer in layers):
        raise ValueError("module: expected layers with their channels known, got a lazy one; run it once first")
    for layer in layers:
        layer.__class__ = SyncBatchNorm
        layer.process_group = process_group
    return module


def _switch(module: Any, table: dict[type, type]) -> None:
    for layer in module.modules():
        other = table.get(type(layer))
        if other is not None:
            layer.__class__ = other


def _check_module(module: Any) -> None:
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
