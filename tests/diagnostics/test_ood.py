"""Observations from the simulator get uniform p-values; those unlike anything simulated are found out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from sciinf import Flow, Observable, Recipe, build_posterior, load_simulator, query, simulate, train
from sciinf.campaigns import Store
from sciinf.core import Outcome, Posterior, Prior, Simulator, X
from sciinf.diagnostics.calibration import calibrate
from sciinf.diagnostics.ood import check_observation, make_reference, p_values
from sciinf.diagnostics.views import conformal_p

NAMES = ("linear_gaussian", "lotka_volterra")


class Setup:
    """A barely trained network with its reference of 6,000 simulations, 4,000 of which are ranked."""

    def __init__(self, simulator: Simulator, folder: Path, rows: int = 6_000, *, plain: bool = False) -> None:
        self.simulator = simulator
        trained_on = simulate(simulator, folder / "trained_on", 1_000, seed=0, progress=False)
        flow = Flow(simulator.prior, simulator.observables)
        self.posterior: Posterior = build_posterior(train(flow, trained_on, folder / "fit", recipe=Recipe(epochs=1)))
        self.store: Store = simulate(simulator, folder / "fresh", rows, seed=1, progress=False)
        self.reference: Mapping[str, Tensor] = make_reference(self.posterior, self.store, () if plain else None)

    def observations(self, n: int, seed: int = 5) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        theta = self.simulator.prior.sample(n, generator=generator)
        result = self.simulator(theta, generator=generator)
        return dict(result.x if isinstance(result, Outcome) else result)

    def p(self, x: X) -> Tensor:
        return p_values(self.reference, self.posterior, x)


@pytest.fixture(scope="module")
def setups(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Setup]:
    folder = tmp_path_factory.mktemp("ood")
    simulators = {name: load_simulator(root / "simulators" / f"{name}.py") for name in NAMES}
    return {name: Setup(one, folder / name, plain=name == "lotka_volterra") for name, one in simulators.items()}


@pytest.fixture(params=NAMES)
def setup(request: pytest.FixtureRequest, setups: dict[str, Setup]) -> Setup:
    return setups[request.param]


def test_observations_of_the_model_have_uniform_p_values(setup: Setup) -> None:
    found = setup.p(setup.observations(500))
    assert kstest(found.numpy(), "uniform").pvalue > 1e-3  # the false-alarm rate
    assert float(found.min()) >= 1 / 4_001


def test_a_planted_fault_is_caught(setups: dict[str, Setup]) -> None:
    setup = setups["linear_gaussian"]
    x = setup.observations(500)
    # Distances with another law among the simulations than they have for an observation
    wrong = {**setup.reference, "distances": 1.3 * setup.reference["distances"]}
    assert kstest(p_values(wrong, setup.posterior, x).numpy(), "uniform").pvalue < 1e-6
    # Observations of a noisier simulator than the reference's
    generator = torch.Generator().manual_seed(8)
    other = {"x": x["x"] + 3.0 * torch.randn(x["x"].shape, generator=generator)}
    assert kstest(setup.p(other).numpy(), "uniform").pvalue < 1e-6


def test_far_outside(setup: Setup) -> None:
    x = setup.observations(4_000)
    name, value = next(iter(x.items()))
    logs = setup.simulator.observables[name].scale == "log"
    linear = value.log() if logs else value
    far = linear.mean(0) + 50 * linear.std(0)
    far = far.clamp(max=80).exp() if logs else far
    trust = check_observation(setup.reference, setup.posterior, {name: far[None]})
    assert trust.p_value is not None
    assert trust.p_value < 1e-3
    assert trust.alarm
    assert (trust.level, trust.words[:34]) == ("alarm", "the observation is unlike the simu")


@pytest.mark.parametrize("size", [30.0, 1e4])
def test_the_right_mean_with_a_wild_pattern(setups: dict[str, Setup], size: float) -> None:
    setup = setups["linear_gaussian"]
    mean = setup.observations(4_000)["x"].mean(0)
    wild = mean + size * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    assert float(setup.p({"x": wild[None]})) < 1e-3


def test_a_wild_pattern_in_counts(setups: dict[str, Setup]) -> None:
    setup = setups["lotka_volterra"]
    signs = torch.ones(21, 2)
    signs[::2] = -1
    assert float(setup.p({"counts": (2.0 + 12.0 * signs).exp()[None]})) < 1e-3


def test_constant_zero(setups: dict[str, Setup]) -> None:
    assert float(setups["lotka_volterra"].p({"counts": torch.zeros(1, 21, 2)})) < 1e-3


def test_data_that_never_vary_are_like_themselves(tmp_path: Path) -> None:
    """A simulator of constants, as one that counts nothing: no score tells such data apart, and none is learned."""

    class Still(Simulator):
        name = "still"
        prior = Prior(a=torch.distributions.Normal(0.0, 1.0))
        observables = {"x": Observable((1,), dims=("channel",))}

        def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
            return {"x": torch.ones(len(theta), 1)}

    setup = Setup(Still(), tmp_path, 4_000)
    assert setup.p(setup.observations(3)).tolist() == [1.0] * 3


def test_other_units_are_noticed(setups: dict[str, Setup]) -> None:
    setup = setups["linear_gaussian"]
    x = setup.observations(1)
    assert setup.p(x)[0] > 0.01
    assert float(setup.p({"x": 1_000 * x["x"]})) < 1e-3  # metres called millimetres


def test_features_that_are_not_numbers_alarm(setups: dict[str, Setup]) -> None:
    setup = setups["linear_gaussian"]
    assert float(setup.p({"x": torch.full((1, 5), torch.inf)})) < 1e-3


def test_one_by_one_as_in_a_batch(setup: Setup) -> None:
    x = setup.observations(20)
    together = setup.p(x)
    alone = torch.cat([setup.p({k: v[i : i + 1] for k, v in x.items()}) for i in range(20)])
    assert torch.allclose(together, alone, atol=2e-3)


def test_verdicts(setups: dict[str, Setup]) -> None:
    setup = setups["linear_gaussian"]
    x = setup.observations(300)
    found = setup.p(x)
    for low, high, word in ((0.06, 1.0, "good"), (0.01, 0.05, "caution")):
        i = int(((found > low) & (found < high)).nonzero()[0])
        trust = check_observation(setup.reference, setup.posterior, {"x": x["x"][i : i + 1]})
        assert trust.level == word
        assert not trust.alarm
        assert trust.p_value == pytest.approx(float(found[i]), abs=1e-3)
    unknown = check_observation({}, setup.posterior, {"x": x["x"][:1]})
    assert unknown.p_value is None
    assert unknown.level == "unknown"
    assert not unknown.alarm


@pytest.mark.parametrize(("rows", "known"), [(100, False), (147, False), (150, True)])
def test_few_simulations_cannot_tell(setups: dict[str, Setup], tmp_path: Path, rows: int, known: bool) -> None:
    """The smallest of n simulations' p-values is 1 / (1 + n): below 100 of them nothing would ever be an alarm."""
    setup = setups["linear_gaussian"]
    store = simulate(setup.simulator, tmp_path / "few", rows, seed=1, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        reference = calibrate(setup.posterior, store, tmp_path).reference
    n = len(reference["distances"])
    assert n == rows - rows // 3
    x = setup.observations(40)["x"]
    far = check_observation(reference, setup.posterior, {"x": x[:1] + 1e4})
    assert far.p_value == pytest.approx(1 / (1 + n))
    assert far.level == ("alarm" if known else "unknown")
    assert ("more unusual than all of them" in far.words) == (not known)
    levels = [check_observation(reference, setup.posterior, {"x": one[None]}).level for one in x]
    # nothing is "good" where nothing could have been an alarm
    assert levels.count("good") > 20 if known else set(levels) == {"unknown"}


def test_a_reference_of_an_older_version_is_to_be_remade(setups: dict[str, Setup]) -> None:
    setup = setups["linear_gaussian"]
    older = {k: v for k, v in setup.reference.items() if k != "distances"} | {"statistic": torch.rand(100)}
    trust = check_observation(older, setup.posterior, setup.observations(1))
    assert (trust.level, trust.p_value) == ("unknown", None)
    assert "run `sciinf calibrate` again" in trust.words


def test_the_warning_reaches_the_user(setups: dict[str, Setup]) -> None:
    setup = setups["linear_gaussian"]
    calibration = calibrate(setup.posterior, setup.store, rows=100, scores=())
    with pytest.warns(UserWarning, match="unlike the simulations"):
        answer = query(setup.posterior, {"x": torch.full((5,), 500.0)}, calibration, draws=100)
    assert answer.trust.alarm
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        query(setup.posterior, {"x": setup.observations(1)["x"][0]}, calibration, draws=100)


def test_nan_is_refused(setups: dict[str, Setup]) -> None:
    with pytest.raises(ValueError, match="1 values that are NaN"):
        query(setups["linear_gaussian"].posterior, {"x": torch.tensor([1.0, 2.0, torch.nan, 0.0, 1.0])})


class Wide(Simulator):
    """More numbers than rows to learn their axes from, one of which never changes."""

    name = "wide"
    prior = Prior(scale=torch.distributions.LogNormal(0.0, 0.3))
    observables = {"y": Observable((200,), "", ("channel",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        y = theta * torch.randn(len(theta), 200, generator=generator)
        y[:, 7] = 3.0
        return {"y": y}


def test_few_simulations_of_many_numbers(tmp_path: Path) -> None:
    """Axes that fit their own rows too well would make every fresh observation strange."""
    setup = Setup(Wide(), tmp_path, rows=450)
    x = setup.observations(500)
    found = setup.p(x)
    # With 300 simulations ranked, the p-values' own law is uncertain by 1 / sqrt(300) = 6 %; twice that and more.
    assert float((found < 0.05).double().mean()) < 0.12
    assert abs(float(found.median()) - 0.5) < 0.15
    moved = x["y"][:1].clone()
    moved[:, 7] = 4.0
    assert float(setup.p({"y": moved})) < 0.01


class Coarse(Simulator):
    """Data that take few values, and some that take but one."""

    prior = Prior(z=torch.distributions.Normal(0.0, 1.0))
    observables = {}

    def __init__(self, name: str) -> None:
        self.name = name
        event = Observable((3,), "", ("channel",), dtype="bool" if name == "booleans" else "float32")
        self.observables = {"x": event, "same": Observable((1,), "", ("channel",))}
        if name == "masked":
            self.observables |= {"x_mask": Observable((3,), "", ("channel",), dtype="bool")}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        noise, same = torch.randn(len(theta), 3, generator=generator), torch.full((len(theta), 1), 1e-21)
        if self.name == "booleans":
            return {"x": noise > 1 - theta, "same": same}
        if self.name == "counts":
            rate = (0.3 * theta).exp().expand(-1, 3).contiguous()
            return {"x": torch.poisson(rate, generator=generator), "same": same}
        if self.name == "rounded":
            return {"x": (theta + noise).round(), "same": same}
        there = torch.rand(len(theta), 3, generator=generator) < 0.8
        there[:, 0] = True
        return {"x": torch.where(there, (theta + noise).round(), 0.0), "x_mask": there, "same": same}


@pytest.fixture(scope="module", params=["booleans", "counts", "rounded", "masked"])
def coarse(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    plain = request.param != "masked"  # without planted faults, which take longer
    return Setup(Coarse(request.param), tmp_path_factory.mktemp("coarse"), rows=3_000, plain=plain)


def test_discrete_data_raise_no_false_alarms(coarse: Setup) -> None:
    """P(p <= a) <= a. Of 2,000 p-values beside 2,000 simulations the shares vary by sqrt(a (1 - a) / 1000)."""
    p = coarse.p(coarse.observations(2_000))
    for level in (0.01, 0.05, 0.2):
        share = float((p <= level).double().mean())
        assert share < level + 4 * (level * (1 - level) / 1_000) ** 0.5  # false alarm of this test: 3e-5


def test_one_row_has_the_p_value_that_it_has_among_many(coarse: Setup) -> None:
    """A network rounds otherwise for one row than for many; equal data must stay as strange as they are."""
    x = coarse.observations(100)
    together = coarse.p(x)
    alone = torch.cat([coarse.p({k: v[i : i + 1] for k, v in x.items()}) for i in range(100)])
    assert float((together[:100] - alone).abs().max()) < 1e-3


LEAST = 4.5 / 2_001
"""Of three views and a score: the row that is farthest in each of the three others is as strange in its own."""


def test_values_that_never_change_are_strange_when_they_do(coarse: Setup) -> None:
    x = coarse.observations(1)
    assert float(coarse.p(x)) > 0.01
    for other in (2e-21, 0.0, 1.00001e-21, 1.0):
        assert float(coarse.p({**x, "same": torch.tensor([[other]])})) < LEAST
    rounded = torch.nextafter(torch.tensor([[1e-21]]), torch.tensor(1.0))
    assert float(coarse.p({**x, "same": rounded})) > 0.01
    if coarse.simulator.name == "masked":  # the first number was never missing
        there = x["x_mask"].clone()
        there[:, 0] = False
        assert float(coarse.p({**x, "x_mask": there})) < LEAST


def test_counts_beyond_all_simulated_are_found_out(coarse: Setup) -> None:
    if coarse.simulator.name != "booleans":
        x = coarse.observations(1)
        assert float(coarse.p({**x, "x": torch.full((1, 3), 40.0)})) < 0.001


def test_planted_one_sided_ranks_are_caught() -> None:
    """Three values, each as frequent as the others: none is strange, whichever side ties are counted from."""
    simulated = torch.arange(3.0).repeat_interleave(500)[:, None].expand(-1, 3).double()
    p = conformal_p(simulated, torch.arange(3.0)[:, None].expand(-1, 3).double())
    assert p.tolist() == pytest.approx([1.0, 2 / 3, 1 / 3], abs=1e-3)
    assert float(conformal_p(simulated, torch.full((1, 3), torch.inf).double())) == pytest.approx(1 / 1_501)


def test_p_values_are_exact_for_the_fewest_rows() -> None:
    """Of n + 1 exchangeable rows each is the strangest once: P(p <= k / (n + 1)) <= k / (n + 1) whatever n is.

    It is equal where the views agree; where they do not, the strangest of each tie.
    """
    generator = torch.Generator().manual_seed(0)
    smallest = [0, 0]
    for _ in range(1_000):
        rows = torch.rand(10, 3, generator=generator, dtype=torch.float64)
        for k, seen in enumerate((rows, rows[:, :1].expand(-1, 3))):
            smallest[k] += float(conformal_p(seen[:9], seen[9:])) < 0.15
    assert smallest[0] / 1_000 < 0.1
    assert abs(smallest[1] / 1_000 - 0.1) < 0.04  # 4 sds
