"""One block of simulations as bytes: parameters and status are exact, and numbers of fields are within a tolerance.

A number u with tolerance e is stored as a whole number U of steps d,

    U = round(u / d),     d = (e - 2 r) / (T + 0.51),     R within T of U (`campaigns.storage.bounded`),

and R d is the number that is read back. Here r is the step of the observable's dtype at its largest value, and T is 128
in most cases. R d is rounded to that dtype. Its error is at most (T + 1/2) d + r, which is less than e. R is computed
with integers alone. One product with d and one rounding then give the same number on every machine. The number never
leaves the range of the observable. Rows that failed have parameters, status and a message, and no data.

Numbers are kept exactly in three cases: the tolerance is less than rounding, which is 2.4e-7 of the largest value in
single precision; the tolerance is less than 4e-9 of the range; or the range is zero.
"""

from __future__ import annotations

import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sciinf.campaigns.storage.bounded import LARGEST, decoded, encoded
from sciinf.campaigns.storage.outcome import failed_outcome, status_of
from sciinf.core.observable import Observable, Outcome, Status
from sciinf.core.prior import Prior

_APART = ("channel", "item")  # Axes along which numbers are not smooth.
_AXES = 3  # Most axes of space; axes before them become part of the batch.


@dataclass(frozen=True)
class Kept:
    """How the numbers of an observable are stored in an archive.

    Attributes:
        tolerance: Largest allowed error in the observable's units; 0 if the numbers are exact.
        step: Step d.
        bound: Bound T, in steps; 0 if the numbers are exact.
        low: Smallest value.
        high: Largest value.
        error: Largest error that was found over all numbers.
    """

    tolerance: float = 0.0
    step: float = 0.0
    bound: int = 0
    low: float = 0.0
    high: float = 0.0
    error: float = 0.0


def stepped(tolerance: float, low: float, high: float, spec: Observable) -> Kept:
    """Step and bound for a tolerance; exact storage if the tolerance is too small for them."""
    largest = max(-low, high)
    kind = np.finfo(spec.dtype)
    rounding = largest * float(kind.eps) + float(kind.smallest_subnormal)
    for bound in (128, 32, 8):
        step = (tolerance - 2 * rounding) / (bound + 0.51)
        if step > 1e-290 and (high / step - low / step) < LARGEST - 4 and largest / step < 2**45:
            return Kept(tolerance, step, bound, low, high)
    return Kept()


def packed(
    theta: Tensor, outcome: Outcome, observables: Mapping[str, Observable], kept: Mapping[str, Kept]
) -> list[bytes]:
    """Encode a block: theta, status, messages, and the rows of each observable that did not fail."""
    status = status_of(outcome)
    messages = json.dumps({str(row): text for row, text in outcome.messages.items()}).encode()
    parts = [_exact(theta.numpy()), _exact(status.numpy()), zlib.compress(messages, 9)]
    for name, spec in observables.items():
        values, how = outcome.x[name][status == Status.OK].numpy(), kept[name]
        if how.bound:
            whole = np.rint(values.astype(np.float64) / how.step).astype(np.int64)
            order, shape = _layout(spec, len(values))
            parts.append(encoded(whole.transpose(order).reshape(shape), how.bound))
        else:
            parts.append(_exact(values))
    return parts


def unpacked(
    data: bytes,
    lengths: Sequence[int],
    rows: int,
    prior: Prior,
    observables: Mapping[str, Observable],
    kept: Mapping[str, Kept],
) -> tuple[Tensor, Outcome]:
    """Decode what `packed` returned: theta and outcome, with numbers within their tolerances."""
    stream = io.BytesIO(data)
    theta, status, messages, *parts = (stream.read(length) for length in lengths)
    flags = torch.from_numpy(_restored(status, "uint8", (rows,)))
    good = flags == Status.OK
    x = dict(failed_outcome(observables, rows, Status.RAISED, "").x)
    for (name, spec), part in zip(observables.items(), parts, strict=True):
        shape, how = (int(good.sum()), *spec.shape), kept[name]
        if how.bound:
            order, laid = _layout(spec, shape[0])
            whole = decoded(part, laid, how.bound).reshape([shape[axis] for axis in order])
            with np.errstate(over="ignore"):  # Near the dtype's largest number; overflow is clipped.
                values = np.clip(whole.transpose(np.argsort(order)) * how.step, how.low, how.high)
            x[name][good] = torch.from_numpy(values).to(spec.torch_dtype)
        else:
            x[name][good] = torch.from_numpy(_restored(part, spec.dtype, shape))
    texts = {int(row): text for row, text in json.loads(zlib.decompress(messages)).items()}
    dtype = str(prior.dtype).removeprefix("torch.")
    return torch.from_numpy(_restored(theta, dtype, (rows, len(prior)))), Outcome(x, flags, texts)


def _layout(spec: Observable, rows: int) -> tuple[list[int], tuple[int, ...]]:
    """The order of axes, and the shape (batch, frame, *space) of an array with its axes in this order.

    The time axis becomes the frames if there are axes of space too. Channels and items become part of the batch,
    together with the rows.
    """
    axes = list(range(1, 1 + len(spec.shape)))
    dims = dict(zip(axes, spec.dims, strict=True)) if spec.dims else {}
    apart = [axis for axis in axes if dims.get(axis) in _APART]
    frames = [axis for axis in axes if dims.get(axis) == "time"][:1]
    space = [axis for axis in axes if axis not in apart and axis not in frames]
    if not space:
        frames, space = [], frames
    apart, space = apart + space[:-_AXES], space[-_AXES:]
    sizes = (rows, *spec.shape)
    batch = math.prod(sizes[axis] for axis in [0, *apart])
    return [0, *apart, *frames, *space], (
        batch,
        math.prod(sizes[axis] for axis in frames),
        *(sizes[axis] for axis in space),
    )


def _exact(array: np.ndarray) -> bytes:
    """Compressed bytes of an array, little-endian: first the first byte of every number, then the second, and so on."""
    small = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    return zlib.compress(small.reshape(-1).view(np.uint8).reshape(-1, small.itemsize).T.tobytes(), 6)


def _restored(data: bytes, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """Decode the array that `_exact` encoded."""
    kind = np.dtype(dtype).newbyteorder("<")
    planes = np.frombuffer(zlib.decompress(data), np.uint8).reshape(kind.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(kind).reshape(tuple(shape)).astype(dtype)
