"""An unfinished training on disk: named groups of tensors and a JSON header, replaced whole now and then."""

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

SHARE = 0.05  # of the time, at most, goes into writing


class Checkpoints:
    """Keeps the latest state of a training in memory and, as often as is cheap, on disk.

    A training that raises calls `flush` and loses nothing since its latest state; one that is killed loses what came
    since the latest file: about twenty times what it takes to write one, or what lies between two validations where
    that is more, for only then is there a state to keep.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: tuple[Mapping[str, Any], Groups] | None = None
        self._due = 0.0

    def keep(self, about: Mapping[str, Any], groups: Groups) -> bool:
        """Take a copy of a state, and write it if that is due.

        Args:
            about: Plain JSON values; not changed afterwards.
            groups: Group -> name -> tensor; a group's name has no slash.

        Returns:
            Whether it was written.

        Raises:
            OSError: If it cannot be written.
        """
        copied = {g: {name: value.detach().clone() for name, value in vs.items()} for g, vs in groups.items()}
        self._kept = (about, copied)
        return time.monotonic() >= self._due and self.flush()

    def flush(self) -> bool:
        """Write what is kept and not yet on disk; whether there was anything.

        Raises:
            OSError: If it cannot be written.
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
        """Remove the file: the training is done."""
        self._kept = None
        self.path.unlink(missing_ok=True)


def write_checkpoint(path: Path, about: Mapping[str, Any], groups: Groups) -> None:
    """Write durably, with a digest of everything: a kill or a full disk leaves the checkpoint before.

    Args:
        path: The file.
        about: Plain JSON values.
        groups: Group -> name -> tensor; a group's name has no slash.

    Raises:
        OSError: If it cannot be written.
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
    """The header and the groups of a training, on a device.

    Args:
        path: The file.
        inputs: What the header must have as `inputs`; a checkpoint of another training is not read.
        device: Where the tensors go.

    Returns:
        Header and groups; None if there is no checkpoint of this training.

    Warns:
        UserWarning: If the file is damaged, or of another training.
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
    """Of a header and tensors on the CPU."""
    found = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
