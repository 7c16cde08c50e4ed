"""Check a simulator's result and bring it into the form that is stored. This is done only here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from sciinf.core.observable import Observable, Outcome, Status, X, event_of
from sciinf.core.observation import convert

LONGEST_MESSAGE = 2000


def normalise(
    result: Any, observables: Mapping[str, Observable], rows: int, *, where: str = "the simulator"
) -> Outcome:
    """A simulator's result as an outcome on the CPU, with a status for every row.

    Names, shapes and dtypes are those of the observables. A row with a value that is not finite becomes
    `Status.NON_FINITE`. Failed rows hold NaN in floats and zero in integers and booleans, whatever the simulator
    returned there. Each failed row has a message.

    Args:
        result: Mapping of observable name -> array (rows, *event), or an `Outcome`, or a bare array if there is one
            observable.
        observables: Expected observables.
        rows: Expected number of rows.
        where: Source of the result, for error messages ("block 3 of 'lotka_volterra'").

    Raises:
        TypeError: If the result is no mapping, or an observable is no array of real numbers.
        ValueError: If a name is missing or unknown, a shape or a status does not fit, or an integer observable holds
            fractions.
    """
    outcome = result if isinstance(result, Outcome) else Outcome(_mapping(result, observables, where))
    x = _mapping(outcome.x, observables, where)
    missing, unknown = sorted(set(observables) - set(x)), sorted(set(x) - set(observables))
    if missing or unknown:
        parts = [f"missing: {missing}"] * bool(missing) + [f"unknown: {unknown}"] * bool(unknown)
        raise ValueError(f"{where} returned {sorted(x)}, expected {event_of(observables)}; {'; '.join(parts)}")
    values = {name: _tensor(name, spec, x[name], rows, where) for name, spec in observables.items()}
    status = _status(outcome.status, rows, where)
    messages = _messages(outcome.messages, rows, where)
    flags = {name: _not_finite(values[name], spec) for name, spec in observables.items()}
    bad = {name: those for name, those in flags.items() if bool(those.any())}
    if bad:
        for row in torch.stack(list(bad.values())).any(0).logical_and(status == Status.OK).nonzero().flatten().tolist():
            status[row] = int(Status.NON_FINITE)
            names = ", ".join(repr(name) for name, those in bad.items() if those[row])
            messages.setdefault(row, f"NaN or infinite values in {names}")
    failed = (status != Status.OK).nonzero().flatten()
    for row in failed.tolist():
        messages.setdefault(row, f"{Status(int(status[row])).name.lower()}, and the simulator gave no reason")
    kept = {row: messages[row] for row in sorted(messages) if status[row] != Status.OK}
    return Outcome({n: _stored(n, s, values[n], failed, where) for n, s in observables.items()}, status, kept)


def failed_outcome(observables: Mapping[str, Observable], rows: int, status: Status, message: str) -> Outcome:
    """Outcome in which every row failed for the same reason."""
    x = {name: torch.full((rows, *o.shape), _filler(o), dtype=o.torch_dtype) for name, o in observables.items()}
    return Outcome(x, torch.full((rows,), int(status), dtype=torch.uint8), dict.fromkeys(range(rows), clip(message)))


def status_of(outcome: Outcome) -> Tensor:
    """`Status` of every row, uint8 (rows,); all `Status.OK` if the simulator reports no failures."""
    return _status(outcome.status, len(next(iter(outcome.x.values()))), "an outcome")


def join(outcomes: Iterable[Outcome]) -> Outcome:
    """Concatenate normalised outcomes into one outcome."""
    parts = list(outcomes)
    status = [status_of(part) for part in parts]
    messages: dict[int, str] = {}
    start = 0
    for part, flags in zip(parts, status, strict=True):
        messages.update({start + row: text for row, text in part.messages.items()})
        start += len(flags)
    x = {name: torch.cat([part.x[name] for part in parts]) for name in parts[0].x}
    return Outcome(x, torch.cat(status), messages)


def clip(message: str) -> str:
    """A message cut to the stored length, without NUL and lone surrogates, which HDF5's strings cannot hold."""
    return message.replace("\0", "\\0").encode(errors="backslashreplace").decode()[:LONGEST_MESSAGE]


def _mapping(x: Any, observables: Mapping[str, Observable], where: str) -> X:
    if isinstance(x, Mapping):
        return x
    if len(observables) == 1 and not isinstance(x, tuple | list) and x is not None:
        return {next(iter(observables)): x}
    raise TypeError(
        f"{where} returned {type(x).__name__}, expected a mapping of {event_of(observables)}, or an Outcome"
    )


def _tensor(name: str, spec: Observable, value: Any, rows: int, where: str) -> Tensor:
    if not isinstance(value, Tensor) and (unit := getattr(value, "unit", None)) is not None:
        value = convert(value.value, unit, spec, name)
    try:
        tensor = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{where} returned no array of numbers for {name!r}: {error}") from error
    if tensor.is_complex():
        raise TypeError(f"{where} returned complex numbers for {name!r}; split them into real and imaginary parts")
    expected = (rows, *spec.shape)
    if tuple(tensor.shape) != expected:
        raise ValueError(
            f"{where}: observable {name!r} has shape {tuple(tensor.shape)}, expected {expected} "
            f"({rows} rows of {spec.shape}); make every call return one array of the declared shape per row"
        )
    return tensor


def _status(status: Tensor | None, rows: int, where: str) -> Tensor:
    if status is None:
        return torch.zeros(rows, dtype=torch.uint8)
    flags = torch.as_tensor(status).detach().cpu()
    known = [int(s) for s in Status]
    if tuple(flags.shape) != (rows,) or not set(flags.tolist()) <= set(known):
        raise ValueError(
            f"{where}: the status has shape {tuple(flags.shape)} and values {sorted(set(flags.flatten().tolist()))}; "
            f"expected ({rows},) and values of Status, {known}"
        )
    return flags.to(torch.uint8, copy=True)


def _messages(messages: Mapping[int, str], rows: int, where: str) -> dict[int, str]:
    outside = [row for row in messages if not 0 <= int(row) < rows]
    if outside:
        raise ValueError(f"{where}: messages are given for rows {outside}, expected rows 0 to {rows - 1}")
    return {int(row): clip(str(text)) for row, text in messages.items()}


def _not_finite(value: Tensor, spec: Observable) -> Tensor:
    """Mask of the rows with a value that is not finite in the stored dtype."""
    if not value.is_floating_point():
        return torch.zeros(len(value), dtype=torch.bool)
    stored = value.to(spec.torch_dtype) if spec.torch_dtype.is_floating_point else value
    return ~torch.isfinite(stored).flatten(1).all(1) if stored.ndim > 1 else ~torch.isfinite(stored)


def _filler(spec: Observable) -> float | int | bool:
    if spec.torch_dtype.is_floating_point:
        return float("nan")
    return False if spec.dtype == "bool" else 0


def _stored(name: str, spec: Observable, value: Tensor, failed: Tensor, where: str) -> Tensor:
    if len(failed):
        value = value.clone()
        value[failed] = 0
    out = value.to(spec.torch_dtype)
    if not spec.torch_dtype.is_floating_point and not torch.equal(out.to(value.dtype), value):
        raise ValueError(
            f"{where}: observable {name!r} is declared {spec.dtype}, but holds values such as "
            f"{value[out.to(value.dtype) != value][0].item()}; declare it float32, or round it in the simulator"
        )
    if len(failed) and spec.torch_dtype.is_floating_point:
        out[failed] = _filler(spec)
    return out.contiguous()
