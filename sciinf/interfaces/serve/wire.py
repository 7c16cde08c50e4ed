"""Binary messages between processes, which are also the format of kept questions: a JSON head, and arrays as bytes.

A message consists of the length of its head (8 bytes), the head, and the arrays one after the other. The head lists the
name, dtype and shape of each array. Nothing is pickled, so no message can run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sciinf.core import Answer, Calibration, Draws, Finding, Observable
from sciinf.core.categories import Categories
from sciinf.core.files import finite_json

MEDIA = "application/x-sciinf-answer"
"""What a client accepts that takes answers as messages."""
_KINDS = "biuf"
_LENGTH = 8


def pack(head: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    """Build a message.

    Args:
        head: Values that JSON can hold; numbers that are not finite become null.
        arrays: Name -> array of numbers.
    """
    whole = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    specs = [[name, array.dtype.str, list(np.shape(arrays[name]))] for name, array in whole.items()] if arrays else []
    said = json.dumps({"head": finite_json(dict(head)), "arrays": specs}, allow_nan=False).encode()
    return b"".join([len(said).to_bytes(_LENGTH, "little"), said, *(array.tobytes() for array in whole.values())])


def unpack(message: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Head and arrays of a message.

    Raises:
        ValueError: If the bytes are no complete message.
    """
    size = int.from_bytes(message[:_LENGTH], "little")
    try:
        said = json.loads(message[_LENGTH : _LENGTH + size])
        place, arrays = _LENGTH + size, {}
        for name, kind, shape in said["arrays"]:
            dtype = np.dtype(kind)
            if dtype.kind not in _KINDS:
                raise ValueError(f"arrays of {kind}")
            count = int(np.prod(shape, dtype=np.int64))
            arrays[name] = np.frombuffer(message, dtype, count, place).reshape(shape)
            place += count * dtype.itemsize
        return said["head"], arrays
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"this is no complete message of sciinf: {error}") from error


def findings_in(head: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Findings in a message that arose when its observation was read."""
    return tuple(Finding.from_json(one) for one in head.get("findings", ()))


def answer_out(answer: Answer) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Head and arrays of a message that holds an answer, without the answer's calibration."""
    draws = answer.draws
    head = {
        "answer": answer.to_json(),
        "names": list(draws.names),
        "units": list(draws.units),
        "derived": list(draws.derived),
        "labels": dict(draws.labels),
        "categories": {name: one.to_json() for name, one in draws.categories.items()},
        "observables": {name: spec.to_json() for name, spec in answer.observables.items()},
    }
    arrays = {"theta": draws.theta.numpy(), "log_weight": draws.log_weight.numpy(), "from": answer.predicted_from}
    arrays |= {f"x/{name}": np.asarray(value) for name, value in answer.observation.items()}
    arrays |= {f"p/{name}": np.asarray(value) for name, value in answer.predictive.items()}
    return head, arrays


def answer_in(head: Mapping[str, Any], arrays: Mapping[str, np.ndarray], calibration: Calibration | None) -> Answer:
    """The answer that a message holds.

    Args:
        head: Head of the message, as `answer_out` returns it.
        arrays: Arrays of the message, as `answer_out` returns them.
        calibration: Calibration of the posterior that answered; None if there is none.

    Raises:
        KeyError: If a part is missing.
        ValueError: If a part has an impossible value.
    """
    said = head["answer"]
    scalars = (said["log_evidence"], said["log_evidence_error"], said["pareto_k"])
    theta, weight = (torch.from_numpy(np.array(arrays[name])) for name in ("theta", "log_weight"))
    names, units = tuple(head["names"]), tuple(head["units"])
    said_of = {"derived": tuple(head["derived"]), "labels": dict(head["labels"])}
    categories = {name: Categories.from_json(one) for name, one in head["categories"].items()}
    draws = Draws(names, units, theta, weight, *scalars, **said_of, categories=categories)
    return Answer.from_json(
        said,
        draws,
        calibration,
        observation={name[2:]: np.array(value) for name, value in arrays.items() if name.startswith("x/")},
        predictive={name[2:]: np.array(value) for name, value in arrays.items() if name.startswith("p/")},
        predicted_from=np.array(arrays["from"]),
        observables={name: Observable.from_json(spec) for name, spec in head["observables"].items()},
    )
