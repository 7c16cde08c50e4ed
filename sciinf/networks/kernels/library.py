"""Compilation and loading of the C kernels, for operations that torch does not have as single calls.

A C file of this folder is compiled when it is first needed, which takes two seconds. The machine's own C compiler
(`CC`, cc, gcc or clang) compiles for the processor of this machine. The library is cached in `~/.cache/sciinf` (or
below `XDG_CACHE_HOME`). If there is no compiler, or the folder cannot be written, no library is used. Then torch
operations compute the same result more slowly. `SCIINF_COMPILE=0` has the same effect. Before a library is used, its
results are compared with torch operations.

Why C and not numba: numba took 16 s to compile such kernels, and is one more dependency. torch.compile took 50 s for
one training step.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciinf.networks.kernels.lanes import together

FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_LONGEST = 120  # Time limit of the compiler, in seconds.
_off: ContextVar[bool] = ContextVar("_off", default=False)


def library(
    name: str, arguments: Mapping[str, Sequence[Any]], agrees: Callable[[ctypes.CDLL], bool]
) -> ctypes.CDLL | None:
    """A compiled library whose functions agree with torch operations, or None if no such library is available.

    The comparison runs in another thread, so transforms, precisions and modes of torch in the caller have no effect.

    Args:
        name: Name of the C file, without its suffix.
        arguments: Argument types of each function: function name -> ctypes types.
        agrees: Function that returns whether the library's results agree with torch operations.
    """
    found = compiled(FOLDER / f"{name}.c")
    if found is None:
        return None
    for function, types in arguments.items():
        getattr(found, function).argtypes = list(types)
    with ThreadPoolExecutor(1) as aside:
        return found if aside.submit(agrees, found).result() else None


@functools.cache
def compiled(source: Path) -> ctypes.CDLL | None:
    """The library compiled from a C file, or None if the file cannot be compiled."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)
    if compiler is None or os.environ.get("SCIINF_COMPILE") == "0":
        return None
    headers = [header.read_text() for header in sorted(source.parent.glob("*.h"))]
    text = "\0".join([source.read_text(), *headers, compiler, *_FLAGS, *_processor()])
    name = f"{source.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    try:
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sciinf" / name
        if not place.is_file():
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(compiler, source, place)
        return ctypes.CDLL(str(place))
    except (OSError, RuntimeError, subprocess.SubprocessError):  # No writable folder, or compilation failed.
        return None


def plain(value: Tensor, *others: Tensor) -> bool:
    """Whether the kernels can take all these tensors: float32, on a CPU, not empty, outside `torch.compile`."""
    if torch.compiler.is_compiling() or _off.get() or not value.numel():
        return False
    return all(one.dtype == torch.float32 and one.device.type == "cpu" for one in (value, *others))


@contextmanager
def without_loops() -> Iterator[None]:
    """A `with` block in which this thread uses torch operations instead of kernels, as on a GPU."""
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)


def wave(*size: int) -> Tensor:
    """Deterministic test input for a library: numbers in [-1, 1], independent of torch's defaults and random state."""
    return torch.sin(1.7 * torch.arange(1, 1 + math.prod(size), dtype=torch.float32, device="cpu")).view(size)


def keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """`setup_context` of a function that computes a gradient: save nothing, because a second derivative is refused."""


def refuse(ctx: Any, *gradients: Tensor) -> None:
    """`backward` of a function that computes a gradient: refuse a second derivative.

    Raises:
        RuntimeError: Always. Without this error, torch would take the second derivative for zero.
    """
    raise RuntimeError(
        "a second derivative was requested for a spline, a flow or a perceptron, which have only a first derivative; "
        "for a perceptron, use torch operations: `with sciinf.networks.kernels.library.without_loops():`"
    )


def as_gradient(call: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """Wrap a function that computes gradients, so that `torch.vmap` can map it over the members of an ensemble."""

    class Gradient(torch.autograd.Function):
        @staticmethod
        def forward(*given: Any) -> tuple[Tensor, ...]:
            return call(*given)

        setup_context, backward = staticmethod(keep_nothing), staticmethod(refuse)

        @staticmethod
        def vmap(info: Any, axes: tuple[int | None, ...], *given: Any) -> tuple[Any, Any]:
            found = Gradient.apply(*led(info, axes, given))
            return found, (0,) * len(found)

    return Gradient.apply


def led(info: Any, axes: tuple[int | None, ...], inputs: tuple[Any, ...]) -> list[Any]:
    """Arguments of a function mapped by `torch.vmap`, with the mapped axis moved to the front of every tensor.

    Args:
        info: Information of `torch.vmap`, with the number of members as `batch_size`.
        axes: Mapped axis of each argument. An argument with None is repeated for every member.
        inputs: Arguments of the mapped function. Those that are not tensors are passed on unchanged.
    """
    return [
        one if not isinstance(one, Tensor) else one.movedim(axis, 0) if axis is not None
        else one.expand(info.batch_size, *one.shape)
        for one, axis in zip(inputs, axes, strict=True)
    ]  # fmt: skip


def each(call: Callable[..., Any], axes: int, *tensors: Tensor) -> Any:
    """Result of `call`, for one set of tensors or stacked over the members of an ensemble.

    Args:
        call: Function of one set of tensors; it returns a tensor or a tuple of tensors.
        axes: Number of axes of the first tensor without members. If the tensor has more, all tensors have leading
            member axes.
        tensors: Arguments of `call`.
    """
    if tensors[0].ndim == axes:
        return call(*tensors)
    members = together(lambda one: _each(call, axes, one), list(zip(*tensors, strict=True)))
    if isinstance(members[0], Tensor):
        return torch.stack(members)
    return tuple(map(torch.stack, zip(*members, strict=True)))


def _each(call: Callable[..., Any], axes: int, tensors: tuple[Tensor, ...]) -> Any:
    with torch.no_grad():  # Torch keeps this mode separately for each thread.
        return each(call, axes, *tensors)


def close(found: Sequence[Tensor], right: Sequence[Tensor], error: float) -> bool:
    """Whether each array agrees with its reference within `error`, relative to the largest entry of the reference."""
    pairs = zip(found, right, strict=True)
    return all(bool((a - b.detach()).abs().max() <= error * b.detach().abs().max()) for a, b in pairs)


def _make(compiler: str, source: Path, place: Path) -> None:
    """Compile into a temporary file and rename it to `place`, because another process may compile the same file."""
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        made = Path(folder) / place.name
        for native in (("-march=native",), ()):
            words = [compiler, *_FLAGS, *native, str(source), "-o", str(made), "-lm"]
            if subprocess.run(words, capture_output=True, timeout=_LONGEST, check=False).returncode == 0:
                break
        made.replace(place)


def _processor() -> tuple[str, ...]:
    """Description of this processor for the library's name: machines of a cluster may share one home folder."""
    flags = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return platform.system(), platform.machine(), platform.processor(), flags
