"""Reads the questions in a request body: observations from JSON or from files, with level, draws and seed.

Files are written into a private folder, which is removed once they are read. Their names are kept as text, without the
characters that make up paths.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sciinf.core import Finding, Observation, Prior, as_observation
from sciinf.core.files import sha256_of
from sciinf.interfaces.given_files import observations
from sciinf.interfaces.question import QueryOptions
from sciinf.interfaces.run_answers import observation_name
from sciinf.interfaces.serve.models import Model, as_given

KINDS = (".csv", ".ecsv", ".fits", ".fit", ".h5", ".hdf5", ".json", ".nc", ".npy", ".npz", ".txt")
"""Files that are read when they come from outside. A `.pt` file is not."""
PARTS = ("draws", "predictive")
DRAWS = 2_000
"""Number of draws of an answer where a request names none."""
_FIELDS = ("x", "observation", "observations", "level", "draws", "seed", "checks", "include", "name", "column")
_SEED = 2**63
_COLUMN = re.compile(r"or say which one it is: --column .*columns=\{([^:]*): .*$")  # Advice on the command line.
_FILES = 64


class Unreadable(ValueError):
    """The request body itself cannot be read."""


class Unfit(ValueError):
    """A request was read, but its question cannot be asked; `field` names the wrong field, if that is known."""

    def __init__(self, words: str, field: str | None = None) -> None:
        ValueError.__init__(self, words)
        self.field = field


class TooMuch(ValueError):
    """A request asks for more than the service gives at once."""


@dataclass(frozen=True)
class RequestLimits:
    """Largest request that the service accepts.

    Args:
        draws: Largest number of draws of all observations together.
        observations: Largest number of observations.
    """

    draws: int = 100_000
    observations: int = 64


@dataclass(frozen=True)
class ObservationRequest:
    """One observation that is asked about, with the options of the query.

    Args:
        x: Observable name -> array (*event).
        read: How the values were read from files.
        wanted: Options of the query.
        findings: Findings that arose when the observation was read.
    """

    x: Mapping[str, np.ndarray]
    read: tuple[str, ...]
    wanted: QueryOptions
    findings: tuple[Finding, ...] = ()

    @property
    def told(self) -> dict[str, Any]:
        """How the observation was read, and the findings that arose then, as entries of a message."""
        return {"read": list(self.read), "findings": [one.to_json() for one in self.findings]}


@dataclass(frozen=True)
class Questions:
    """All questions of one request.

    Args:
        each: The observations, each with the options of its query.
        several: Whether the request has several observations, so that the reply is a list of answers.
        include: Parts of the answers that are requested beside the estimates.
    """

    each: tuple[ObservationRequest, ...]
    several: bool
    include: tuple[str, ...]


def from_json(body: bytes, model: Model, bounds: RequestLimits) -> Questions:
    """Read the questions in a JSON body.

    Raises:
        Unreadable: If the body is no JSON object.
        Unfit: If a field is unknown, missing, or has a value that cannot be asked.
        TooMuch: If the request exceeds `bounds`.
    """
    said = json_object(body)
    _check_fields(said, [name for name in _FIELDS if name != "column"])
    given = [name for name in ("x", "observation", "observations") if said.get(name) is not None]
    if len(given) != 1:
        what = "x, observation or observations"
        raise Unfit(f"give one of {what}, got {' and '.join(given) or 'none of them'}", given[0] if given else "x")
    wanted = _wanted(said, model)
    name = said.get("name")
    if given == ["observation"]:
        known = model.known
        if not isinstance(said["observation"], str) or said["observation"] not in known:
            there = ", ".join(known) or "none"
            raise Unfit(f"the run has answered no observation of that name; it has {there}", "observation")
        found = as_given(known[said["observation"]])
        return _asked([(said["observation"], {}, found)], False, wanted, model, bounds)
    if given == ["x"]:
        return _asked([(_name(name), {}, said["x"])], False, wanted, model, bounds)
    if not isinstance(said["observations"], list) or not said["observations"]:
        raise Unfit("observations is a list of one or more", "observations")
    _check_count(len(said["observations"]), bounds)
    named = [(f"{_name(name)}-{k + 1}", {}, x) for k, x in enumerate(said["observations"])]
    return _asked(named, True, wanted, model, bounds)


def from_files(
    files: Sequence[tuple[str, bytes]], fields: Mapping[str, str], model: Model, bounds: RequestLimits
) -> Questions:
    """Read the questions in files, with the same fields as in JSON.

    Args:
        files: Name and content of each file.
        fields: Form fields, name -> text.
        model: The model that is asked.
        bounds: Largest request that is accepted.

    Raises:
        Unreadable: If there is no file, or the text of a field cannot be read.
        Unfit: If a file holds no observation of this simulator; the message names the file. Or if a field has a value
            that cannot be asked.
        TooMuch: If the request exceeds `bounds`, or has too many files.
    """
    if not files:
        raise Unreadable("no file came with the request; send one or more, each as a part called 'file'")
    if len(files) > _FILES:
        raise TooMuch(f"{len(files)} files came at once; send at most {_FILES}")
    said = {name: _value(name, text) for name, text in fields.items()}
    _check_fields(said, _FIELDS[3:])
    columns = said.get("column") or {}
    if not isinstance(columns, dict) or not all(isinstance(value, str) for value in columns.values()):
        raise Unreadable('column is an object such as {"v": "SAP_FLUX"}')
    found = _observations(files, columns, model)
    if said.get("name") is not None:
        if len(found) > 1:
            raise Unfit(
                f"name is what one observation is called, and the files hold {len(found)}; leave it out", "name"
            )
        found = [(_name(said["name"]), *found[0][1:])]
    return _asked(found, len(found) > 1, _wanted(said, model), model, bounds)


def _observations(files: Sequence[tuple[str, bytes]], columns: Mapping[str, str], model: Model) -> list[Any]:
    """Name, file hashes and values of each observation in some files."""
    hashes: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="sciinf-") as folder:
        paths = []
        for given, content in files:
            name = file_name(given)
            if name in hashes:
                raise Unfit(f"the file {name} is given twice; name each file once", "file")
            hashes[name] = sha256_of(content)
            path = Path(folder) / name
            path.write_bytes(content)
            paths.append(str(path))
        try:
            asked = observations(model.observables, lambda *some: model.read(some, columns), paths)
        except Exception as error:  # The reader may be the user's own code.
            words = re.sub(re.escape(folder) + r"[/\\]?", "", " ".join(str(error).split()) or type(error).__name__)
            raise Unfit(_COLUMN.sub(r"or name it in the field column: {\1: NAME}", words), "file") from None
        stems = [Path(one.files[0]).stem for one in asked]
        found = []
        for one, stem in zip(asked, stems, strict=True):
            own = [Path(file).name for file in one.files]
            whole = observation_name([own[0].replace(".", "_")])  # So cell.csv and cell.ecsv get different names.
            name = one.name if stems.count(stem) == 1 else whole
            found.append((name, {file: hashes[file] for file in own}, one.x))
        return found


def file_name(given: str) -> str:
    """Name of a file without the characters that make up paths.

    Raises:
        Unfit: If the service does not read files of this kind.
    """
    name = re.sub(r"[^\w.+@=-]", "_", re.split(r"[/\\]", given)[-1])[-120:].lstrip(".") or "file"
    if not name.lower().endswith(KINDS):
        raise Unfit(f"{name}: unknown kind of file; expected one of {', '.join(KINDS)}", "file")
    return name


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        Unreadable: If the body is no JSON object.
    """
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as error:
        words = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Unreadable(f"the body is no JSON: {words}") from None
    if not isinstance(said, dict):
        raise Unreadable(f"the body is a JSON object, got {type(said).__name__}")
    return said


def _value(name: str, text: str) -> Any:
    """Value of a form field, read as JSON; but `name` is plain text, and `include` may be a list with commas."""
    if name == "name":
        return text
    if name == "include" and not text.strip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable(f"{name[:80]} is {text[:80]!r}, which is no number and no JSON") from None


def _wanted(said: Mapping[str, Any], model: Model) -> tuple[QueryOptions, tuple[str, ...]]:
    level, draws, seed = said.get("level", 0.9), said.get("draws", DRAWS), said.get("seed", 0)
    checks, include = said.get("checks", False), said.get("include") or []
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise Unfit(f"level is a probability between 0 and 1, got {_short(level)}", "level")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise Unfit(f"an answer needs at least one draw, got draws={_short(draws)}", "draws")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _SEED:
        raise Unfit(f"seed is a whole number from 0 to 2^63 - 1, got {_short(seed)}", "seed")
    if not isinstance(checks, bool):
        raise Unfit(f"checks is true or false, got {_short(checks)}", "checks")
    if not isinstance(include, list) or any(part not in PARTS for part in include):
        raise Unfit(f"include lists some of {', '.join(PARTS)}, got {_short(include)}", "include")
    if checks and model.simulator is None:
        why = model.source.without or "none was given"
        raise Unfit(f"there is no simulator to check answers with ({why}); ask with checks false", "checks")
    return QueryOptions(float(level), draws, seed, predicted=checks), tuple(include)


def _asked(
    found: Sequence[tuple[str, Mapping[str, str], Any]],
    several: bool,
    wanted: tuple[QueryOptions, tuple[str, ...]],
    model: Model,
    bounds: RequestLimits,
) -> Questions:
    _check_count(len(found), bounds)
    if (total := wanted[0].draws * len(found)) > bounds.draws:
        raise TooMuch(f"{total:,} draws were asked for; this service gives at most {bounds.draws:,} at once")
    each = []
    for name, files, x in found:
        try:
            values = as_observation(model.observables, _arrays(x))
        except (ValueError, TypeError, OverflowError) as error:
            raise Unfit(" ".join(str(error).split()), "x") from None
        read, findings = (x.read, x.findings) if isinstance(x, Observation) else ((), ())
        want = QueryOptions(**{**_plain(wanted[0]), "name": name, "files": files})
        each.append(ObservationRequest({key: value[0].numpy() for key, value in values.items()}, read, want, findings))
    return Questions(tuple(each), several, wanted[1])


def _plain(wanted: QueryOptions) -> dict[str, Any]:
    return {name: getattr(wanted, name) for name in ("level", "draws", "seed", "failures", "predicted")}


def _arrays(x: Any) -> Any:
    """Convert nested lists to arrays; text or objects among the numbers are left for `as_observation` to refuse."""
    if isinstance(x, Observation) or not isinstance(x, dict):
        return x if isinstance(x, Observation) else _array(x)
    return {str(name): _array(value) for name, value in x.items()}


def _array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError("an array has rows of different lengths; give nested lists of one shape") from None


def _check_count(count: int, bounds: RequestLimits) -> None:
    if count > bounds.observations:
        raise TooMuch(
            f"{count} observations were asked about; this service takes at most {bounds.observations} at once"
        )


def _check_fields(said: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := sorted(set(said) - set(known)):
        raise Unfit(f"there is no field {unknown[0][:80]!r}; there is {', '.join(known)}", unknown[0][:80])


def _name(name: Any) -> str:
    if name is not None and not isinstance(name, str):
        raise Unfit(f"name is text, got {_short(name)}", "name")
    return observation_name([name[:200]]) if name and name.strip() else "observation"


def _short(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 80 else words[:77] + "..."


def parameters(body: bytes, model: Model) -> tuple[dict[str, float], int, Mapping[str, np.ndarray]]:
    """Read the parameters, the seed and the observation of a simulation that a body requests.

    A discrete parameter is given by its label, and null means that a parameter does not exist. A simulator with
    `Simulator.like` makes data as the observation has them: at its times, under its controls. For any other simulator,
    the field `x` is ignored, and no observation is returned.

    Raises:
        Unreadable: If the body is no JSON object.
        Unfit: If a parameter is missing, unknown, not a finite number, or outside the prior's support; or if the
            simulator needs an observation, and x is none.
    """
    import torch

    said, prior = json_object(body), model.prior
    theta, seed = said.get("theta"), said.get("seed", 0)
    if not isinstance(theta, dict) or set(theta) != set(prior.names):
        raise Unfit(f"theta names a value for each of {', '.join(prior.names)}", "theta")
    theta = _numbers_of(theta, prior)
    for name, value in theta.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
            raise Unfit(f"{name} is a finite number, got {_short(value)}", name)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _SEED:
        raise Unfit(f"seed is a whole number from 0 to 2^63 - 1, got {_short(seed)}", "seed")
    try:
        found = {name: math.nan if theta[name] is None else float(theta[name]) for name in prior.names}
    except OverflowError:
        raise Unfit("a value is too large for a number", "theta") from None
    values = torch.tensor([list(found.values())], dtype=prior.dtype)
    if not bool(prior.log_prob(values).isfinite().all()):
        words = ", ".join(f"{name}={value:g}" for name, value in found.items())
        raise Unfit(f"{words} lies outside the prior's support, where nothing was simulated", "theta")
    return found, seed, _seen(said, model)


def _seen(said: Mapping[str, Any], model: Model) -> Mapping[str, np.ndarray]:
    """The observation whose times and controls a simulation takes over; empty if the simulator has no `like`."""
    if model.simulator is None or model.simulator.like is None:
        return {}
    if said.get("x") is None:
        words = "times, missing values and controls differ from record to record, so data at others are no comparison"
        raise Unfit(f"{words}: give the observation as x, and data are simulated under its conditions", "x")
    return _asked([("x", {}, said["x"])], False, _wanted({"draws": 1}, model), model, RequestLimits()).each[0].x


def _numbers_of(theta: Mapping[str, Any], prior: Prior) -> dict[str, Any]:
    """Parameters with numbers in place of labels, and None for each parameter that does not exist.

    Raises:
        Unfit: If a label is unknown, if a parameter has a value but does not exist, or if it exists and has none.
    """
    import torch

    found = dict(theta)
    for name, law in prior.discrete().items():
        if theta[name] is not None:
            if str(theta[name]) not in law.labels:
                words = f"{name} is one of {', '.join(law.labels)}, got {_short(theta[name])}"
                raise Unfit(words, name)
            found[name] = float(law.values[law.labels.index(str(theta[name]))])
    if prior.mixed:
        codes = [
            found[name] if name in prior.discrete() and found[name] is not None else math.nan for name in prior.names
        ]
        there = prior.present(torch.tensor([codes], dtype=torch.float64))[0].tolist()
    else:
        there = [True] * len(prior)
    for name, exists in zip(prior.names, there, strict=True):
        if exists != (found[name] is not None):
            said = "is a finite number, got None" if exists else "does not exist with these values: give null"
            raise Unfit(f"{name} {said}", name)
    return found
