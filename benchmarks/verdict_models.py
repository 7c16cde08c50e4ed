"""The twelve models of `verdicts`, and their exact posteriors, from grids in double precision.

Each simulator is a file of `verdict_simulators`, which `sciinf infer` and `sciinf serve` load by its path. The
likelihood is the simulator's own `log_likelihood`. Where the network is to have none it stands under the name
`log_density`, which sciinf does not know.

The grid is regular in standard normal numbers z, one for each continuous parameter, with theta = F^-1(Phi(z)) and F the
prior's distribution function. It shrinks to the box that holds the posterior, and a second grid with fewer points must
give the same moments.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sciinf import Prior, Recipe, Simulator, load_simulator, simulate, train
from sciinf.core import Draws, X
from sciinf.core.levels import Levels

FOLDER = Path(__file__).with_name("verdict_simulators")
MEAN_ERROR, SD_RATIOS, PROBABILITY_ERROR = 0.15, (0.9, 1.1), 0.05
EXISTS = 0.2  # smallest probability of existing with which the moments of a parameter are compared
_POINTS, _COARSER = {1: 4_001, 2: 1_001, 3: 151}, 0.8
_NEGLIGIBLE = 20.0  # nats below the maximum
_CONVERGED = 5e-3  # sds, and nats of the evidence: a thirtieth of the bound on the mean


@dataclass(frozen=True)
class Model:
    """A model of the benchmark.

    Args:
        name: Its name, which is also that of its file.
        n: Simulations to train on.
        surrogate: Solutions of the equation that a surrogate is trained on, which then stands in for the model. 0 where
            the simulator is the model itself.
    """

    name: str
    n: int
    surrogate: int = 0

    def true(self) -> Simulator:
        """The model that nature follows."""
        found = load_simulator(FOLDER / f"{self.name}.py")
        return _seen_by_sensors(found) if self.surrogate else found

    def file(self, folder: Path) -> Path:
        """The file that sciinf is given. That of a surrogate is made in `folder`, if it is not there yet."""
        if not self.surrogate:
            return FOLDER / f"{self.name}.py"
        return _surrogate_file(FOLDER / f"{self.name}.py", folder, self.surrogate)


MODELS = {
    model.name: model
    for model in (
        Model("points", 1_000),
        Model("decay", 500),
        Model("photons", 1_000),
        Model("trend", 1_000),
        Model("sources", 2_000),
        Model("waiting", 4_000),
        Model("series", 2_000),
        Model("mirror", 3_000),
        Model("outliers", 4_000),
        Model("wave", 1_000),
        Model("ball", 1_000),
        Model("plume", 2_000, surrogate=75),
    )
}
_AT, _NOISE = (0.1, 0.35, 0.6, 0.85), 0.15
_SURROGATE = """\
from pathlib import Path

from sciinf import load_fit, load_simulator
from sciinf.emulators import Emulator
from sciinf.wrappers import Sensors, observed

here = Path(__file__).parent
emulator = Emulator(load_fit(here / "surrogate"), load_simulator(here / "equation.py"))
simulator = observed(emulator, Sensors({at}, sd={sd}))
"""


def _seen_by_sensors(equation: Simulator) -> Simulator:
    """What sensors see of an equation."""
    from sciinf.wrappers import Sensors, observed

    return observed(equation, Sensors(_AT, sd=_NOISE))  # type: ignore[arg-type]


def _surrogate_file(source: Path, folder: Path, solutions: int) -> Path:
    """Train a surrogate on a few solutions, and write the file of the simulator that it becomes."""
    from sciinf.emulators import Operator
    from sciinf.networks.spectral import Fourier

    file, copy = folder / "simulator.py", folder / "equation.py"
    if file.is_file():
        return file
    shutil.copy(source, copy)
    equation = load_simulator(copy)
    store = simulate(equation, folder / "solutions", solutions, seed=1, progress=False)
    operator = Operator(equation.prior, equation.observables, Fourier(width=16, modes=6))
    train(operator, store, folder / "surrogate", recipe=Recipe(epochs=100), progress=False)  # type: ignore[arg-type]
    file.write_text(_SURROGATE.format(at=_AT, sd=_NOISE))
    return file


@dataclass(frozen=True)
class Exact:
    """The exact posterior of one observation.

    Args:
        mean: Continuous parameter -> its mean, given that it exists.
        sd: Continuous parameter -> its standard deviation, given that it exists.
        exists: Continuous parameter -> the probability that it exists.
        probability: Discrete parameter -> label of a value -> its probability.
        log_evidence: Logarithm of p(x).
    """

    mean: dict[str, float]
    sd: dict[str, float]
    exists: dict[str, float]
    probability: dict[str, dict[str, float]]
    log_evidence: float


@dataclass(frozen=True)
class Compared:
    """An answer beside the exact posterior.

    Args:
        mean_error: Largest error of a mean, in exact sds.
        sd_ratio: Ratio of an sd to the exact one that is farthest from one.
        probability_error: Largest error of a probability; 0 without discrete parameters.
    """

    mean_error: float
    sd_ratio: float
    probability_error: float

    @property
    def right(self) -> bool:
        """Whether all errors are within the bounds."""
        small = self.mean_error <= MEAN_ERROR and self.probability_error <= PROBABILITY_ERROR
        return small and SD_RATIOS[0] <= self.sd_ratio <= SD_RATIOS[1]


def compare(draws: Draws, exact: Exact) -> Compared:
    """Compare the weighted draws of an answer with the exact posterior."""
    mean, sd, error, ratio = draws.mean(), draws.sd(), 0.0, 1.0
    for name in (name for name in exact.mean if exact.exists[name] > EXISTS):
        k = draws.names.index(name)
        found, width = float(mean[k]), float(sd[k])
        off, scale = abs(found - exact.mean[name]) / exact.sd[name], width / exact.sd[name]
        error = max(error, off if math.isfinite(off) else math.inf)
        ratio = max((ratio, scale if math.isfinite(scale) else 0.0), key=_distance_from_one)
    wrong = 0.0
    for name, values in exact.probability.items():
        told = draws.probabilities(name)
        wrong = max([wrong, *(abs(told[label] - probability) for label, probability in values.items())])
    return Compared(error, ratio, wrong)


def _distance_from_one(ratio: float) -> float:
    return abs(math.log(ratio)) if ratio > 0 else math.inf


def exact_posterior(simulator: Simulator, x: X) -> Exact:
    """The posterior of one observation, a batch of one, by the simulator's likelihood.

    Raises:
        RuntimeError: If two grids disagree.
    """
    x = {name: value.double() for name, value in x.items()}
    fine, coarse = (_posterior(simulator, x, scale) for scale in (1.0, _COARSER))
    off = [abs(fine.log_evidence - coarse.log_evidence)]
    off += [abs(fine.mean[name] - coarse.mean[name]) / fine.sd[name] for name in fine.mean]
    off += [abs(fine.sd[name] / coarse.sd[name] - 1) for name in fine.mean]
    if max(off) > _CONVERGED:
        raise RuntimeError(f"the grids of {simulator.name} differ by {max(off):.2g}, more than {_CONVERGED}")
    return fine


def _posterior(simulator: Simulator, x: X, scale: float) -> Exact:
    """The posterior from grids with `scale` times the usual number of points in each direction."""
    prior, parts = simulator.prior, list[tuple[float, dict[str, tuple[float, float]]]]()
    discrete = next((k for k, law in enumerate(prior.laws) if isinstance(law, Levels)), None)
    law = None if discrete is None else prior.laws[discrete]
    levels = law if isinstance(law, Levels) else None
    values = torch.zeros(1, dtype=torch.float64) if levels is None else levels.values
    for code, value in enumerate(values):
        there = _existing(prior, discrete, value)
        log_evidence, moments = _given_value(simulator, x, there, scale)
        before = 0.0 if levels is None else float(levels.log_probs[code])
        parts.append((log_evidence + before, moments))
    logs = torch.tensor([log for log, _ in parts], dtype=torch.float64)
    shares, total = logs.softmax(0), float(logs.logsumexp(0))
    mean, sd, exists = dict[str, float](), dict[str, float](), dict[str, float]()
    for name in dict.fromkeys(name for _, moments in parts for name in moments):
        own = [(float(p), m[name]) for p, (_, m) in zip(shares, parts, strict=True) if name in m]
        exists[name] = sum(p for p, _ in own)
        mean[name] = sum(p * first for p, (first, _) in own) / exists[name]
        spread = (p * (width**2 + (first - mean[name]) ** 2) for p, (first, width) in own)
        sd[name] = math.sqrt(sum(spread) / exists[name])
    probability = {}
    if discrete is not None and levels is not None:
        probability[prior.names[discrete]] = dict(zip(levels.labels, shares.tolist(), strict=True))
    return Exact(mean, sd, exists, probability, total)


def _existing(prior: Prior, discrete: int | None, value: Tensor) -> Tensor:
    """A row of parameters (D,): the discrete one's value, 0 for those that exist with it, NaN for the others."""
    row = torch.zeros(len(prior), dtype=torch.float64)
    if discrete is None:
        return row
    row[discrete] = value
    generator = torch.Generator().manual_seed(0)
    some = prior.sample(4_096, generator=generator)
    rows = some[some[:, discrete] == float(value)]
    return torch.where(rows[0].isnan(), math.nan, row)


def _given_value(simulator: Simulator, x: X, row: Tensor, scale: float) -> tuple[float, dict[str, tuple[float, float]]]:
    """The log evidence, and the mean and sd of each continuous parameter, given the value of the discrete one."""
    prior = simulator.prior
    free = [k for k, law in enumerate(prior.laws) if not isinstance(law, Levels) and not row[k].isnan()]
    points = round(scale * _POINTS[len(free)])
    box = [(-6.0, 6.0)] * len(free)
    for _ in range(8):
        axes = [torch.linspace(low, high, points, dtype=torch.float64) for low, high in box]
        log_weight, columns = _on_grid(simulator, x, row, free, axes)
        smaller = _shrunk(log_weight, axes)
        if all(b - a > 0.8 * (high - low) for (a, b), (low, high) in zip(smaller, box, strict=True)):
            break
        box = smaller
    total = float(log_weight.logsumexp(dim=tuple(range(log_weight.ndim))))
    cell = sum(math.log(float(axis[1] - axis[0])) for axis in axes)
    weight, moments = log_weight.sub(total).exp(), dict[str, tuple[float, float]]()
    for place, k in enumerate(free):
        others = tuple(j for j in range(len(free)) if j != place)
        marginal = weight.sum(dim=others) if others else weight
        first = float(marginal @ columns[place])
        moments[prior.names[k]] = first, math.sqrt(float(marginal @ (columns[place] - first).square()))
    return total + cell, moments


def _on_grid(
    simulator: Simulator, x: X, row: Tensor, free: list[int], axes: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The log posterior density of z up to the evidence, on the grid; and the parameter's values along each axis."""
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    columns = [simulator.prior.laws[k].icdf(normal.cdf(z)).double() for k, z in zip(free, axes, strict=True)]
    shape = tuple(len(axis) for axis in axes)
    theta = row.expand(math.prod(shape), -1).clone()
    for k, column in zip(free, torch.meshgrid(*columns, indexing="ij"), strict=True):
        theta[:, k] = column.flatten()
    density = _likelihood(simulator)
    log = torch.cat([density(some, x) for some in theta.split(100_000)]).reshape(shape)
    log = log.nan_to_num(nan=-math.inf, neginf=-math.inf)
    for place, z in enumerate(axes):
        log = log + normal.log_prob(z).reshape([-1 if j == place else 1 for j in range(len(axes))])
    return log, columns


def _likelihood(simulator: Simulator) -> Callable[[Tensor, X], Tensor]:
    """The likelihood, which the simulator may hide from sciinf."""
    return getattr(simulator, "log_density", None) or simulator.log_likelihood  # type: ignore[return-value]


def _shrunk(log_weight: Tensor, axes: list[Tensor]) -> list[tuple[float, float]]:
    """The box that holds all but a negligible part of the posterior, with two steps more on each side."""
    there, found = log_weight > log_weight.max() - _NEGLIGIBLE, []
    for place, axis in enumerate(axes):
        others = tuple(j for j in range(len(axes)) if j != place)
        along = (there.any(dim=others) if others else there).nonzero()[:, 0]
        low, high = max(int(along[0]) - 2, 0), min(int(along[-1]) + 2, len(axis) - 1)
        found.append((float(axis[low]), float(axis[high])))
    return found
