"""Questions that are answered together are answered as each is alone, and no long one holds up short ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from served import source

from sciinf import Recipe, Score, build_posterior, calibrate, load_simulator, query, simulate, train
from sciinf.core import Answer, Observation
from sciinf.interfaces.question import QueryOptions
from sciinf.interfaces.serve import worker as fusion
from sciinf.interfaces.serve.models import Models
from sciinf.interfaces.serve.stored import NOT_MADE
from sciinf.interfaces.serve.wire import answer_in, unpack
from sciinf.interfaces.serve.worker import COLUMN, COLUMNS, Fusion, Ticket
from sciinf.networks.diffusion.solver import Heun
from sciinf.posteriors.amortised import Amortised, pushed


@pytest.fixture(scope="module")
def models(line_made: Path) -> Models:
    return Models([source(line_made / "run")])


def observed(count: int) -> list[Observation]:
    """Some tracks, and what is measured of them."""
    generator = torch.Generator().manual_seed(7)
    slope, offset = torch.randn(2, count, 1, generator=generator)
    x = offset + slope * torch.arange(5.0) + torch.randn(count, 5, generator=generator)
    return [Observation({"x": one}) for one in x]


def run(models: Models, tickets: Sequence[Ticket]) -> tuple[dict[int, Answer], dict[int, Exception], list[int]]:
    """The answers, in the order in which they came; what failed; and what was left to the other lane."""
    found: dict[int, Answer] = {}
    failed: dict[int, Exception] = {}
    alone: list[int] = []
    calibration = models.get("run").first.calibration

    def done(id: int, message: bytes) -> None:
        found[id] = answer_in(*unpack(message), calibration)

    together = Fusion(models, done, failed.__setitem__, alone.append)
    for ticket in tickets:
        together.add(ticket)
    while together.busy:
        together.step()
    return found, failed, alone


def ticket(id: int, x: Observation, draws: int, **more: object) -> Ticket:
    return Ticket(id, "run", x, QueryOptions(draws=draws, seed=id, predicted=bool(more.get("predicted", False))))


def test_a_fused_answer_is_the_lone_one(models: Models) -> None:
    sizes = [1, 17, 200, 255, 256, 257, 999, 2_500, 6_100]
    xs = observed(len(sizes))
    found, failed, _ = run(models, [ticket(k, x, n) for k, (x, n) in enumerate(zip(xs, sizes, strict=True))])
    judge = models.get("run").first
    assert not failed
    for k, (x, n) in enumerate(zip(xs, sizes, strict=True)):
        lone = query(judge.posterior, x, judge.calibration, draws=n, seed=k)
        assert torch.allclose(found[k].draws.theta, lone.draws.theta, rtol=1e-5, atol=1e-5)
        assert (found[k].trust.level, found[k].calibration) == (lone.trust.level, lone.calibration)
        *checks, unmade = found[k].checks
        assert [c.to_json() for c in checks] == [c.to_json() for c in lone.checks]
        assert unmade.kind == NOT_MADE
        for name, one in lone.parameters.items():
            assert found[k].parameters[name].median == pytest.approx(one.median, abs=1e-5)
            assert (found[k].parameters[name].corrected is None) == (one.corrected is None)


def test_draws_do_not_depend_on_who_else_asks(models: Models) -> None:
    xs = observed(6)
    (alone, _, _), (among, _, _) = (
        run(models, [ticket(2, xs[2], 700)]), run(models, [ticket(k, x, 700) for k, x in enumerate(xs)])
    )  # fmt: skip
    assert torch.allclose(alone[2].draws.theta, among[2].draws.theta, atol=1e-5)
    assert not torch.allclose(among[2].draws.theta, among[3].draws.theta, atol=1e-2)


def test_a_long_question_does_not_hold_up_short_ones(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    xs, moved = observed(9), []
    real = fusion._moved
    monkeypatch.setattr(fusion, "_moved", lambda d, noise: moved.append([len(one) for one in noise]) or real(d, noise))
    long = 40 * COLUMN * COLUMNS
    found, _, _ = run(models, [ticket(0, xs[0], long), *(ticket(k, xs[k], 200) for k in range(1, 9))])
    assert list(found)[-1] == 0
    assert sum(size == 200 for size in moved[0]) == 8  # all short ones are in the first pass
    assert max(map(len, moved)) == COLUMNS
    assert len(moved) > 40


def test_one_that_fails_takes_no_other_with_it(models: Models) -> None:
    xs = observed(3)
    bad = Observation({"x": torch.full((5,), float("nan"))})
    found, failed, _ = run(models, [ticket(0, xs[0], 50), ticket(1, bad, 50), ticket(2, xs[2], 50)])
    assert set(found) == {0, 2}
    assert "NaN or infinite" in str(failed[1])


def test_a_question_that_nobody_waits_for_is_dropped(models: Models) -> None:
    found: list[int] = []
    together = Fusion(models, lambda id, message: found.append(id), lambda *_: None, lambda *_: None)
    for k, x in enumerate(observed(3)):
        together.add(ticket(k, x, 50 * COLUMN * COLUMNS if k == 1 else 100))
    together.step()
    together.drop(1)
    while together.busy:
        together.step()
    assert found == [0, 2]


def test_what_cannot_be_fused_is_left_to_the_other_lane(models: Models) -> None:
    _, _, alone = run(models, [ticket(0, observed(1)[0], 50, predicted=True)])
    assert alone == [0]


@pytest.mark.slow
def test_a_score_is_fused_too(line_made: Path, tmp_path: Path) -> None:
    folder = scored(line_made, tmp_path / "run")
    own = Models([source(folder)])
    sizes = [200, 3_000, 257]
    xs = observed(len(sizes))
    found, failed, alone = run(own, [ticket(k, x, n) for k, (x, n) in enumerate(zip(xs, sizes, strict=True))])
    judge = own.get("run").first
    assert not failed
    assert not alone
    for k, (x, n) in enumerate(zip(xs, sizes, strict=True)):
        lone = query(judge.posterior, x, judge.calibration, draws=n, seed=k)
        assert torch.allclose(found[k].draws.theta, lone.draws.theta, rtol=1e-4, atol=1e-5)


def test_a_solver_that_puts_noise_in_is_not_fused(models: Models) -> None:
    posterior = build_posterior(models.get("run").fit)
    x = {"x": torch.zeros(1, 5)}
    score = Score(posterior.prior, posterior.observables)
    assert isinstance(posterior, Amortised)
    posterior.estimator = score
    assert pushed(posterior, x) is not None
    score.solver = Heun(8, churn=4.0)
    assert pushed(posterior, x) is None


def scored(line_made: Path, folder: Path) -> Path:
    """The run's simulations, with a `Score` trained on them."""
    simulator = load_simulator(line_made / "line.py")
    store = simulate(simulator, folder / "simulations", 300, seed=0)
    made = Score(simulator.prior, simulator.observables, hidden=16, blocks=1)
    fit = train(made, store, folder / "fit", recipe=Recipe(epochs=2), seed=0)
    fresh = simulate(simulator, folder / "calibration_simulations", 300, seed=1)
    calibrate(build_posterior(fit), fresh, folder)
    return folder
