"""Processes that a launcher such as torchrun has started, found by the environment variables that PyTorch uses.

`WORLD_SIZE` processes have the numbers `RANK`, and `LOCAL_RANK` counts those on one machine. They find each other
at `MASTER_ADDR` and `MASTER_PORT`. If a program has begun a process group of torch itself, that group is used.
"""

from __future__ import annotations

import atexit
import functools
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch

from sciinf.campaigns.interrupts import interruptible
from sciinf.core.telling import hushed
from sciinf.training.parallel import Processes, Several, SingleProcess
from sciinf.training.recipe import Recipe

TIMEOUT = timedelta(minutes=10)  # A process waits this long for another. A process that dies is noticed at once.


def launched() -> int:
    """Number of processes that a launcher started to train together, or 1 without a launcher.

    Raises:
        ValueError: If the environment gives the number of processes, but not this process's number or the address.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    said = os.environ.get("WORLD_SIZE", "1")
    if not said.isdecimal() or int(said) < 2:
        return 1
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise ValueError(
            f"WORLD_SIZE={said} says that {said} processes train together, but {', '.join(missing)} is not set: start "
            "them with torchrun, or unset WORLD_SIZE to train in one process"
        )
    return int(said)


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Context with the processes that train together, or this process alone; all processes must enter it.

    Inside, with several processes, Ctrl-C and SIGTERM raise `KeyboardInterrupt`, so that a launcher can end them
    cleanly. All processes but the first are silent.

    Args:
        device: Device to train on, as in a recipe.

    Raises:
        ValueError: If the environment is incomplete, or processes cannot train together on such a device.
        ConnectionError: If the other processes do not come.
    """
    if launched() == 1:
        yield SingleProcess()
        return
    own = torch.device(own_device(device))
    with ExitStack() as stack:
        if own.type == "cuda":
            stack.enter_context(torch.cuda.device(own))
        words = _gloo()
        processes = Several(
            words, _nccl() if own.type == "cuda" else words, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        )
        stack.enter_context(interruptible())
        if not processes.first:
            stack.enter_context(hushed())
        yield processes


def own_device(device: str) -> str:
    """The device of this process: the CUDA device with the process's number on its machine, or the CPU.

    Raises:
        ValueError: If several processes cannot have such devices.
    """
    kind = torch.device(device)
    if kind.type == "cpu":
        return device
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if kind.type != "cuda" or kind.index not in (None, number):
        raise ValueError(
            f"several processes cannot train on {device!r}; give 'cpu', or 'cuda' for one device each, or train in one "
            "process"
        )
    if number >= there:
        raise ValueError(
            f"process {number} on {socket.gethostname()} has no CUDA device of its own, for there are {there}; start "
            f"them with torchrun --nproc-per-node {there}"
        )
    return f"cuda:{number}"


def on_own_device(recipe: Recipe, processes: Processes) -> Recipe:
    """The recipe with the device of this process."""
    return recipe if processes.count == 1 else replace(recipe, device=own_device(recipe.device))


# The answer is cached: a signal may end the process after it has asked and before it reports, and it then asks again.
@functools.cache
def speaks_first() -> bool:
    """Whether this process is the first to report a failure, so that the others need not. It waits for no process."""
    if not _store.cache_info().currsize or (store := _store()) is None:
        return True
    try:
        return store.add(f"failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except (RuntimeError, ValueError):  # The store is gone with the process that kept it.
        return True


@functools.cache
def _store() -> Any:
    """The launcher's key-value store for its processes, or None if the program began the group itself."""
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    if distributed.is_initialized():
        return None
    store, rank, count = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=TIMEOUT)
    atexit.register(_leave)
    return store


@functools.cache
def _gloo() -> Any:
    from torch import distributed

    try:
        _store()
        return distributed.new_group(backend="gloo", timeout=TIMEOUT)
    except RuntimeError as error:
        raise ConnectionError(
            f"not all {os.environ.get('WORLD_SIZE', '')} processes that were started to train together (WORLD_SIZE) "
            f"have come within {TIMEOUT.total_seconds():.0f} s, or they cannot reach each other; each must call "
            "`train`, and GLOO_SOCKET_IFNAME names the network between machines"
        ) from error


@functools.cache
def _nccl() -> Any:
    from torch import distributed

    return distributed.new_group(backend="nccl", timeout=TIMEOUT)


def _leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
