"""A trained estimator on disk: `fit.json` (how to rebuild it) and `model.safetensors` (its weights). No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sciinf.core.component import from_json, to_json
from sciinf.core.estimator import Estimator
from sciinf.core.files import local_path, read_json, write_bytes, write_json
from sciinf.core.learned import Learned
from sciinf.core.surrogate import Surrogate
from sciinf.core.tables import html, named

SCHEMA = 3
_FLOW = "sciinf.estimators.flow.Flow"  # Before format 2, this class had no argument `regression`.


@dataclass(frozen=True, repr=False)
class Fit:
    """A trained estimator or surrogate with its provenance.

    Args:
        learned: The trained network, in evaluation mode.
        digest: SHA-256 of the network's weights and of the description from which it is built.
        simulator: Name and source hash of the simulator whose simulations the network was trained on.
        record: All other entries of `fit.json`: recipe, seed, store digest, history, versions, seconds.
        folder: Folder of the fit.
    """

    learned: Learned
    digest: str
    simulator: Mapping[str, str]
    record: Mapping[str, Any]
    folder: Path

    @property
    def estimator(self) -> Estimator:
        """The trained estimator of theta.

        Raises:
            TypeError: If the fit is a surrogate.
        """
        if not isinstance(self.learned, Estimator):
            raise TypeError(
                f"{type(self.learned).__name__} is a surrogate of "
                f"{self.simulator.get('name', 'a simulator')!r} and has no posterior: make a simulator of "
                "it, Emulator(fit, equation), and train an estimator on that simulator"
            )
        return self.learned

    @property
    def surrogate(self) -> Surrogate:
        """The trained surrogate of the simulator's fields.

        Raises:
            TypeError: If the fit is an estimator.
        """
        if not isinstance(self.learned, Surrogate):
            raise TypeError(f"{type(self.learned).__name__} is not a surrogate; train an Operator, say")
        return self.learned

    @property
    def held_out(self) -> str:
        """The errors of a surrogate on held-out solutions, in words; "" if the record has none."""
        error, spread = (self.record.get(name) for name in ("relative_error", "spread_skill"))
        words = [] if error is None else [f"held-out fields off by {error:.1%}"]
        return ", ".join(words + ([] if spread is None else [f"draws {spread:.2f} times as unlike as they should be"]))

    def __repr__(self) -> str:
        kind, names = type(self.learned).__name__, ", ".join(self.learned.prior.names)
        loss = self.record.get("best_validation_loss")
        best = "" if loss is None else f", validation loss {loss:.4g}"
        best += f", {self.held_out}" if self.held_out else ""
        return f"{kind} of ({names}) trained on {self.simulator.get('name', 'unknown')!r}{best}, in {self.folder}"

    def _repr_html_(self) -> str:
        """The HTML table that a notebook shows."""
        known = {
            "trained on": f"{self.simulator.get('name', 'unknown')!r}",
            "validation loss": self.record.get("best_validation_loss"),
            "held-out fields off by": self.record.get("relative_error"),
            "draws, times as unlike as they should be": self.record.get("spread_skill"),
            "simulations": self.record.get("store", {}).get("used"),
            "seconds": self.record.get("seconds"),
            "in": f"{self.folder}",
        }
        facts = [(name, f"{value:,.4g}" if isinstance(value, float) else str(value)) for name, value in known.items()]
        prior = self.learned.prior
        title = f"{type(self.learned).__name__} of ({named(dict(zip(prior.names, prior.units, strict=True)))})"
        return html(title, facts=[fact for fact in facts if fact[1] != "None"])


def save_fit(folder: Path, estimator: Learned, *, simulator: Mapping[str, str], record: Mapping[str, Any]) -> Fit:
    """Write a trained estimator to a folder and return its `Fit`.

    `fit.json` is written last, so the folder is complete when it is there.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in estimator.state_dict().items()}
    weights = save(state)
    built = to_json(estimator)
    digest = _digest(weights, built)
    write_bytes(folder / "model.safetensors", weights)
    write_json(
        folder / "fit.json",
        {"schema": SCHEMA, "digest": digest, "estimator": built, "simulator": dict(simulator), **record},
    )
    return Fit(estimator.eval(), digest, dict(simulator), dict(record), folder)


def load_fit(folder: str | Path, *, device: str | torch.device = "cpu", trust: Sequence[str | Path] = ()) -> Fit:
    """Read a fit from a folder, with its weights on a device.

    Args:
        folder: Folder that `train` wrote.
        device: Device of the weights, which may differ from the device of training.
        trust: Code outside sciinf that may be loaded to build the network. Either the name of a module, or
            the path of a user's file or folder, which also covers the files beside it. An example is a
            simulator with a summary network of its own.

    Raises:
        FileNotFoundError: If the folder holds no finished fit.
        ValueError: If a newer version wrote the fit, if the fit names a class outside sciinf that is not
            trusted, or if the weights are damaged.
    """
    from safetensors.torch import load

    folder = local_path(folder)
    if not (folder / "fit.json").is_file():
        raise FileNotFoundError(f"{folder} holds no finished fit (no fit.json); {_instead(folder)}")
    data = read_json(folder / "fit.json")
    known = ("schema", "digest", "estimator", "simulator")
    if not isinstance(data, dict) or "schema" not in data:
        raise ValueError(f"{folder / 'fit.json'} is not what `train` writes; train again")
    if data["schema"] not in (1, 2, SCHEMA):
        version = data.get("versions", {}).get("sciinf", "unknown")
        raise ValueError(
            f"{folder / 'fit.json'} has format {data['schema']!r}, written by sciinf {version}; this version "
            f"reads formats up to {SCHEMA}: update sciinf or train again"
        )
    if missing := sorted(set(known) - set(data)):
        raise ValueError(f"{folder / 'fit.json'} lacks the entries {missing}; train again")
    if not (folder / "model.safetensors").is_file():
        raise ValueError(f"{folder} is damaged: the weights, model.safetensors, are missing; train again")
    weights = (folder / "model.safetensors").read_bytes()
    if _digest(weights, data["estimator"]) != data["digest"]:
        raise ValueError(f"{folder} is damaged: model.safetensors and fit.json do not belong together; train again")
    built = _as_it_was(data["estimator"]) if data["schema"] == 1 else data["estimator"]
    estimator = from_json(built, trust=trust)
    if not isinstance(estimator, Learned):
        raise ValueError(
            f"{folder / 'fit.json'} describes {type(estimator).__name__}, which is neither an estimator nor "
            "a surrogate; train again"
        )
    try:
        estimator.load_state_dict(load(weights))
    except RuntimeError:
        if data["schema"] != 2:
            raise
        raise ValueError(
            f"{folder} has format 2, in which networks were given fewer inputs for series; train again"
        ) from None
    record = {k: v for k, v in data.items() if k not in known}
    return Fit(estimator.to(device).eval(), data["digest"], data["simulator"], record, folder)


def _as_it_was(built: Any) -> Any:
    """The description of an estimator of format 1, rewritten in the current format."""
    if isinstance(built, dict) and built.get("$class") == _FLOW:
        return {**built, "arguments": {"regression": False, **built["arguments"]}}
    return built


def _instead(folder: Path) -> str:
    """Advice for a folder that holds no fit."""
    if folder.is_file():
        return "it is a file: name the run folder, which `sciinf infer` or `sciinf train` wrote with --out"
    if (folder / "member_0" / "fit.json").is_file():
        return f"it holds an ensemble: read each member, {str(folder / 'member_0')!r} and so on"
    if (folder / "sequential.json").is_file():
        return "it holds sequential rounds: read them with load_sequential"
    return "train one with `sciinf train`"


def campaign_of(simulator: Mapping[str, str], seed: int) -> str:
    """The simulator and seed of a store, as text.

    Two stores may share simulations only if these texts are equal, whatever their numbers of simulations.
    """
    return f"{json.dumps(dict(simulator), sort_keys=True)} seed {seed}"


def simulators_of(campaigns: Iterable[str]) -> list[dict[str, str]]:
    """The records of the simulators in texts of `campaign_of`; other texts, such as digests, are ignored."""
    parts = [one.rpartition(" seed ") for one in campaigns]
    return [json.loads(simulator) for simulator, seed, _ in parts if seed and simulator.startswith("{")]


def trained_on(fit: Fit) -> frozenset[str]:
    """The names by which to recognise stores that may share simulations with the training set of a fit.

    These are the digest of the store that the fit was trained on, and its `campaign_of`.
    """
    store = fit.record["store"]
    return frozenset([store["digest"], campaign_of(fit.simulator, store["seed"])])


def failed_of(fit: Fit) -> int:
    """The number of failed simulations in the store that a fit was trained on."""
    store = fit.record["store"]
    return int(store.get("failed", store.get("rows", 0) - store.get("used", store.get("rows", 0))))


def _digest(weights: bytes, built: Any) -> str:
    return hashlib.sha256(weights + json.dumps(built, sort_keys=True).encode()).hexdigest()
