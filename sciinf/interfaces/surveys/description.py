"""`answers.json`: the description of a folder of answers, by which a later command continues it or is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sciinf.campaigns.storage.folder import Folder
from sciinf.core import Calibration, Posterior
from sciinf.core.categories import categories_of
from sciinf.core.code import same_mark
from sciinf.core.files import finite_json, json_text, opened, sealed, sha256_of, versions
from sciinf.core.fit import simulators_of
from sciinf.core.records import said_of
from sciinf.interfaces.question import CHECKS
from sciinf.interfaces.surveys.drawing import RowAnswers
from sciinf.interfaces.surveys.rows import Observations
from sciinf.interfaces.surveys.verdicts import LEVELS
from sciinf.posteriors.ensemble import Ensemble
from sciinf.posteriors.learned import holds_for
from sciinf.posteriors.tilted import layers

NAME, SCHEMA, KIND = "answers.json", 1, "sciinf answers"
_SURVEYED = 1  # This number is increased whenever surveys check or write rows in another way; see CHECKS.
_AVERAGE = (
    "nobody looks whether the network is right at a row: its calibration is an average over the prior, and single "
    "answers may be far off where it passed; ask `sciinf query --simulator` about rows that matter, and some others"
)
_LATER = ("codes", "checked")  # The identity of the first folders of answers does not include these entries.
STATUS = ("answered", "not finite", "the simulation raised", "the simulation ran out of time", "no answer")
_OWN = {
    "posterior": "another posterior",
    "fit": "another fit",
    "calibration_sha256": "another calibration",
    "prior": "another prior",
    "observations_sha256": "other observations",
    "rows": "another number of observations",
    "truth": "another kind of observations",
    "level": "another level",
    "quantiles": "other quantiles",
    "draws": "another number of draws",
    "kept": "another number of draws that are kept",
    "seed": "another seed",
    "failures": "another reading of failed simulations",
    "block": "another number of rows in a block",
    "codes": "another meaning of codes",
    "checked": "another version of what is checked",
}
"""What two commands must have in common to write into one folder."""


def described(answering: RowAnswers, of: Observations, block: int, run: str) -> dict[str, Any]:
    """Content of `answers.json` before any row is answered.

    Args:
        answering: The object that answers the rows.
        of: The observations.
        block: Number of rows in a block.
        run: Origin of the posterior, as a note for readers.
    """
    posterior, calibration, wanted = answering.posterior, answering.judge.calibration, answering.wanted
    about: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": KIND,
        "run": run,
        "posterior": posterior.name,
        "fit": posterior.digest,
        "scope": posterior.scope,
        "prior": posterior.prior.to_json(),
        "values": {name: list(one.labels) for name, one in categories_of(posterior.prior).items()},
        "observations": of.name,
        "observations_sha256": of.digest,
        "rows": of.rows,
        "truth": of.known,
        "level": wanted.level,
        "quantiles": list(wanted.levels),
        "draws": wanted.draws,
        "kept": wanted.kept,
        "seed": wanted.seed,
        "failures": wanted.failures,
        "block": block,
        "calibration": said_of(calibration),
        "calibration_sha256": _hash_of(calibration),
        "codes": {"status": list(STATUS), "trust": list(LEVELS), "checks": list(LEVELS)},
        "checks": [check.to_json() for check in answering.checks.of_all],
        "not_done": not_done(posterior),
        "truths": about_truths(posterior, of),
        "checked": [CHECKS, _SURVEYED],
        "versions": versions(),
    }
    about = finite_json(about)
    return {**about, "survey": identity(about)}


def identity(about: Mapping[str, Any]) -> str:
    """Identity of a survey: SHA-256 of the entries that all blocks of a folder must have in common (`_OWN`)."""
    own = {key: about[key] for key in _OWN if "checked" in about or key not in _LATER}
    return sha256_of(own)


def taken_up(folder: Folder, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Read the description of a folder, or write the wanted description if the folder has none.

    A different description is replaced if the folder has no block yet.

    Raises:
        ValueError: If the folder holds blocks with another description; the message says what differs.
        OSError: If the description cannot be written.
    """
    folder.create(NAME, as_bytes(wanted))
    found = read_about(folder)
    if found["survey"] != wanted["survey"]:
        if not any(name.endswith(".h5") for name in folder.names("blocks")):
            folder.replace(NAME, as_bytes(wanted))
            return read_about(folder)
        other = [words for key, words in _OWN.items() if found.get(key) != wanted[key]]
        way = "the same options as before to go on"
        if found.get("checked") != wanted["checked"]:
            way = f"go on with sciinf {found['versions']['sciinf']}, which began it; `load_answers` reads what is there"
        raise ValueError(
            f"{folder.name} holds answers with {' and '.join(other)}; give another folder (--out), or {way}"
        )
    return found


def check_ours(folder: Folder, survey: str) -> None:
    """Refuse to write into a folder that was taken for other answers.

    Raises:
        ValueError: If the folder now belongs to another survey.
    """
    if read_about(folder)["survey"] != survey:
        raise ValueError(f"{folder.name} was taken for other answers meanwhile; give another folder")


def read_about(folder: Folder) -> dict[str, Any]:
    """Read the `answers.json` of a folder.

    Raises:
        FileNotFoundError: If the folder has no such file.
        ValueError: If the file is damaged, or was written by a newer version.
    """
    try:
        data = json.loads(folder.read(NAME))
        data, sealed_well = opened(data)
        if not sealed_well or data.get("kind") != KIND or data["survey"] != identity(data):
            raise ValueError("it is not what `sciinf query --observations` writes")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder.name} holds no answers to many observations (no {NAME}); make them with `sciinf query RUN "
            f"--observations STORE --out {folder.name}`"
        ) from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{folder.name}/{NAME} is damaged, or was edited by hand: {error}; move it away and run the same command: "
            "blocks that are whole are kept"
        ) from error
    if data["schema"] > SCHEMA:
        raise ValueError(f"{folder.name} was written by a newer version of sciinf (schema {data['schema']})")
    return data


def as_bytes(about: Mapping[str, Any]) -> bytes:
    """Bytes of `answers.json`, with a hash of its content."""
    return (json_text(sealed(about)) + "\n").encode()


def not_done(posterior: Posterior) -> list[str]:
    """Sentences on what `query` does for a single observation, but a survey does not do."""
    found = [
        "no data are simulated from the answers and compared with the observations, and nobody looks which numbers of "
        "an observation are strange",
        "intervals are those of the draws, not corrected by what the calibration found",
        "no row is refined by simulations of its own, and refined answers of the run are not used",
        "quantities that a simulator derives from the parameters are left out",
    ]
    if len(layers(posterior)) == 1:
        found.insert(0, _AVERAGE)
        found.append("answers are of what was learned alone: no likelihood weights them, also where it is known")
    if posterior.prior.mixed:
        far = ", nor how far the network alone is from it" if len(layers(posterior)) > 1 else ""
        found.append(f"nobody looks what the most probable model leaves unexplained of a row{far}")
    if isinstance(posterior, Ensemble):
        found.append("nobody looks how much the members of the ensemble differ about a row")
    return found


def about_truths(posterior: Posterior, of: Observations) -> str:
    """Reasons why the coverage of known parameters is no fair check, as text.

    Returns:
        "" if coverage is a fair check, or if no parameters are known.
    """
    if not of.known:
        return ""
    found = []
    if of.campaign & posterior.trained_on:
        found.append("the network was trained on these simulations, so that it does better on them than on others")
    if of.prior != posterior.prior.to_json() or posterior.under is not None:
        found.append(
            "their parameters are not drawn from the prior of the posterior, so that coverage need not be nominal"
        )
    learned = simulators_of(posterior.trained_on)
    if learned and not any(alike(one, other) for one in learned for other in of.simulators):
        found.append(
            "they are of another simulator than the network was trained on, so that coverage tells of both: right "
            "intervals may miss, and wrong ones hold"
        )
    return "; and ".join(found)


def alike(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two records (`core.simulator.recorded`) are of the same simulator."""
    return all(same_mark(one.get(name), other.get(name)) for name in {**one, **other})


def check_general(posterior: Posterior) -> None:
    """Refuse a posterior that holds only for some observations.

    Raises:
        ValueError: If the posterior does not hold for every observation.
    """
    if posterior.observation is not None or any(holds_for(layer) for layer in layers(posterior)):
        scope = posterior.scope or "it is for one observation"
        raise ValueError(
            f"the {posterior.name} posterior does not hold for every observation ({scope}); ask that of the whole "
            "prior: load_posterior(RUN) without a name"
        )


def _hash_of(calibration: Calibration | None) -> str:
    """SHA-256 of a calibration's verdict and of its reference for observations; "" without a calibration."""
    if calibration is None:
        return ""
    digest = hashlib.sha256(json.dumps(finite_json(said_of(calibration)), sort_keys=True).encode())
    for name, value in sorted(calibration.reference.items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()
