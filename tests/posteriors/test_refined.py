"""Rounds around an answer: against exact posteriors, from a wrong answer, stopped, read again, and out of reach."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from narrow import NOISE, PRIOR, SEEN, Exact, Laws, Narrow, Wrong, X, exact, exactly_refined, fit_of, generator
from torch import distributions as td

from sciinf.campaigns.store import Store
from sciinf.core import load_fit
from sciinf.core.files import read_json, write_json
from sciinf.core.simulator import FILES
from sciinf.diagnostics.around import simulate_around
from sciinf.diagnostics.here import check_here
from sciinf.interfaces.asking import load_posterior
from sciinf.networks.flows.zuko_flows import MAF
from sciinf.posteriors import refined, round_laws
from sciinf.posteriors.around import Law, Mixture
from sciinf.posteriors.likelihood_weighted import inside
from sciinf.posteriors.refined import Refined, load_refined, refine_around
from sciinf.training import Recipe
from sciinf.training.estimators.flow import Flow


@pytest.fixture(scope="module")
def known():
    return exactly_refined()


def off(posterior, x=X):
    """Means and sds of 20,000 draws, in sds of the exact answer: (2,), (2,)."""
    theta = posterior.draw_batched(x, 20_000, generator=generator(2))[:, 0].double()
    mean, covariance = exact(x["x"])
    sd = covariance.diagonal().sqrt()
    return (theta.mean(0) - mean[0]) / sd, theta.std(0) / sd


def test_draws_are_of_the_posterior_under_the_prior(known):
    shift, width = off(known)
    assert shift.abs().max() < 0.05
    assert (width - 1).abs().max() < 0.03
    # without the weights they would be of the posterior under the law of the rounds
    shift, width = off(known.local)
    assert (width < 0.93).any()


class Leaking(Laws):
    """Five of 100,000 draws lie anywhere."""

    def sample(self, n, *, generator):
        theta = super().sample(n, generator=generator)
        astray = torch.rand(theta.shape[:2], generator=generator) < 5e-5
        return torch.where(astray[..., None], 4 * torch.rand(theta.shape, generator=generator) - 2, theta)

    def log_prob(self, theta):
        leaked = torch.full(theta.shape[:-1], math.log(5e-5 / 16), dtype=torch.float64)
        return torch.logaddexp(super().log_prob(theta), leaked)


def test_a_few_draws_of_a_flow_where_nothing_was_simulated_are_left_out(known, monkeypatch):
    """The law of the rounds is narrow, so weights prior / law of what lies outside it are all that count."""
    monkeypatch.setattr(Exact, "condition", lambda self, x: Leaking(self.mixture, x["x"].double()))
    assert (off(known)[1] < 0.5).all(), "one draw has all the weight"
    monkeypatch.setattr(known, "is_flow", True)
    shift, width = off(known)
    assert shift.abs().max() < 0.05
    assert (width - 1).abs().max() < 0.03


def test_draws_of_several_observations_each_are(known):
    x = {"x": X["x"] + torch.tensor([[0.1, 0.0], [0.0, -0.1], [0.0, 0.0]])}
    theta = known.draw_batched(x, 5_000, generator=generator())
    mean, covariance = exact(x["x"])
    assert ((theta.double().mean(0) - mean) / covariance.diagonal().sqrt()).abs().max() < 0.1


def test_its_density_is_that_of_the_posterior_under_the_prior(known):
    theta = known.draw_batched(X, 50, generator=generator())
    mean, covariance = exact(X["x"])
    expected = td.MultivariateNormal(mean, covariance).log_prob(theta.double())
    assert (known.log_prob_batched(theta, X) - expected).abs().max() < 0.02
    both = {"x": X["x"].expand(2, 2)}
    found = known.log_prob_batched(theta.expand(50, 2, 2), both)
    assert (found - expected).abs().max() < 0.06


def test_the_narrowest_law_leaves_the_share_of_draws_that_is_said():
    """Of normal posteriors under a flat prior, by the moments of normal draws: E[w]^2 / E[w^2]."""
    for size in (5, 8, 20):
        k = round_laws.widths(size)[0][1]
        variance, slope = k**2 / (1 + k**2), 1 / k**2  # of the draws; log w = slope u^2 / 2
        first, second = (1 - variance * slope) ** -0.5, (1 - 2 * variance * slope) ** -0.5
        assert (first**2 / second) ** size == pytest.approx(0.6)
    assert round_laws.widths(2) == ((0.8, 1.5), (0.2, 3.0))


def test_it_reaches_what_lies_near_and_nothing_else(known):
    sd = math.sqrt(NOISE**2)
    near = [X["x"] + sd * torch.tensor(step) for step in ([0.0, 0.0], [1.0, 0.0], [0.0, -1.5])]
    far = [X["x"] + sd * torch.tensor(step) for step in ([6.0, 0.0], [0.0, -6.0], [12.0, 0.0], [0.0, 30.0])]
    assert all(known.reaches({"x": x}) for x in near)
    assert not any(known.reaches({"x": x}) for x in far)


def test_what_lies_far_is_answered_with_a_warning(known, recwarn):
    """Means were several sds off, in silence."""
    known.sample(10, X, generator=generator())
    known.sample(10, {"x": X["x"] + NOISE * torch.tensor([1.0, 0.0])}, generator=generator())
    assert not [one for one in recwarn if "refined around" in str(one.message)]
    with pytest.warns(UserWarning, match="refined around another observation, too far from this one"):
        known.sample(10, {"x": X["x"] + NOISE * torch.tensor([12.0, 0.0])}, generator=generator())


@pytest.mark.parametrize("seed", range(3))
def test_the_local_check_passes_what_is_exact_and_sees_a_wrong_law(known, seed):
    """Exact answers alarm once in a hundred."""
    level = _verdict(known, seed)
    assert level in ("good", "unknown")
    moved = [(weight, Law(law.centre + 0.15, law.factor)) for weight, law in known.mixture.parts]
    wrong = Refined(fit_of(known), Mixture(PRIOR, moved, {}), known.last, X, frozenset())
    assert _verdict(wrong, seed) == "alarm"


@pytest.mark.slow
def test_each_network_around_an_answer_begins_with_weights_of_its_own(tmp_path, monkeypatch):
    """One that begins with those of another errs as it does. A number for each round, as many rounds as numbers."""
    monkeypatch.setattr(refined, "changes", lambda before, after, x: (0.1, math.inf))
    how = {"recipe": Recipe(epochs=1), "seed": 4, "progress": False}
    found = refine_around(Narrow(), X, tmp_path, Wrong(0.0, 1.0), simulations=(300, 400), **how)
    made = [
        read_json(tmp_path / f"round_{k}/{part}/fit.json")["estimator"]["arguments"]["seed"]
        for part in ("fit", "likelihood_0")
        for k in (1, 2)
    ]
    assert len({0, 4, *made[:2]}) == 4
    assert made[2] != made[3]
    assert [len(Store(tmp_path / f"round_{k}/simulations")) for k in (1, 2)] == [300, 400]
    assert [round(weight, 3) for weight, _ in found.mixture.parts] == [0.343, 0.086, 0.457, 0.114]
    assert found.error == (pytest.approx(0.1 * math.sqrt(300 / 400)), math.inf)
    assert load_refined(tmp_path).error == found.error, "JSON has no infinity"
    with pytest.raises(ValueError, match="simulations has numbers for 2 rounds of 3 or more; give one for each"):
        refine_around(Narrow(), X, tmp_path / "more", Wrong(0.0, 1.0), rounds=3, simulations=(300, 400), **how)


def _verdict(posterior, seed):
    theta = posterior.draw_batched(X, 2_000, generator=generator(seed))[:, 0]
    simulated = simulate_around(posterior, Narrow(), theta, rows=2_000, generator=generator(seed))
    (check,) = check_here(posterior, X, simulated, generator=generator(seed))
    return check.level


def rounds(out, *, first=None, stop=None, x=X, **settings):
    how = {"rounds": 2, "simulations": 1_000, "recipe": Recipe(epochs=30), **settings}
    estimator = Flow(PRIOR, SEEN, flow=MAF(2, (32,)))
    return refine_around(Narrow(stop), x, out, first or Wrong(1.5, 1.3), estimator=estimator, progress=False, **how)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("rounds")
    return out, rounds(out)


@pytest.mark.slow
def test_rounds_from_a_wrong_answer_end_at_the_right_one(made):
    """It was off by 1.5 sds, and 1.3 times too wide."""
    shift, width = off(made[1])
    assert shift.abs().max() < 0.15
    assert (width - 1).abs().max() < 0.1


@pytest.mark.slow
def test_rounds_are_read_again_to_the_bit_and_go_on(made, tmp_path):
    out, posterior = made
    again, loaded = rounds(out), load_refined(out)
    shutil.copytree(out, tmp_path / "refined/near/rounds")
    (tmp_path / "fit").mkdir()
    write_json(tmp_path / "fit/fit.json", {"digest": "of a network that was trained since"})
    with pytest.raises(FileNotFoundError, match="or was refined from another network"):
        load_posterior(tmp_path, name="near")
    write_json(tmp_path / "fit/fit.json", {"digest": read_json(out / "refined.json")["first"]})
    with pytest.raises(FileNotFoundError, match="what is there confirmed the answer, is unfinished"):
        load_posterior(tmp_path, name="near")
    (tmp_path / "refined/near/calibration.json").write_text("{}")
    assert load_posterior(tmp_path, name="near").digest == posterior.digest
    with pytest.raises(FileNotFoundError, match="refined around 'far': there is near"):
        load_posterior(tmp_path, name="far")
    theta = posterior.draw_batched(X, 10, generator=generator())
    assert torch.equal(again.draw_batched(X, 10, generator=generator()), theta)
    assert torch.equal(loaded.draw_batched(X, 10, generator=generator()), theta)
    assert loaded.local.under == loaded.mixture.to_json()
    assert loaded.trained_on == posterior.trained_on
    assert loaded.error == again.error == posterior.error
    assert posterior.likelihood is not None
    assert loaded.likelihood is not None
    assert loaded.likelihood[1] == again.likelihood[1] == posterior.likelihood[1] > 0
    assert loaded.likelihood[0].digest == posterior.likelihood[0].digest
    last = posterior.likelihood[0].folder.parent
    loss = {f.name: load_fit(f).record["best_validation_loss"] for f in last.glob("likelihood_*")}
    assert posterior.likelihood[0].folder.name == min(loss, key=loss.__getitem__)
    assert posterior.error[0] > 0
    assert sorted(f.name for f in (out / "round_1").iterdir()) == [
        "fit",
        "likelihood_0",
        "likelihood_6",
        "near",
        "proposal.json",
        "simulations",
        "training",
    ]
    newest = max(out.glob("round_*"))
    near, rows = (Store(newest / name).load().theta for name in ("near", "training"))
    assert inside(posterior.prior, posterior.last, near).all()
    assert len(near) == int(inside(posterior.prior, posterior.last, rows).sum()) < len(rows)


@pytest.mark.slow
def test_rounds_end_when_they_are_told_to(made, tmp_path):
    """A callable that says so after the first; what is left is read again."""
    seen = []
    shutil.copytree(made[0], tmp_path / "copy")
    found = rounds(tmp_path / "copy", until=lambda posterior: not seen.append(posterior.digest))
    assert seen == [found.digest] == [load_refined(tmp_path / "copy").digest]
    assert found.digest != made[1].digest


@pytest.mark.slow
def test_a_stop_at_any_moment_loses_nothing(made, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        rounds(tmp_path, stop=5)
    with pytest.raises(ValueError, match="unfinished"):
        load_refined(tmp_path)
    found = rounds(tmp_path)
    assert found.digest == made[1].digest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": {"x": torch.tensor([[0.6, -0.5]])}}, "rounds of another observation"),
        ({"simulations": 999}, "rounds of another simulations"),
        ({"first": Wrong(0.0, 1.0)}, "rounds of another first"),
        ({"seed": 1}, "rounds of another seed"),
    ],
)
def test_rounds_of_something_else_are_refused(made, change, words):
    with pytest.raises(ValueError, match=words):
        rounds(made[0], **change)


@pytest.mark.slow
def test_changed_files_are_refused_unless_they_are_accepted(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "copy")
    file = tmp_path / "copy" / "refined.json"
    said = read_json(file)
    said["simulator"] = {key: "0" * 64 if key in FILES else value for key, value in said["simulator"].items()}
    write_json(file, said)
    with pytest.raises(ValueError, match=r"rounds of another simulator \(.*has changed"):
        rounds(file.parent)
    assert rounds(file.parent, accept_changes=True).digest == made[1].digest


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"simulations": 0}, {"simulations": (10, 0)}, {"simulations": 0.5}])
def test_numbers_that_make_no_sense_are_refused(wrong, tmp_path):
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} must be an integer of at least 1"):
        rounds(tmp_path, **wrong)


def test_an_answer_that_does_not_vary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="do not vary in every parameter"):
        rounds(tmp_path, first=Wrong(0.0, 0.0))


@pytest.mark.slow
def test_what_is_damaged_is_said(made, tmp_path):
    with pytest.raises(FileNotFoundError, match="no rounds around an answer"):
        load_refined(tmp_path)
    out = tmp_path / "copy"
    shutil.copytree(made[0], out)
    (out / "round_1" / "proposal.json").write_text("{}")
    with pytest.raises(ValueError, match="missing, damaged or of another observation"):
        load_refined(out)
    (out / "observation.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="damaged or missing; call refine_around again"):
        load_refined(out)
    write_json(out / "refined.json", {**json.loads((out / "refined.json").read_text()), "schema": 99})
    with pytest.raises(ValueError, match="another format"):
        load_refined(out)


class Rounded(Narrow):
    """What is read is rounded to halves."""

    def __call__(self, theta, *, generator):
        return {"x": (2 * super().__call__(theta, generator=generator)["x"]).round() / 2}


@pytest.mark.slow
@pytest.mark.parametrize(("simulator", "learned"), [(Narrow(), True), (Rounded(), False)])
def test_rounded_numbers_have_no_likelihood_of_their_own(simulator, learned, tmp_path):
    """A density of them has no bound."""
    refine_around(
        simulator, X, tmp_path, Wrong(0.0, 1.0), simulations=(1_000,), recipe=Recipe(epochs=1), progress=False
    )
    assert (tmp_path / "round_1/likelihood_0").is_dir() == learned


@pytest.mark.slow
@pytest.mark.parametrize(("many", "laws"), [(10**6, 5), (1_000, 16)])
def test_many_numbers_are_learned_with_more_laws(many, laws, tmp_path, monkeypatch):
    """A density with an edge is followed by those alone; few numbers are learned by heart."""
    monkeypatch.setattr(refined, "_MANY", many)
    refine_around(Narrow(), X, tmp_path, Wrong(0.0, 1.0), simulations=(1_000,), recipe=Recipe(epochs=1), progress=False)
    (own,) = (tmp_path / "round_1").glob("likelihood_0*")
    assert load_fit(own).estimator.parts == laws
    assert load_refined(tmp_path).likelihood is not None


@pytest.mark.slow
def test_rounds_that_were_made_with_five_laws_keep_them(tmp_path, monkeypatch):
    how = {"simulations": (1_000,), "recipe": Recipe(epochs=1), "progress": False}
    before = refine_around(Narrow(), X, tmp_path, Wrong(0.0, 1.0), **how)
    monkeypatch.setattr(refined, "_MANY", 1_000)
    assert refine_around(Narrow(), X, tmp_path, Wrong(0.0, 1.0), **how).digest == before.digest
