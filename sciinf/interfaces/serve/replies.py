"""JSON replies of the service: `answer.json` with the verdict in words, and the parts that were requested."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sciinf.interfaces.figures.verdicts import cards, verdict_of
from sciinf.interfaces.serve.models import Model, NotReady
from sciinf.interfaces.serve.stored import checked_here
from sciinf.interfaces.serve.wire import unpack

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def reply(model: Model, message: bytes, about: Mapping[str, Any], include: Sequence[str]) -> dict[str, Any]:
    """JSON reply with an answer and its verdict.

    Args:
        model: The model that answered.
        message: The answer, as `answering.answered` returns it.
        about: Further entries: the answer's id and level, and whether checks by the simulator were requested.
        include: Parts of the answer to include: "draws", "predictive".

    Raises:
        NotReady: If the answer is of another network, calibration or simulator than the model's.
    """
    head, arrays = unpack(message)
    check_same(head, model)
    said = head["answer"]
    found = model.run(model.folder / head["where"])
    verdict = verdict_of(replace(found, answer=said))
    findings = [
        {**one.to_json(), "text": card.clause, "weaker": verdict.is_weaker(one)}
        for one, card in zip(verdict.findings, cards(verdict), strict=True)
    ]
    strange = [{**one, "index": one["start"]} for one in said["trust"].get("where", ())]
    out = {
        **said,
        **about,
        "model": model.name,
        "around": head["where"].partition("refined/")[2],
        "name": said["observation"]["name"],
        "files": said["observation"]["files"],
        "count": said["draws"],
        **verdict.to_json(),
        "word": verdict.word,
        "findings": findings,
        "checked": any(map(checked_here, verdict.findings)) or about.get("checked", False),
        "seed": head["seed"],
        "stored": head["stored"],
        "strange": strange,
        "observation": {name[2:]: value.tolist() for name, value in arrays.items() if name.startswith("x/")},
    }
    del out["draws"]
    if "draws" in include:
        out["draws"] = _draws(head, arrays)
    predicted = {name[2:]: value for name, value in arrays.items() if name.startswith("p/")}
    if "predictive" in include and predicted:
        out["predictive"] = {name: _quantiles(value) for name, value in predicted.items()}
    return out


def check_same(head: Mapping[str, Any], model: Model) -> None:
    """Refuse the answer of a worker that was started after the run was trained or calibrated anew.

    Args:
        head: Head of the answer's message.
        model: The run as the service has opened it, by which the service judges answers.

    Raises:
        NotReady: If the answer is of another network, calibration or simulator than the model's.
    """
    if head.get("digest") != model.digest:
        raise NotReady(f"{model.name} was trained or calibrated anew since the service began: begin the service anew")


def _draws(head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    theta, weight = arrays["theta"], arrays["log_weight"]
    weighted = len(weight) and float(weight.max()) > float(weight.min())
    # NaN means that a parameter does not exist in a draw.
    kind = "float64" if theta.dtype == np.float64 else "float32"  # A prior has float64 where float32 is too coarse.
    return {
        "names": head["names"],
        "units": head["units"],
        "derived": head["derived"],
        "labels": head["labels"],
        "categories": head["categories"],
        "count": len(theta),
        kind: _base64(theta, kind),
        "log_weights": _base64(weight - weight.max(), "float32") if weighted else None,
    }


def _base64(values: np.ndarray, kind: str) -> str:
    """Base64 text of an array's numbers, little-endian, in the given dtype, row by row."""
    return base64.b64encode(np.ascontiguousarray(values, np.dtype(kind).newbyteorder("<")).tobytes()).decode()


def _quantiles(values: np.ndarray) -> dict[str, Any]:
    found = np.nanquantile(values.astype(float), QUANTILES, axis=0)
    return {"quantiles": list(QUANTILES), "values": found.tolist()}
