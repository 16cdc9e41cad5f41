"""Batch normalisation as a layer, for networks written by hand."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from bnkern._activations import ActivationSpec, parse
from bnkern._api.vjp import VJP, batch_norm_vjp
from bnkern._dtypes import PER_CHANNEL, Array, dtype_name, namespace
from bnkern._numbers import count, integer, real
from bnkern._words import describe
from bnkern.arrays import adopted
from bnkern.arrays.memory import writable
from bnkern.checks.parameters import switch
from bnkern.checks.problem import problem

_ARRAYS = ("weight", "bias", "running_mean", "running_var")


class BatchNorm:
    """A layer of batch normalisation for NumPy and CuPy users who write networks by hand.

    It holds weights, running statistics and options; `forward` normalises and remembers what `backward` needs. How the
    weights change with their gradients is the user's: they are plain arrays.

    Parameters
    ----------
    channels : int
        Number of channels, C.
    axis : int
        The channel axis: 1 for NC, NCL, NCHW, NCDHW, -1 for NC, NLC, NHWC, NDHWC; any other works too.
    eps : float
        Above 0, inside the square root.
    momentum : float or None
        The weight of a batch in the running statistics, as in PyTorch (Keras, Flax and ONNX call 1 minus that
        momentum); None is the average over all batches.
    affine : bool
        Whether there are weight and bias. Without, both are None.
    track_running_stats : bool
        Whether there are running statistics. Without, both are None, and inference takes the batch's own.
    correction : float
        The batch variance enters the running one as var * count / (count - correction).
    activation : None, "relu", "relu6" or ("leaky_relu", slope)
        Applied behind it, in the same sweep.
    dtype : "float32" or "float64"
        Of weights and running statistics. x may be of any dtype that the functions take.
    xp : module
        Where arrays live: numpy, cupy, or another array API namespace whose arrays can be written.

    Attributes
    ----------
    weight, bias : array of shape (C,), or None
        gamma, ones at first, and beta, zeros.
    running_mean, running_var : array of shape (C,), or None
        Zeros and ones at first. Updated in place.
    num_batches : int
        Batches that the running statistics have seen.
    dweight, dbias : array of shape (C,), or None
        Gradients that the last `backward` found, in the weights' dtype.
    dresidual : array like x, or None
        The residual's, where the forward call was given one.

    Raises
    ------
    TypeError, ValueError
        If an option is none, before any array is made.

    Notes
    -----
    S. Ioffe, C. Szegedy, arXiv 1502.03167, Algorithms 1 and 2. The calculation is `batch_norm_vjp`'s.

    Examples
    --------
    >>> layer = bnkern.BatchNorm(64, activation="relu")
    >>> y = layer(x)
    >>> dx = layer.backward(dy)
    >>> layer.weight -= rate * layer.dweight
    >>> layer.bias -= rate * layer.dbias
    >>> y = layer(x, training=False)
    """

    weight: Array | None
    bias: Array | None
    running_mean: Array | None
    running_var: Array | None

    def __init__(
        self, channels: int, *, axis: int = 1, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, correction: float = 1, activation: ActivationSpec = None,
        dtype: Any = "float32", xp: ModuleType | Any = np,
    ) -> None:  # fmt: skip
        self.channels = integer("channels", channels, low=1)
        self.axis, self.eps = integer("axis", axis), real("eps", eps)
        if self.eps <= 0:
            raise ValueError(f"eps: expected a number > 0, got {describe(eps)}")
        self.momentum = None if momentum is None else real("momentum", momentum)
        self.correction = real("correction", correction)
        if self.correction < 0:
            raise ValueError(f"correction: expected a number >= 0, got {describe(correction)}")
        parse(activation)
        self.activation = activation
        affine, tracked = switch("affine", affine), switch("track_running_stats", track_running_stats)
        if not isinstance(xp, ModuleType) or not hasattr(xp, "asarray"):
            raise TypeError(f"xp: expected a module of arrays, as numpy is, got {describe(xp)}")
        if (name := _name_of(dtype)) not in PER_CHANNEL:
            raise TypeError(f"dtype: expected {' or '.join(PER_CHANNEL)}, got {describe(dtype)}")
        self._namespace, self._dtype = xp.__name__, name  # not the module, which cannot be pickled
        number = getattr(xp, name)
        self.weight = xp.ones(self.channels, dtype=number) if affine else None
        self.bias = xp.zeros(self.channels, dtype=number) if affine else None
        self.running_mean = xp.zeros(self.channels, dtype=number) if tracked else None
        self.running_var = xp.ones(self.channels, dtype=number) if tracked else None
        self.num_batches = 0
        self.dweight: Array | None = None
        self.dbias: Array | None = None
        self.dresidual: Array | None = None
        self._vjp: VJP | None = None

    def forward(self, x: Array, *, training: bool = True, residual: Array | None = None) -> Array:
        """Normalise.

        Parameters
        ----------
        x : array with C channels
            Kept for `backward`, as are the weights and, with a residual and an activation, what is returned: none of
            them may be changed before it.
        training : bool
            True: with the batch's statistics, and the running ones updated. False: with the running ones where they are
            tracked; then `backward` gives the gradients for fixed statistics.
        residual : array like x, optional
            Added before the activation.

        Returns
        -------
        array like x

        Raises
        ------
        TypeError, ValueError
            As `batch_norm_train` and `batch_norm_inference`, or if x has not C channels; nothing has been changed then.
        """
        x = adopted("x", x)
        channels = problem(x, self.axis).channels
        if channels != self.channels:
            got = f"shape {tuple(x.shape)} with axis={self.axis}"
            raise ValueError(f"x: expected {self.channels} channels, got {channels} ({got})")
        training = switch("training", training)
        tracked = self.running_mean is not None
        options: dict[str, Any] = {"weight": self.weight, "bias": self.bias, "axis": self.axis, "eps": self.eps}
        options |= {"activation": self.activation, "residual": residual, "training": training or not tracked}
        if tracked:
            options |= {"running_mean": self.running_mean, "running_var": self.running_var}
        if training:
            options |= {"momentum": self.momentum, "num_batches": self.num_batches + 1, "correction": self.correction}
        y, stats, self._vjp = batch_norm_vjp(x, **options)
        self.num_batches += bool(training and tracked and stats.count)
        return y

    __call__ = forward

    def backward(self, dy: Array) -> Array:
        """The gradient of the last forward call's x; those of weights and residual become attributes.

        Parameters
        ----------
        dy : array like x
            Gradient with respect to the result of `forward`.

        Returns
        -------
        array like x

        Raises
        ------
        RuntimeError
            If there was no forward call, or its gradient has been taken: what it remembered is let go then.
        TypeError, ValueError
            If dy is not like x.
        """
        if self._vjp is None:
            raise RuntimeError("backward: expected a forward call before each backward call, got none")
        grads = self._vjp(dy)
        self._vjp = None
        self.dweight, self.dbias, self.dresidual = grads.dweight, grads.dbias, grads.dresidual
        return grads.dx

    def state(self) -> dict[str, Array]:
        """Everything that training changes, as copies: for `numpy.savez` and `load_state`.

        Returns
        -------
        dict of arrays
            "weight", "bias", "running_mean", "running_var" as far as the layer has them, and "num_batches", an array
            without dimensions.
        """
        xp = importlib.import_module(self._namespace)
        held = {name: xp.asarray(getattr(self, name), copy=True) for name in _ARRAYS if getattr(self, name) is not None}
        return held | {"num_batches": xp.asarray(self.num_batches)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave, of this layer or one with the same options.

        Parameters
        ----------
        state : mapping
            Exactly the names that `state` has, with arrays of shape (C,). They are copied, in the layer's dtype.

        Raises
        ------
        TypeError
            If an entry is no array of floating-point numbers.
        ValueError
            If a name is missing or unknown, a shape is wrong, or an array of the layer's is read-only. Nothing
            has been changed then.
        """
        xp = importlib.import_module(self._namespace)
        names = {name for name in _ARRAYS if getattr(self, name) is not None} | {"num_batches"}
        if not isinstance(state, Mapping):
            raise TypeError(f"state: expected a dict of arrays, got {describe(state)}")
        if set(state) != names:
            raise ValueError(f"state: expected the names {sorted(names)}, got {sorted(map(str, state))}")
        batches = count("state: num_batches", state["num_batches"])
        held = {name: getattr(self, name) for name in sorted(names - {"num_batches"})}
        new = {name: _vector(xp, name, state[name], vector) for name, vector in held.items()}
        for name, vector in held.items():  # all before the first is written
            writable(name, vector, "the layer writes its state in place")
        for name, vector in held.items():
            vector[...] = new[name]
        self.num_batches = batches

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: without what the last forward call left for its backward call."""
        return vars(self) | {"_vjp": None}

    def __repr__(self) -> str:
        options = [f"axis={self.axis}", f"eps={self.eps!r}", f"momentum={self.momentum}"]
        options += [f"affine={self.weight is not None}", f"track_running_stats={self.running_mean is not None}"]
        options += [f"correction={self.correction!r}", f"activation={self.activation!r}", f"dtype={self._dtype!r}"]
        return f"bnkern.BatchNorm({self.channels}, {', '.join(options)})"


def _name_of(dtype: Any) -> str:
    try:
        return np.dtype(dtype).name
    except TypeError:
        return dtype_name(dtype)


def _vector(xp: Any, name: str, given: Any, like: Array) -> Array:
    """An entry of a state as the layer holds it."""
    values = xp.asarray(adopted(f"state: {name}", given))
    if dtype_name(values.dtype) not in (*PER_CHANNEL, "float16", "bfloat16"):
        raise TypeError(f"state: {name}: expected floating-point numbers, got {describe(given)}")
    if tuple(values.shape) != tuple(like.shape):
        raise ValueError(f"state: {name}: expected shape {tuple(like.shape)}, got {tuple(values.shape)}")
    converted: Array = namespace(values).astype(values, like.dtype)  # torch, as a module, has no astype
    return converted
