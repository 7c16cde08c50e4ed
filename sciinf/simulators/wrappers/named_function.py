"""Checks of a user's function: its argument names against the prior, and its results against the observables."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinf.core import Observable, Outcome, Prior, Status, X
from sciinf.core.observation import convert

LOST = "NaN or infinity in an integer or boolean observable"
Specification = Observable | int | tuple[int, ...] | tuple[tuple[int, ...] | int, str]
"""An observable, or its event shape, or (shape, unit)."""


def specify(observables: Mapping[str, Specification]) -> dict[str, Observable]:
    """Observables from their short forms: an `Observable`, a shape, or (shape, unit).

    Raises:
        TypeError: If the argument is not a mapping of observables, shapes or (shape, unit).
        ValueError: If the mapping is empty.
    """
    if not isinstance(observables, Mapping):
        raise TypeError(
            f"observables must map names to shapes or Observables, got {observables!r}; "
            "write for instance observables={'v': Observable((50,), 'mV')} or {'v': ((50,), 'mV')}"
        )
    if not observables:
        raise ValueError("a simulator needs at least one observable: observables={'v': Observable((50,), 'mV')}")
    return {name: _specify(name, value) for name, value in observables.items()}


def match_arguments(
    function: Callable[..., Any], prior: Prior, extras: Collection[str], *, what: str
) -> frozenset[str]:
    """Check that a function takes every parameter of the prior by name, and requires nothing else.

    Args:
        function: Function written by the user.
        prior: Prior whose parameter names the function must take. The function takes an `Each` by its one name.
        extras: Further names that the function may take ("rng", "key", "x").
        what: Name of the function in messages.

    Returns:
        The extras that the function takes.

    Raises:
        TypeError: If the function cannot be called.
        ValueError: If names differ. The message suggests the probable name.
    """
    known = tuple(prior.arguments)
    if not callable(function):
        raise TypeError(f"{what} must be a function of {', '.join(known)}, got {function!r}")
    if taken := [name for name in known if name in extras]:
        raise ValueError(f"the parameter name {taken[0]!r} is reserved (passed to {what}); rename it in the prior")
    label = f"{what} {name_of(function)!r}"
    try:
        signature = inspect.signature(function)
    except ValueError as error:
        raise ValueError(f"the argument names of {label} are unknown; wrap it in a `def` that names them") from error
    arguments = signature.parameters.values()
    if positional := [p.name for p in arguments if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)]:
        raise ValueError(f"{label} takes {positional} by position; parameters are passed by name, so name them")
    named = {p.name: p.default is not p.empty for p in arguments if p.kind is not p.VAR_KEYWORD}
    rest = any(p.kind is p.VAR_KEYWORD for p in arguments)
    missing = [] if rest else [name for name in known if name not in named]
    unknown = [name for name, optional in named.items() if not optional and name not in (*known, *extras)]
    if missing:
        candidates = [name for name in named if name not in known]
        raise ValueError(
            f"the prior has a parameter {missing[0]!r} that {label} does not take{suggest(missing[0], candidates)}; "
            f"it takes {sorted(named)}, the prior has {list(known)}"
        )
    if unknown:
        allowed = [*known, *extras]
        raise ValueError(
            f"{label} takes an argument {unknown[0]!r} that the prior does not have{suggest(unknown[0], allowed)}; "
            f"the prior has {list(known)}, and {sorted(extras)} may be taken besides"
        )
    return frozenset(extras if rest else (name for name in extras if name in named))


def suggest(name: str, candidates: Sequence[str]) -> str:
    """Text that suggests the most similar candidate, such as " (did you mean 'rate'?)", or an empty text."""
    close = difflib.get_close_matches(name, candidates, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def name_of(function: Callable[..., Any]) -> str:
    """Name of a function; "simulator" for a lambda."""
    name = str(getattr(function, "__name__", type(function).__name__))
    return "simulator" if name == "<lambda>" else name


def draw_seed(generator: torch.Generator) -> int:
    """Draw an integer in 0..2**62 - 1 from a generator on any device."""
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def columns_of(prior: Prior, theta: Tensor) -> dict[str, np.ndarray]:
    """Columns of theta (batch, D): parameter name -> float64 array (batch,).

    Raises:
        ValueError: If theta has another shape.
    """
    if theta.ndim != 2 or theta.shape[1] != len(prior):
        raise ValueError(f"theta has shape {tuple(theta.shape)}, expected (batch, {len(prior)}) for {prior.names}")
    values = theta.detach().to("cpu", torch.float64).numpy()
    return {name: values[:, i] for i, name in enumerate(prior.names)}


def arrays_of(x: X) -> dict[str, np.ndarray]:
    """Data as numpy arrays on the CPU, observable name -> array."""
    return {name: value.detach().cpu().numpy() for name, value in x.items()}


def rows_of_data(x: X, n: int) -> dict[str, np.ndarray]:
    """Data of a likelihood as arrays: name -> (n, *event), or (1, *event) for one observation shared by all rows.

    Raises:
        ValueError: If an observable has another number of rows.
    """
    data = arrays_of(x)
    for name, value in data.items():
        if len(value) not in (1, n):
            raise ValueError(f"x has {len(value)} rows of {name!r}, expected 1 or {n}, as many as theta")
    return data


def match_likelihood(function: Callable[..., Any], prior: Prior) -> None:
    """Check that a log-likelihood function takes the prior's parameters by name, and the data as `x`.

    Raises:
        TypeError: If the function cannot be called.
        ValueError: If the function takes other arguments.
    """
    if "x" not in match_arguments(function, prior, ("x",), what="the log-likelihood"):
        raise ValueError(f"the log-likelihood {name_of(function)!r} must take the data as `x`")


def tensors_of(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Numpy arrays converted to tensors on a device."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in arrays.items()}


def check_result(
    observables: Mapping[str, Observable], result: Any, lead: tuple[int, ...], *, what: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Check a function's result, and convert it to arrays in the observables' units and dtypes.

    Args:
        observables: Observables that the function should return.
        result: A mapping of arrays (numbers, tensors, quantities with units), or a bare array for one observable.
        lead: Leading axes: () for one simulation, (batch,) for many.
        what: Name of the function in messages.

    Returns:
        Observable name -> array (*lead, *event); and a mask, bool (*lead), of the simulations that hold NaN or infinity
        in an integer or boolean observable. Such a value has no meaning after the conversion.

    Raises:
        TypeError: If the function returned nothing, or values that are not real numbers.
        ValueError: If a name is missing or unknown, a shape is wrong, a unit does not convert, or an integer observable
            has a value that is not whole.
    """
    if result is None:
        raise TypeError(f"{what} returned None; it must return {_expected(observables, lead)} (is a `return` missing?)")
    if not isinstance(result, Mapping):
        if len(observables) != 1 or isinstance(result, str):
            raise TypeError(f"{what} returned {type(result).__name__}, expected {_expected(observables, lead)}")
        result = {next(iter(observables)): result}
    for name in result:
        if name not in observables:
            missing = [other for other in observables if other not in result]
            raise ValueError(
                f"{what} returned {name!r}, which is no observable{suggest(str(name), missing)}; "
                f"expected {_expected(observables, lead)}"
            )
    lost = np.zeros(lead, dtype=bool)
    out: dict[str, np.ndarray] = {}
    for name, spec in observables.items():
        if name not in result:
            raise ValueError(f"{what} did not return {name!r}; expected {_expected(observables, lead)}")
        array = _numbers(name, spec, result[name], what)
        if array.shape != (*lead, *spec.shape):
            raise ValueError(
                f"{what} returned {name!r} with shape {array.shape}, expected {(*lead, *spec.shape)}: "
                f"{'(batch, *event)' if lead else 'the event shape'} given by observables"
            )
        out[name], bad = _cast(name, spec, array, what)
        lost |= bad.reshape(*lead, -1).any(-1)
    return out, lost


def outcome_of(
    checked: tuple[Mapping[str, np.ndarray], np.ndarray],
    device: torch.device,
    rows: int | None = None,
    *,
    words: str = LOST,
) -> Outcome:
    """Outcome of a batch, in which rows with an invalid integer or boolean value count as failed.

    Args:
        checked: Result of `check_result` for the batch.
        device: Device of the outcome's tensors.
        rows: Number of rows to keep from the start; all rows by default.
        words: Message of a failed row.
    """
    arrays, lost = checked[0], checked[1][:rows]
    status = torch.from_numpy(np.where(lost, Status.NON_FINITE, Status.OK).astype(np.uint8))
    x = tensors_of({name: array[:rows] for name, array in arrays.items()}, device)
    return Outcome(x, status.to(device), {int(i): words for i in np.flatnonzero(lost)})


def _specify(name: str, value: Any) -> Observable:
    if isinstance(value, Observable):
        return value
    shape, unit = value, ""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str):
        shape, unit = value
    shape = (shape,) if isinstance(shape, int) else shape
    if not isinstance(shape, tuple | list) or not all(isinstance(n, int | np.integer) for n in shape):
        raise TypeError(
            f"observable {name!r} is {value!r}; expected an Observable, a shape such as (50,), or (shape, unit)"
        )
    return Observable(tuple(int(n) for n in shape), unit)


def _expected(observables: Mapping[str, Observable], lead: tuple[int, ...]) -> str:
    return "{" + ", ".join(f"{n!r}: array of shape {(*lead, *o.shape)}" for n, o in observables.items()) + "}"


def _numbers(name: str, spec: Observable, value: Any, what: str) -> np.ndarray:
    unit = getattr(value, "unit", None)
    if unit is not None:
        value = convert(getattr(value, "value", value), unit, spec, name)
    elif isinstance(value, Tensor):
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except ValueError as error:  # The rows have different lengths.
        raise ValueError(f"{what} returned {name!r} as no rectangular array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{what} returned {name!r} as {array.dtype} values, expected real numbers ({spec.dtype})")
    return array


def _cast(name: str, spec: Observable, array: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    if array.dtype.kind != "f" or spec.dtype.startswith("float"):
        with np.errstate(over="ignore"):  # A value beyond float32 becomes infinite, and the row's status will say so.
            return array.astype(spec.dtype), np.zeros(array.shape, dtype=bool)
    bad = ~np.isfinite(array)
    whole = np.where(bad, 0, array)
    if (whole != np.trunc(whole)).any():
        raise ValueError(
            f"{what} returned {name!r} with values that are not whole ({float(whole[whole != np.trunc(whole)][0])!r}), "
            f"but its dtype is {spec.dtype}; declare Observable({spec.shape}, ..., dtype='float32')"
        )
    return whole.astype(spec.dtype), bad
