"""Calibration passes the exact posterior, fails one that is wrong in width or place, and forgives what is too small."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sciinf import calibrate, load_simulator, simulate
from sciinf.campaigns import Store
from sciinf.core import Calibration, DensityUnavailable, Draws, Observable, Posterior, Prior, Simulator, X
from sciinf.core.doubts import Doubt, doubt
from sciinf.core.fit import campaign_of
from sciinf.diagnostics import PlantedFaults, ood, recalibrate
from sciinf.diagnostics.agreement import LEVELS
from sciinf.diagnostics.calibration import load_calibration
from sciinf.diagnostics.scores import planted
from sciinf.interfaces.answer import _inputs_digest
from sciinf.networks.kernels import lanes

ROWS = 5_000


@pytest.fixture(scope="module", autouse=True)
def levels_alike_for_all_data() -> Iterator[None]:
    """They, and planted faults, are looked at in `trust/`, and learning them takes longest here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recalibrate, "_LEAST", math.inf)
        patch.setattr(ood, "_ENOUGH", math.inf)
        yield


class Exact(Posterior):
    """The posterior of simulators/linear_gaussian.py, widened by a factor and moved by a fraction of its spread."""

    def __init__(self, simulator: Simulator, *, width: float = 1.0, shift: float = 0.0, density: bool = True) -> None:
        self.simulator, self.width, self.shift, self.density = simulator, width, shift, density
        self.name, self.digest = "exact", f"exact {width} {shift} {density}"
        self.prior, self.observables = simulator.prior, simulator.observables
        self.trained_on = frozenset()

    def _moments(self, x: X) -> tuple[torch.Tensor, torch.Tensor]:
        mean, covariance = self.simulator.exact(x)  # type: ignore[attr-defined]
        mean[..., 0] += self.shift * covariance[0, 0].sqrt()
        return mean, self.width * torch.linalg.cholesky(covariance)

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        theta = self.draw_batched(x, n, generator=generator)[:, 0]
        return Draws(self.prior.names, self.prior.units, theta, torch.zeros(n))

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> torch.Tensor:
        mean, root = self._moments(x)
        noise = torch.randn(n, len(mean), 3, generator=generator, dtype=torch.float64)
        return (mean + noise @ root.T).float()

    def log_prob_batched(self, theta: torch.Tensor, x: X) -> torch.Tensor:
        if not self.density:
            raise DensityUnavailable("only draws")
        mean, root = self._moments(x)
        return torch.distributions.MultivariateNormal(mean, scale_tril=root).log_prob(theta.double())

    def features(self, x: X) -> torch.Tensor:
        return self._moments(x)[0]


@pytest.fixture(scope="module")
def simulator(root: Path) -> Simulator:
    return load_simulator(root / "simulators" / "linear_gaussian.py")


@pytest.fixture(scope="module")
def fresh(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return simulate(simulator, tmp_path_factory.mktemp("fresh") / "store", ROWS, seed=3, progress=False)


@pytest.fixture(scope="module")
def judged(simulator: Simulator, fresh: Store) -> Callable[..., Calibration]:
    """The calibration of a posterior with a fault; those that several tests ask about are made once."""
    return functools.cache(lambda **fault: calibrate(Exact(simulator, **fault), fresh))


@pytest.fixture(scope="module")
def right(judged: Callable[..., Calibration]) -> Calibration:
    return judged()


def test_the_exact_posterior_passes(right: Calibration) -> None:
    # Eleven tests, each of which fails, or cannot tell, with a gap above 3 % (4.2 sd at level 1/2) only: below 1e-3.
    assert right.passed
    assert right.rows == ROWS
    assert right.ranks.shape == (ROWS, 3)
    assert right.failed_rows == 0
    assert right.ranks.min() >= 0
    assert right.ranks.max() == right.draws
    assert set(right.p_values) == {
        f"{kind} of {n}" for kind in ("rank", "interval", "average", "tail") for n in right.names
    } | {
        "coverage",
        "TARP",
        "tail of all parameters",
    }
    assert right.tails == ()
    assert min(right.p_values.values()) > 1e-4  # false alarms: 1.1e-3
    # A binomial sd is at most 0.5 / sqrt(5000) = 0.7 %; 38 levels within 4 sd: false alarms below 2.5e-3.
    for found in (right.coverage, right.tarp):
        assert np.abs(found - LEVELS).max() < 0.028
    assert "5,000 fresh simulations" in right.reasons[0]


@pytest.mark.slow
def test_p_values_are_uniform_over_campaigns(simulator: Simulator, tmp_path: Path) -> None:
    from scipy.stats import kstest

    found: dict[str, list[float]] = {}
    for seed in range(16):
        store = simulate(simulator, tmp_path / str(seed), 400, seed=seed, progress=False)
        for name, p in calibrate(Exact(simulator), store, seed=seed, draws=63).p_values.items():
            if not name.startswith("tail"):  # bounds of p-values: `trust/test_tails.py`
                found.setdefault(name, []).append(p)
    for values in found.values():  # eleven tests at 1e-4: false alarms 1.1e-3
        assert kstest(values, "uniform").pvalue > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"width": 1.2}, "coverage"),
        ({"width": 0.8}, "coverage"),
        ({"shift": 0.25}, "rank of height"),
        ({"shift": -0.25}, "rank of height"),
    ],
)
def test_planted_faults_fail(judged: Callable[..., Calibration], fault: dict[str, float], told: str) -> None:
    result = judged(**fault)
    assert not result.passed
    assert result.state == "not passed"
    assert any(reason.startswith(told) for reason in result.reasons), result.reasons
    assert result.cautious == (fault.get("width", 0) > 1)


def test_few_fresh_simulations_cannot_tell(simulator: Simulator, fresh: Store) -> None:
    """With 100 of them the exact posterior does not pass, for one with a gap of ten points would as well."""
    result = calibrate(Exact(simulator), fresh, rows=100)
    assert result.state == "cannot tell"
    assert not result.passed
    assert "100 fresh simulations are too few to see every gap of 5%" in result.reasons[0]
    assert re.search(r"; 3,\d00 would tell", result.reasons[0])
    assert calibrate(Exact(simulator), fresh, rows=100, gap=0.3).passed


def test_draws_that_are_doubted_while_calibrating_do_not_pass(simulator: Simulator, fresh: Store) -> None:
    posterior = Exact(simulator)
    right = posterior.draw_batched

    def doubted(x: X, n: int, *, generator: torch.Generator) -> torch.Tensor:
        doubt("chains did not settle", alarm=True, stacklevel=1)
        return right(x, n, generator=generator)

    posterior.draw_batched = doubted  # type: ignore[method-assign]
    with pytest.warns(Doubt, match="chains did not settle"):
        result = calibrate(posterior, fresh)
    assert result.state == "cannot tell"
    assert result.reasons[-1] == "while calibrating, chains did not settle"


def test_a_calibration_of_a_version_without_cannot_tell_has_to_be_made_again(right: Calibration) -> None:
    data = {name: value for name, value in right.to_json().items() if name not in ("state", "cautious")}
    assert Calibration.from_json(data).state == "cannot tell"
    assert Calibration.from_json({**data, "passed": False}).state == "not passed"


def test_too_wide_covers_more_and_too_narrow_less(judged: Callable[..., Calibration]) -> None:
    middle = slice(5, 14)
    assert (judged(width=1.2).coverage - LEVELS)[middle].min() > 0.03
    assert (judged(width=0.8).coverage - LEVELS)[middle].max() < -0.03


def test_the_fault_is_named_where_it_is(judged: Callable[..., Calibration]) -> None:
    result = judged(shift=0.25)
    # The truth then ranks too low: P(rank < half) = Phi(0.25) = 0.599 against 0.5.
    assert result.gaps["rank of height"] == pytest.approx(0.0987, abs=0.025)
    assert (result.ranks[:, 0] < 64).mean() == pytest.approx(0.599, abs=0.025)


@pytest.mark.parametrize("width", [0.98, 1.02])
def test_errors_too_small_to_matter_pass(simulator: Simulator, fresh: Store, width: float) -> None:
    assert calibrate(Exact(simulator, width=width), fresh).passed


@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_ranks_agree_with_sbi(simulator: Simulator, fresh: Store, shift: float) -> None:
    from sbi.diagnostics.sbc import check_uniformity_frequentist

    ours = calibrate(Exact(simulator, shift=shift), fresh, rows=500, draws=1023)
    theirs = check_uniformity_frequentist(torch.from_numpy(ours.ranks).float(), ours.draws)
    # sbi takes the ranks as they are, we spread each over its cell: the KS distance differs by 1/1024 at most, against
    # a typical one of 0.04 on 500 rows.
    for name, p in zip(ours.names, theirs.tolist(), strict=True):
        assert p == pytest.approx(ours.p_values[f"rank of {name}"], abs=0.06)


@pytest.mark.parametrize(("fault", "wrong"), [({}, False), ({"width": 1.3}, True), ({"shift": 1.0}, True)])
def test_tarp_agrees_with_sbi(simulator: Simulator, fresh: Store, fault: dict[str, float], wrong: bool) -> None:
    from sbi.diagnostics.tarp import _run_tarp
    from sbi.utils.metrics import l2

    posterior, rows = Exact(simulator, **fault), 2_000  # type: ignore[arg-type]
    batch = fresh.load(rows)
    generator = torch.Generator().manual_seed(3)
    references = simulator.prior.sample(rows, generator=generator)
    sample = posterior.draw_batched(batch.x, 127, generator=generator)
    scale = references.std(dim=0)
    theirs, alpha = _run_tarp(
        sample / scale, batch.theta / scale, references / scale, distance=l2, num_bins=20, z_score_theta=False
    )
    ours = calibrate(posterior, fresh, rows=rows)
    found = np.interp(ours.levels, alpha.numpy(), theirs.numpy())
    # Other reference points and draws: each curve has an sd of at most 1.1 %, their difference of 1.6 %.
    assert np.abs(found - ours.tarp).max() < 0.07
    assert (float((theirs - alpha).abs().max()) > 0.06) == wrong
    assert (ours.gaps["TARP"] > 0.06) == wrong


def test_without_a_density_the_rest_is_checked(simulator: Simulator, fresh: Store) -> None:
    result = calibrate(Exact(simulator, density=False), fresh)
    assert result.passed
    assert len(result.coverage) == 0
    assert "coverage" not in result.p_values
    assert not calibrate(Exact(simulator, width=0.7, density=False), fresh).passed


def test_the_training_simulations_are_refused(simulator: Simulator, fresh: Store, tmp_path: Path) -> None:
    posterior = Exact(simulator)
    posterior.trained_on = frozenset([fresh.digest])
    with pytest.raises(ValueError, match="another seed"):
        calibrate(posterior, fresh)
    # The same campaign with more rows has another digest, and yet the same first rows.
    posterior.trained_on = frozenset([campaign_of(fresh.simulator, fresh.seed)])
    with pytest.raises(ValueError, match="seed 3.*trained on"):
        calibrate(posterior, fresh)


def test_simulations_of_something_else_are_refused(simulator: Simulator, fresh: Store) -> None:
    posterior = Exact(simulator)
    posterior.prior = Prior(a=torch.distributions.Normal(0.0, 1.0))
    with pytest.raises(ValueError, match="holds simulations of Prior"):
        calibrate(posterior, fresh)
    posterior = Exact(simulator)
    posterior.observables = {"y": next(iter(simulator.observables.values()))}
    with pytest.raises(ValueError, match="'x'.*'y'"):
        calibrate(posterior, fresh)
    with pytest.raises(ValueError, match="at least 100 rows"):
        calibrate(Exact(simulator), fresh, rows=10)


def test_too_few_simulations_are_refused(simulator: Simulator, tmp_path: Path) -> None:
    store = simulate(simulator, tmp_path / "few", 50, seed=4, progress=False)
    with pytest.raises(ValueError, match="50 usable simulations"):
        calibrate(Exact(simulator), store)


def test_the_same_seed_gives_the_same_figures(simulator: Simulator, fresh: Store) -> None:
    first, again = (calibrate(Exact(simulator), fresh, rows=500) for _ in range(2))
    assert np.array_equal(first.ranks, again.ranks)
    assert first.p_values == again.p_values
    assert first.p_values != calibrate(Exact(simulator), fresh, rows=500, seed=1).p_values


def test_it_says_how_far_it_is(simulator: Simulator, fresh: Store, capsys: pytest.CaptureFixture[str]) -> None:
    calibrate(Exact(simulator), fresh, rows=500)
    assert capsys.readouterr().err.startswith("500 of 500 simulations calibrated on, ")
    calibrate(Exact(simulator), fresh, rows=500, progress=False)
    assert not capsys.readouterr().err


def test_round_trip_and_skip(simulator: Simulator, fresh: Store, tmp_path: Path) -> None:
    made = calibrate(Exact(simulator), fresh, tmp_path, rows=1_000)
    data = json.loads((tmp_path / "calibration.json").read_text())
    assert data["passed"] is made.passed
    assert data["state"] == made.state
    assert len(data["ranks"]) == 1_000
    back = load_calibration(tmp_path)
    assert np.array_equal(back.ranks, made.ranks)
    assert np.array_equal(back.coverage, made.coverage)
    for name in ("names", "p_values", "gaps", "reasons", "fit", "simulations", "passed", "draws", "of"):
        assert getattr(back, name) == getattr(made, name)
    assert set(back.reference) == set(made.reference)
    assert all(torch.equal(back.reference[k], made.reference[k]) for k in made.reference)

    before = (tmp_path / "calibration.json").stat().st_mtime_ns
    calibrate(Exact(simulator), fresh, tmp_path, rows=1_000)
    assert (tmp_path / "calibration.json").stat().st_mtime_ns == before
    calibrate(Exact(simulator, width=1.2), fresh, tmp_path, rows=1_000)  # another posterior
    assert (tmp_path / "calibration.json").stat().st_mtime_ns != before


def test_a_pass_is_not_read_back_for_a_smaller_gap(simulator: Simulator, fresh: Store, tmp_path: Path) -> None:
    """The exact posterior with 100 rows passes for a gap of .3, and cannot for the usual one."""
    assert calibrate(Exact(simulator), fresh, tmp_path, rows=100, gap=0.3).passed
    assert calibrate(Exact(simulator), fresh, tmp_path, rows=100).state == "cannot tell"


@pytest.mark.parametrize("name", ["reference.safetensors", "calibration.json"])
def test_damage_is_refused_and_mended_by_calibrating_again(
    simulator: Simulator, fresh: Store, tmp_path: Path, name: str
) -> None:
    made = calibrate(Exact(simulator), fresh, tmp_path, rows=200)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / name).write_bytes(bytes(data))
    with pytest.raises(ValueError, match=f"{name}.*damaged"):
        load_calibration(tmp_path)
    calibrate(Exact(simulator), fresh, tmp_path, rows=200)
    assert load_calibration(tmp_path).p_values == made.p_values
    (tmp_path / name).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match="calibrate"):
        load_calibration(tmp_path)


class Scales(Simulator):
    """x = theta + noise, of two parameters of one law, the second 10,000 times the first."""

    name = "scales"
    sd = torch.tensor([1.0, 1e4])
    prior = Prior.joint(("a", "b"), torch.distributions.MultivariateNormal(torch.zeros(2), torch.diag(sd**2)))
    observables = {"x": Observable((2,))}

    def __call__(self, theta: torch.Tensor, *, generator: torch.Generator) -> X:
        return {"x": (theta + self.sd * torch.randn(theta.shape, generator=generator)).float()}

    def exact(self, x: X) -> tuple[torch.Tensor, torch.Tensor]:
        return x["x"].double() / 2, torch.diag(self.sd.double() ** 2 / 2)


class Right(Exact):
    """The posterior of `Scales`; `narrow` is what its spread of the first parameter is multiplied by."""

    narrow = 1.0

    def _moments(self, x: X) -> tuple[torch.Tensor, torch.Tensor]:
        mean, covariance = self.simulator.exact(x)
        return mean, torch.diag(torch.tensor([self.narrow, 1.0], dtype=torch.float64)) @ covariance.sqrt()

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> torch.Tensor:
        mean, root = self._moments(x)
        return (mean + torch.randn(n, len(mean), 2, generator=generator, dtype=torch.float64) @ root.T).float()


def test_distances_are_measured_in_units_of_each_parameter(tmp_path: Path) -> None:
    simulator = Scales()
    store = simulate(simulator, tmp_path / "fresh", 2_000, seed=3, progress=False)
    half = Right(simulator)
    half.narrow, half.digest = 0.5, "half"
    calibration = calibrate(half, store, draws=63)
    # of 2,000 rows a gap above 0.05 comes by chance once in 10,000 posteriors that are right
    assert calibrate(Right(simulator), store, draws=63).gaps["TARP"] < 0.05
    assert calibration.gaps["TARP"] > 0.05  # in one unit for both it is below 0.03, for b alone says what is near


def test_an_answer_is_asked_again_when_other_scores_were_learned(
    simulator: Simulator, fresh: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The references have the same names, and what an answer is of has their contents."""
    for name in ("_STEPS", "_DESCENT"):
        monkeypatch.setattr(planted, name, 20)
    x = {"x": fresh.load(slice(0, 1)).x["x"]}
    scores = [PlantedFaults(kinds=("level",)), PlantedFaults(kinds=("drift",))]
    found = [calibrate(Exact(simulator), fresh, rows=100, scores=[score]) for score in scores]
    assert found[0].reference.keys() == found[1].reference.keys()
    of = [_inputs_digest(Exact(simulator), x, calibration, ()) for calibration in (*found, found[0])]
    assert of[0] == of[2] != of[1]


def test_draws_are_shared_by_all_cores(simulator: Simulator, fresh: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    class Watched(Exact):
        def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> torch.Tensor:
            now = lanes._now.get()
            seen.add(1 if now is None else now.cores)
            return super().draw_batched(x, n, generator=generator)

    monkeypatch.setattr("sciinf.diagnostics.calibration.cores_here", lambda: 3)
    calibrate(Watched(simulator), fresh, rows=100, draws=7, scores=[])
    assert seen == {3}
