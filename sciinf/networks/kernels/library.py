"""C that is compiled once on a machine, and kept: loops for which torch has no single operation.

A file of this folder is compiled by the machine's own C compiler (`CC`, cc, gcc or clang), for its own processor, as it
is first needed, into `~/.cache/sciinf` (`XDG_CACHE_HOME`); that takes two seconds. Where there is no compiler, or
nothing can be written, there is no library, and torch's own operations do the same, only slower. So they do with
`SCIINF_COMPILE=0`. Before a library is used it must agree with torch's operations.

Why C and not numba: numba took 16 s to compile such loops, and is one more package; torch.compile took 50 s for a step.
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
_LONGEST = 120  # s that a compiler may take
_off: ContextVar[bool] = ContextVar("_off", default=False)


def library(
    name: str, arguments: Mapping[str, Sequence[Any]], agrees: Callable[[ctypes.CDLL], bool]
) -> ctypes.CDLL | None:
    """A library whose functions have been looked at; None where there is none.

    They are looked at in another thread, which has none of the transforms, precisions and modes of torch that the
    caller may be in.

    Args:
        name: Of its C file.
        arguments: Types of what each function takes.
        agrees: Whether it does as torch's operations do.
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
    """The library of a C file; None where it cannot be made."""
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
    except (OSError, RuntimeError, subprocess.SubprocessError):  # no folder, no home, no success
        return None


def plain(value: Tensor, *others: Tensor) -> bool:
    """Whether loops can take all of these: in single precision, on a CPU, and not as something that torch compiles."""
    if torch.compiler.is_compiling() or _off.get() or not value.numel():
        return False
    return all(one.dtype == torch.float32 and one.device.type == "cpu" for one in (value, *others))


@contextmanager
def without_loops() -> Iterator[None]:
    """A `with` block in which torch's operations serve, as on a GPU; for this thread."""
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)


def wave(*size: int) -> Tensor:
    """Numbers to look at a library with: in [-1, 1], whatever torch's defaults and its state of randomness are."""
    return torch.sin(1.7 * torch.arange(1, 1 + math.prod(size), dtype=torch.float32, device="cpu")).view(size)


def keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """`setup_context` of a gradient, which is a function of its own so that it can be mapped, and has no gradient."""


def refuse(ctx: Any, *gradients: Tensor) -> None:
    """`backward` of such a gradient.

    Raises:
        RuntimeError: Always: left out, a second derivative would be taken for zero.
    """
    raise RuntimeError(
        "a second derivative was asked for of a spline, a flow or a perceptron, which have the first one alone; of a "
        "perceptron torch has it: `with sciinf.networks.kernels.library.without_loops():`"
    )


def as_gradient(call: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """A function that computes gradients, as one that can be mapped over the members of an ensemble."""

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
    """Inputs of a function that is mapped over the members of an ensemble: these are one more leading axis."""
    return [
        one if not isinstance(one, Tensor) else one.movedim(axis, 0) if axis is not None
        else one.expand(info.batch_size, *one.shape)
        for one, axis in zip(inputs, axes, strict=True)
    ]  # fmt: skip


def each(call: Callable[..., Any], axes: int, *tensors: Tensor) -> Any:
    """Call for each member of an ensemble, where the first tensor has more than its own number of axes, and all do."""
    if tensors[0].ndim == axes:
        return call(*tensors)
    members = together(lambda one: _each(call, axes, one), list(zip(*tensors, strict=True)))
    if isinstance(members[0], Tensor):
        return torch.stack(members)
    return tuple(map(torch.stack, zip(*members, strict=True)))


def _each(call: Callable[..., Any], axes: int, tensors: tuple[Tensor, ...]) -> Any:
    with torch.no_grad():  # for each thread by itself
        return each(call, axes, *tensors)


def close(found: Sequence[Tensor], right: Sequence[Tensor], error: float) -> bool:
    """Whether arrays are those that are right but for an error relative to their largest number."""
    pairs = zip(found, right, strict=True)
    return all(bool((a - b.detach()).abs().max() <= error * b.detach().abs().max()) for a, b in pairs)


def _make(compiler: str, source: Path, place: Path) -> None:
    """Compile into a file of another name, which is then renamed: another process may be doing the same."""
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        made = Path(folder) / place.name
        for native in (("-march=native",), ()):
            words = [compiler, *_FLAGS, *native, str(source), "-o", str(made), "-lm"]
            if subprocess.run(words, capture_output=True, timeout=_LONGEST, check=False).returncode == 0:
                break
        made.replace(place)


def _processor() -> tuple[str, ...]:
    """What a library for this processor depends on: machines of a cluster share a home, and may differ."""
    flags = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return platform.system(), platform.machine(), platform.processor(), flags
