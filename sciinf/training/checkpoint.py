"""Checkpoint of an unfinished training: a file of named groups of tensors and a JSON header, replaced as a whole."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciinf.core.files import write_bytes

Groups = Mapping[str, Mapping[str, Tensor]]

SHARE = 0.05  # Writing takes at most this share of the time.


class Checkpoints:
    """The latest state of a training, kept in memory and, as often as is cheap, written to disk.

    A training that raises calls `flush`, and loses nothing since its latest state. A training that is killed loses what
    came since the latest file. This is about twenty times the time of one write, or the time between two validations if
    that is longer, because there is a state to keep only after a validation.

    Args:
        path: The checkpoint file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: tuple[Mapping[str, Any], Groups] | None = None
        self._due = 0.0

    def keep(self, about: Mapping[str, Any], groups: Groups) -> bool:
        """Keep a copy of a state, and write it if a write is due.

        Args:
            about: Header, as plain JSON values. It must not be changed afterwards.
            groups: Tensors by group and name: group -> name -> tensor. A group's name has no slash.

        Returns:
            Whether the state was written.

        Raises:
            OSError: If the file cannot be written.
        """
        copied = {g: {name: value.detach().clone() for name, value in vs.items()} for g, vs in groups.items()}
        self._kept = (about, copied)
        return time.monotonic() >= self._due and self.flush()

    def flush(self) -> bool:
        """Write the state that is kept and not yet on disk, and return whether there was one.

        Raises:
            OSError: If the file cannot be written.
        """
        if self._kept is None:
            return False
        started = time.monotonic()
        write_checkpoint(self.path, *self._kept)
        self._kept = None
        ended = time.monotonic()
        self._due = ended + (ended - started) / SHARE
        return True

    def clear(self) -> None:
        """Remove the file, because the training is done."""
        self._kept = None
        self.path.unlink(missing_ok=True)


def write_checkpoint(path: Path, about: Mapping[str, Any], groups: Groups) -> None:
    """Write a checkpoint durably, with a digest of everything. After a kill or on a full disk the checkpoint before
    remains.

    Args:
        path: The checkpoint file.
        about: Header, as plain JSON values.
        groups: Tensors by group and name: group -> name -> tensor. A group's name has no slash.

    Raises:
        OSError: If the file cannot be written.
    """
    from safetensors.torch import save

    tensors = {
        f"{group}/{name}": value.detach().cpu().clone().contiguous()
        for group, values in groups.items()
        for name, value in values.items()
    }
    header = json.dumps(about)
    write_bytes(path, save(tensors, {"sciinf": header, "sha256": _digest(header, tensors)}))


def read_checkpoint(path: Path, inputs: str, device: str) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """Header and groups of tensors of an unfinished training.

    Args:
        path: The checkpoint file.
        inputs: Digest that the header must have as `inputs`. A checkpoint of another training is not read.
        device: Device for the tensors.

    Returns:
        Header and groups, or None if there is no checkpoint of this training.

    Warns:
        UserWarning: If the file is damaged, or belongs to another training.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        about = json.loads(metadata["sciinf"])
        if metadata["sha256"] != _digest(metadata["sciinf"], tensors):
            raise ValueError("its content is not what was written")
        if about["inputs"] != inputs:
            warnings.warn(
                f"{path} is an unfinished training of another estimator, store, recipe or seed, which is given up",
                stacklevel=2,
            )
            return None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        warnings.warn(f"{path} is damaged ({error}), so training starts anew", stacklevel=2)
        return None
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = value.to(device)
    return about, groups


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a header and of tensors on the CPU."""
    found = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
