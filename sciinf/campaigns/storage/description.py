"""Description of a campaign in `store.json`, which decides whether two campaigns are the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from sciinf.campaigns.storage.disk import alone
from sciinf.campaigns.storage.folder import Changed, Folder, there
from sciinf.campaigns.storage.naming import PER_FOLDER, Naming
from sciinf.core.checks import is_whole
from sciinf.core.files import json_bytes, json_of, sha256_of, versions
from sciinf.core.observable import Observable, Status, event_of
from sciinf.core.prior import Prior
from sciinf.core.proposal import Proposal
from sciinf.core.simulator import FILES, Simulator, recorded, unlike
from sciinf.core.tables import named

FILE = "store.json"
SCHEMA = 2
"""2: blocks in folders, and packs. Stores of 1 have one folder for all blocks, and keep it."""
_MOST_BLOCKS, _MOST_ROWS = 10**7, 10**8
_SIMULATOR, _ACCEPTED = "simulator", "accepted"
_IDENTITY = (_SIMULATOR, "prior", "observables", "seed", "block")
_FOLDERS = "folders"  # Not part of the campaign's identity.
# This key exists, and is part of the identity, only if theta is not drawn from the prior.
_PROPOSAL = "proposal"


def describe(
    simulator: Simulator, seed: int, block: int, rows: int, proposal: Proposal | Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Description of a campaign, the content of `store.json`.

    Raises:
        TypeError: If the prior or the proposal cannot be written as JSON.
        ValueError: If there are no observables, an observable's name cannot name a dataset beside the others, or the
            numbers of rows and blocks are too large.
    """
    _check_names(simulator.observables)
    if reason := _absurd(rows, block):
        raise ValueError(f"{reason}; ask for fewer rows, or for other blocks")
    data = {
        "schema": SCHEMA,
        _SIMULATOR: recorded(simulator),
        "prior": simulator.prior.to_json(),
        "observables": [{"name": name, **spec.to_json()} for name, spec in simulator.observables.items()],
        "seed": seed,
        "block": block,
        "rows": rows,
        _FOLDERS: PER_FOLDER,
        "versions": versions(),
    }
    if proposal is not None:
        data[_PROPOSAL] = proposal.to_json() if isinstance(proposal, Proposal) else dict(proposal)
    return json.loads(json.dumps(data))


def facts_of(
    prior: Prior, observables: Mapping[str, Observable], counts: Mapping[Status, int], seed: int
) -> list[tuple[str, str]]:
    """Facts about a campaign and its failed rows, for display: a name and words for each."""
    failed = [(s.name.lower().replace("_", " "), f"{n:,}") for s, n in counts.items() if s is not Status.OK and n]
    named_units = named(dict(zip(prior.names, prior.units, strict=True)))
    return [("parameters", named_units), ("observables", event_of(observables)), *failed, ("seed", str(seed))]


def read_description(folder: Folder) -> dict[str, Any]:
    """Content of a folder's `store.json`, as it was written.

    Raises:
        FileNotFoundError: If there is no `store.json`.
        ValueError: If it is damaged, or a newer version wrote it.
    """
    path = f"{folder.name}/{FILE}"
    data = json_of(folder.read(FILE), path)
    schema = data.get("schema") if isinstance(data, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        version = data.get("versions", {}).get("sciinf", "unknown")
        raise ValueError(
            f"{path} has format {schema}, written by sciinf {version}; this version reads {SCHEMA}: update sciinf"
        )
    if schema not in (1, SCHEMA) or not {*_IDENTITY, "rows"} <= set(data):
        raise ValueError(f"{path} is damaged: it describes no store; restore it, or simulate into another folder")
    if reason := _absurd(data["rows"], data["block"]):
        raise ValueError(f"{path} is damaged: {reason}")
    if not is_whole(data.get(_FOLDERS, 0), 0):
        raise ValueError(f"{path} is damaged: it has {data[_FOLDERS]!r} blocks in each folder")
    return data


def naming(description: Mapping[str, Any]) -> Naming:
    """Rule that spreads the files of a store over folders."""
    return Naming(description.get(_FOLDERS, 0))


def with_packs(folder: Folder) -> None:
    """Update a store's description so that blocks may lie in packs. Versions that read format 1 then refuse the store.

    Raises:
        ValueError: If the description is damaged.
        OSError: If the description cannot be written.
    """

    def packed() -> dict[str, Any] | None:
        found = read_description(folder)
        return {**found, "schema": SCHEMA, _FOLDERS: 0} if found["schema"] < SCHEMA else None

    _rewrite(folder, packed)


def _absurd(rows: Any, block: Any) -> str:
    """Why no campaign can have such numbers of rows; "" if one can.

    The number of blocks is limited, because each block is a file and is listed.
    """
    if not is_whole(rows, 1) or not is_whole(block, 1):
        return f"it has {rows!r} rows in blocks of {block!r}, expected positive whole numbers"
    if -(-rows // block) > _MOST_BLOCKS or block > _MOST_ROWS:
        return (
            f"{rows:,} rows in blocks of {block:,} are {-(-rows // block):,} files, and there may be {_MOST_BLOCKS:,} "
            f"of {_MOST_ROWS:,} rows at most"
        )
    return ""


def campaign(description: Mapping[str, Any]) -> str:
    """SHA-256 of what makes a campaign the same, which is written into each of its files."""
    identity = {key: description[key] for key in (*_IDENTITY, _PROPOSAL) if key in description}
    return sha256_of(identity)


def claim(folder: Folder, wanted: Mapping[str, Any], simulator: Simulator) -> str:
    """Write a campaign's description, or check that the existing one is of the same campaign.

    The existing description gets more rows if more rows are wanted.

    Returns:
        Result of `campaign` for the description in the folder.

    Raises:
        ValueError: If the existing description is of another campaign, or damaged.
        OSError: If the description cannot be written.
    """
    if not there(folder, FILE):
        folder.create(FILE, json_bytes(wanted))
    held = ""

    def grown() -> dict[str, Any] | None:
        nonlocal held
        found = read_description(folder)  # Another process may have written it meanwhile.
        check_same(folder.name, found, wanted, simulator)
        held = campaign(found)
        more = {**found, "rows": wanted["rows"], "versions": wanted["versions"]}
        return more if found["rows"] < wanted["rows"] else None

    _rewrite(folder, grown)
    return held


def _rewrite(folder: Folder, wanted: Callable[[], dict[str, Any] | None]) -> None:
    """Replace a description by what `wanted()` returns, until it returns None.

    Other processes are locked out. If another process was faster all the same, `wanted()` is called again.
    """
    with alone(folder.path("")):
        while (data := wanted()) is not None:
            with suppress(Changed):
                folder.replace(FILE, json_bytes(data))


def check_same(path: str, found: Mapping[str, Any], wanted: Mapping[str, Any], simulator: Simulator) -> None:
    """Refuse to mix two campaigns.

    Args:
        path: Folder of the store, for the message.
        found: Description in the folder.
        wanted: Description of the requested campaign.
        simulator: Simulator of the requested campaign.

    Raises:
        ValueError: If the campaigns are not the same; the message says what differs.
    """
    differences = {
        key: _difference(found.get(key), wanted.get(key))
        for key in (*_IDENTITY[1:], _PROPOSAL)
        if without_coords(found.get(key)) != without_coords(wanted.get(key))
    }
    if words := stale(found, simulator):
        differences = {_SIMULATOR: words, **differences}
    if set(differences) == {_SIMULATOR} and not unlike(found[_SIMULATOR], simulator, ignore=FILES):
        raise ValueError(
            f"{path}: {words} since these {found['rows']:,} simulations were begun. Simulate into another folder "
            "(--out), these are kept; or, where the change does not touch what is simulated, go on with "
            "--accept-changes (accept_changes=True)"
        )
    if differences:
        before, now = found[_SIMULATOR].get("name"), simulator.name
        other = f"another simulator, {before!r}, not of {now!r}"
        what = (
            other
            if before not in (now, simulator.former_name)
            else f"another campaign: another {', '.join(differences)}"
        )
        raise ValueError(
            f"{path} holds simulations of {what}. Choose another folder, or ask for what this one holds; delete it if "
            "its simulations are worthless. In the folder -> asked for: "
            + "; ".join(f"{key}: {words}" for key, words in differences.items())
        )


def without_coords(value: Any) -> Any:
    """A description without the coordinates along the axes of observables, because nothing is computed from them.

    Args:
        value: Plain JSON values. A mapping is an observable if it has a shape and dims.
    """
    if isinstance(value, list):
        return [without_coords(one) for one in value]
    if not isinstance(value, dict):
        return value
    named = {"coords", "coord_units"} if {"shape", "dims"} <= value.keys() else set()
    return {key: without_coords(given) for key, given in value.items() if key not in named}


def stale(found: Mapping[str, Any], simulator: Simulator) -> str:
    """Differences between a simulator and the store's recorded ones, in words; "" if it equals one of them.

    The recorded ones are the simulator with which the store was begun, and those accepted since.
    """
    each = [unlike(before, simulator) for before in (*found.get(_ACCEPTED, ()), found[_SIMULATOR])]
    return "" if "" in each else each[0]


def accept(folder: Folder, simulator: Simulator) -> None:
    """Record in a store's description that a simulator with changed files stands for the one that began the store.

    Raises:
        ValueError: If more than the simulator's files has changed.
        OSError: If the description cannot be written.
    """
    given = recorded(simulator)

    def noted() -> dict[str, Any] | None:
        found = read_description(folder)
        _check_files_alone(folder, found, simulator)
        before = found.get(_ACCEPTED, ())
        return {**found, _ACCEPTED: [*before, given]} if given not in before else None

    _rewrite(folder, noted)


def _check_files_alone(folder: Folder, found: Mapping[str, Any], simulator: Simulator) -> None:
    if words := unlike(found[_SIMULATOR], simulator, ignore=FILES):
        raise ValueError(
            f"{folder.name}: only changes of a simulator's files can be accepted; here {words}. Choose another folder"
        )


def _difference(found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        return ", ".join(f"{key} {_short(found.get(key))} -> {_short(wanted.get(key))}" for key in keys)
    return f"{_short(found)} -> {_short(wanted)}"


def _short(value: Any) -> str:
    """A value in words, at most 303 characters.

    Digests are cut to 12 characters. Distributions are written as calls, and observables as name, shape and unit.
    """
    text = value[:12] if isinstance(value, str) and len(value) == 64 else _plain(value)
    return text if len(text) <= 300 else text[:300] + "..."


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) if value else "none"
    if not isinstance(value, dict):
        return "nothing" if value is None else str(value) or "''"
    if "law" in value:
        arguments = value.get("arguments") or {}
        return f"{value['law']}({', '.join(f'{key}={_plain(given)}' for key, given in arguments.items())})"
    if {"name", "shape"} <= value.keys():
        about = [
            f"{key} {_plain(given)}" for key, given in value.items() if key not in ("name", "shape", "unit") and given
        ]
        unit = f" [{value['unit']}]" if value.get("unit") else ""
        return f"{value['name']} {tuple(value['shape'])}{unit} ({', '.join(about)})"
    return ", ".join(f"{key} {_plain(given)}" for key, given in value.items())


def _check_names(observables: Mapping[str, Observable]) -> None:
    if not observables:
        raise ValueError("the simulator has no observables; it must name at least one")
    for name in observables:
        parts = name.split("/")
        parents = {"/".join(parts[:k]) for k in range(1, len(parts))}
        if "" in parts or "." in parts or "\0" in name or parents & set(observables):
            raise ValueError(f"the observable {name!r} cannot name a dataset beside {sorted(observables)}; rename it")
