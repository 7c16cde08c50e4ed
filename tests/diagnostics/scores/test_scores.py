"""Every score keeps its contract: p is right for the model's own data, the same each time, and files keep it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import distributions as td

from sciinf import calibrate, simulate
from sciinf.core import Draws, Observable, Posterior, Prior, Simulator
from sciinf.diagnostics import DiffusionTime, HierarchicalRatio, NeuronCoverage, PlantedFaults
from sciinf.diagnostics.ood import REFERENCE, check_observation, make_reference, p_values
from sciinf.diagnostics.scores import coverage_of_neurons, hierarchy, noise_time, planted
from sciinf.diagnostics.scores.known import check_scores, distances_of
from sciinf.diagnostics.scores.perceptron import applied, drawn
from sciinf.diagnostics.scores.score import Numbers, bent

SENSORS, ROWS = 12, 3_000
SCORED = (PlantedFaults(), DiffusionTime(), HierarchicalRatio(), NeuronCoverage())


class Curves(Simulator):
    """A level and a slope over time, with noise of a size that is unknown as well."""

    name = "curves"
    prior = Prior(level=td.Normal(0.0, 2.0), slope=td.Normal(0.0, 2.0), noise=td.LogNormal(-1.0, 0.5))
    observables = {"x": Observable((SENSORS,), dims=("time",))}

    def __call__(self, theta, *, generator):
        t = torch.linspace(-1.0, 1.0, SENSORS)
        noise = torch.randn(len(theta), SENSORS, generator=generator)
        return {"x": theta[:, :1] + theta[:, 1:2] * t + theta[:, 2:] * noise}


class Plain(Posterior):
    """What it learned of data is their level, slope and size of noise; it draws from the prior."""

    name, digest, trained_on = "plain", "plain", frozenset()
    prior, observables = Curves.prior, Curves.observables

    def features(self, x):
        t = torch.linspace(-1.0, 1.0, SENSORS)
        level, slope = x["x"].mean(1), x["x"] @ t / t.square().sum()
        left = x["x"] - level[:, None] - slope[:, None] * t
        return torch.stack([level, slope, left.std(1).clamp_min(1e-3).log()], dim=1)

    def draw_batched(self, x, n, *, generator):
        return self.prior.sample(n * len(x["x"]), generator=generator).reshape(n, len(x["x"]), -1)

    def draw(self, x, n, *, generator) -> Draws:
        raise NotImplementedError

    def log_prob_batched(self, theta, x):
        raise NotImplementedError


def observed(count, seed):
    generator = torch.Generator().manual_seed(seed)
    simulator = Curves()
    theta = simulator.prior.sample(count, generator=generator)
    return simulator(theta, generator=generator)["x"], theta[:, 2:], generator


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(Curves(), tmp_path_factory.mktemp("scores") / "fresh", ROWS, seed=1, progress=False)


@pytest.fixture(scope="module")
def reference(store):
    with pytest.MonkeyPatch.context() as patch:  # what these two say is not compared
        patch.setattr(hierarchy, "_STEPS", 300)
        patch.setattr(noise_time, "_STEPS", 200)
        return make_reference(Plain(), store, SCORED)


def of(reference, *names):
    """The reference of some scores alone, those that come first."""
    kept = tuple(f"scores/{name}/" for name in names)
    found = {k: v for k, v in reference.items() if not k.startswith("scores/") or k.startswith(kept)}
    return found | {REFERENCE: reference[REFERENCE][:, : 3 + len(names)].contiguous()}


def powers(reference, x):
    """Of each score, the share of data farther out than 99 of 100 simulations."""
    limit = reference[REFERENCE][:, 3:].quantile(0.99, dim=0)
    return (distances_of(reference, Plain(), {"x": x}) > limit).double().mean(0)


def test_false_alarms_are_as_stated(reference):
    """1,000 data sets beside 2,000 simulations: the shares vary by .0039; beyond .025 once in 10,000 runs."""
    x, _, _ = observed(1_000, 7)
    assert float((p_values(reference, Plain(), {"x": x}) < 0.01).double().mean()) < 0.025
    assert float(powers(reference, x).max()) < 0.025


def test_planted_faults_see_what_goes_wrong_and_more_than_the_views(reference):
    """One number 6 sds off, where noise is of unknown size: the score sees it in two of five, the views hardly ever."""
    x, noise, generator = observed(500, 8)
    k = torch.randint(SENSORS, (len(x), 1), generator=generator)
    wrong = x.scatter_add(1, k, 6 * noise)
    assert float(powers(reference, wrong)[0]) > 0.35
    shares = [
        float((p_values(one, Plain(), {"x": wrong}) < 0.01).double().mean())
        for one in (of(reference), of(reference, "PlantedFaults"))
    ]
    assert shares[0] < 0.1
    assert shares[1] > 0.18


@pytest.mark.slow
def test_the_verdict_says_what_sees_it(reference):
    """Where only the score is alarmed, the verdict says so, and none that the views see is called so."""
    x, noise, _ = observed(200, 14)
    wrong = x.index_add(1, torch.tensor([4]), 8 * noise)
    alone = of(reference, "PlantedFaults")
    told = [check_observation(alone, Plain(), {"x": row[None]}) for row in wrong]
    plain = [check_observation(of(reference), Plain(), {"x": row[None]}) for row in wrong]
    said = ["a score that was trained on them (PlantedFaults)" in trust.words for trust in told]
    assert sum(said) > 10
    assert all(
        trust.level == "alarm" and view.level == "good" for trust, view, it in zip(told, plain, said, strict=True) if it
    )
    far = check_observation(alone, Plain(), {"x": wrong[:1] + 100.0})
    assert "the observation is unlike the simulations" in far.words


def test_kinds_that_were_not_planted_are_seen_too(reference):
    """Halves of two data sets, and a bend over all times: no such fault was planted."""
    x, noise, _ = observed(500, 9)
    halves = torch.cat([x[:, :6], observed(500, 10)[0][:, 6:]], dim=1)
    bend = torch.linspace(-1.0, 1.0, SENSORS).square() - 0.4
    assert float(powers(reference, halves)[0]) > 0.25
    assert float(powers(reference, x + 10 * noise * bend)[0]) > 0.25


def test_a_fault_along_the_model_is_not_seen(reference):
    x, _, _ = observed(500, 11)
    assert float(powers(reference, x + 0.5)[0]) < 0.04


def test_files_keep_a_reference_and_older_ones_still_load(reference):
    x = {"x": observed(50, 12)[0]}
    kept = load(save(dict(reference)))
    assert torch.equal(p_values(kept, Plain(), x), p_values(reference, Plain(), x))
    older = of(reference)
    assert float(p_values(older, Plain(), x).mean()) > 0.3
    assert check_observation(older, Plain(), {"x": x["x"][:1]}).level in ("good", "caution", "alarm")


def test_data_alone_as_in_a_batch(reference):
    x = observed(20, 13)[0]
    together = distances_of(reference, Plain(), {"x": x})
    alone = torch.cat([distances_of(reference, Plain(), {"x": row[None]}) for row in x])
    assert torch.allclose(together[:, :3], alone[:, :3], atol=1e-3)


@pytest.mark.parametrize("score", [PlantedFaults(), NeuronCoverage()], ids=lambda score: score.name)
def test_the_same_simulations_teach_the_same(score, store, monkeypatch):
    for module, name in ((planted, "_DESCENT"), (planted, "_STEPS"), (coverage_of_neurons, "_STEPS")):
        monkeypatch.setattr(module, name, 20)
    monkeypatch.setattr(planted, "_POOL", 500)
    state = torch.get_rng_state()
    x = store.load(slice(0, 300)).x
    one, two = (score.fit(Plain(), x, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(state, torch.get_rng_state())


def test_faults_change_what_they_should(store):
    x = store.load(slice(0, 400)).x
    numbers = Numbers(Curves.observables).fit(x)
    _, there = numbers(x)
    generator = torch.Generator().manual_seed(0)
    for kind in planted.FAULTS:
        spoilt = planted.planted(numbers, x, 0.1 * there, (kind,), generator)["x"]
        same = (spoilt[:, None] == x["x"]).sum(2)  # numbers of each that a simulation has in the same place
        changed = SENSORS - same.amax(1)
        assert int(changed.min()) >= 1  # what a fault has not changed is none
        if kind == "number":
            assert int(changed.max()) == 1
        else:
            assert int(changed.max()) > 6
        if kind == "repeated":
            assert bool(((spoilt.diff(dim=1) == 0).sum(1) >= changed).all())


def test_what_is_missing_stays_so_and_counts_stay_whole():
    observables = {"n": Observable((8,), dtype="int64", scale="log"), "n_mask": Observable((8,), dtype="bool")}
    generator = torch.Generator().manual_seed(0)
    n = torch.poisson(torch.full((500, 8), 5.0), generator=generator).long()
    x = {"n": n, "n_mask": torch.rand(500, 8, generator=generator) < 0.7}
    numbers = Numbers(observables).fit(x)
    _, there = numbers(x)
    assert torch.equal(there > 0, x["n_mask"])
    wrong = planted.planted(numbers, x, there, planted.FAULTS, generator)
    assert wrong["n"].dtype == torch.int64
    assert int(wrong["n"].min()) >= 0
    missing = ~wrong["n_mask"]
    there_too = {tuple(row) for row in torch.where(x["n_mask"], -1, n).tolist()}
    assert {tuple(row) for row in torch.where(missing, wrong["n"], -1).tolist()} <= there_too


@pytest.mark.parametrize("dtype", ["int64", "float32"])
@pytest.mark.parametrize("shift", [0, -2])
def test_faults_of_counts_are_counts(dtype, shift):
    """Whole numbers of any dtype, and not below zero where none is."""
    generator = torch.Generator().manual_seed(0)
    n = torch.poisson(torch.full((500, 8), 3.0), generator=generator).to(getattr(torch, dtype)) + shift
    numbers = Numbers({"n": Observable((8,), dtype=dtype)}).fit({"n": n})
    _, there = numbers({"n": n})
    wrong = planted.planted(numbers, {"n": n}, there, planted.FAULTS, generator)["n"]
    assert torch.equal(wrong, wrong.round())
    assert (wrong.min() >= 0) == (shift == 0)


def test_what_others_say_of_a_number_is_said_without_it():
    """Each number hidden in turn, by the whole perceptron."""
    generator, size = torch.Generator().manual_seed(0), 5
    weights = drawn([2 * size, 8, 8, 2 * size], generator)
    weights["weight2"] = torch.randn(8, 2 * size, generator=generator)
    u = torch.randn(7, size, generator=generator, dtype=torch.float64)
    there = (torch.rand(7, size, generator=generator) < 0.7).double()
    mean, log = planted.others(weights, u, there)
    for k in range(size):
        kept = there.clone()
        kept[:, k] = 0
        said = applied(weights, torch.cat([bent(u) * kept, kept], 1))
        assert torch.allclose(mean[:, k].float(), said[:, k], atol=1e-5)
        assert torch.allclose(log[:, k].float(), said[:, size + k].clamp(-6, 4), atol=1e-5)


def test_calibrate_learns_what_it_is_told(store, tmp_path):
    with pytest.raises(TypeError, match="such as scores="):
        check_scores(["planted"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="can be given once"):
        calibrate(Plain(), store, scores=[PlantedFaults(), PlantedFaults(kinds=("level",))])
    with pytest.raises(ValueError, match="kinds are some of"):
        PlantedFaults(kinds=())
    few = simulate(Curves(), tmp_path / "few", 240, seed=2, progress=False)
    with pytest.raises(ValueError, match="too few to learn scores from"):
        make_reference(Plain(), few, [DiffusionTime()])
    assert make_reference(Plain(), few)[REFERENCE].shape[1] == 3


def test_planted_faults_are_learned_by_default(store, monkeypatch):
    for name in ("_STEPS", "_DESCENT"):
        monkeypatch.setattr(planted, name, 5)
    monkeypatch.setattr(planted, "_POOL", 500)
    found = make_reference(Plain(), store)
    assert found[REFERENCE].shape[1] == 4
    assert any(name.startswith("scores/PlantedFaults/") for name in found)


def test_very_large_data_are_not_searched(tmp_path: Path):
    class Large(Curves):
        observables = {"x": Observable((4_097,), dims=("time",))}

        def __call__(self, theta, *, generator):
            return {"x": torch.randn(len(theta), 4_097, generator=generator)}

    class Seen(Plain):
        observables = Large.observables

        def features(self, x):
            return x["x"][:, :2]

    large = simulate(Large(), tmp_path / "large", 450, seed=2, progress=False)
    reference = make_reference(Seen(), large)
    assert reference[REFERENCE].shape[1] == 3
    told = [check_observation(reference, Seen(), {"x": row[None]}) for row in large.load(slice(300, 320)).x["x"]]
    assert all("are not searched for faults" in trust.words for trust in told if trust.level == "good")
    assert any(trust.level == "good" for trust in told)
    with pytest.raises(ValueError, match="at most 4,096 numbers"):
        make_reference(Seen(), large, SCORED)
