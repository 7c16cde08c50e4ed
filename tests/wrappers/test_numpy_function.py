"""The numpy wrapper: known answers, rows that stand alone, failures, names, units and shapes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.distributions import LogNormal, Normal, Uniform

from sciinf import wrappers
from sciinf.core import Observable, Outcome, Prior, Status, load_simulator, source_hash

TIMES = np.linspace(0, 5, 7)
PRIOR = Prior(rate=(LogNormal(0.0, 0.5), "1/h"), amplitude=(LogNormal(1.0, 0.3), "mV"))


def decay(rate, amplitude):
    return {"v": amplitude * np.exp(-rate * TIMES)}


def decay_batch(rate, amplitude):
    return amplitude[:, None] * np.exp(-rate[:, None] * TIMES)


def noisy(rate, amplitude, rng):
    return {"v": amplitude * np.exp(-rate * TIMES) + rng.normal(size=7), "n": rng.poisson(rate)}


def noisy_batch(rate, amplitude, rng):
    return rng.normal(size=(len(rate), 7))


def fragile(rate, amplitude):
    if rate > 1:
        raise FloatingPointError(f"rate {rate:.0f} is stiff")
    return np.full(7, amplitude)


def log_likelihood(rate, amplitude, x):
    return -0.5 * ((x["v"] - amplitude * np.exp(-rate * TIMES)) ** 2).sum()


def log_likelihood_batch(rate, amplitude, x):
    return -0.5 * ((x["v"] - decay_batch(rate, amplitude)) ** 2).sum(-1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def build(function, observables=None, **options):
    return wrappers.numpy(function, PRIOR, {"v": ((7,), "mV")} if observables is None else observables, **options)


@pytest.fixture
def theta():
    return PRIOR.sample(9, generator=generator(1))


@pytest.mark.parametrize("simulator", [build(decay), build(decay_batch, vectorised=True)], ids=["rows", "batch"])
def test_values_are_the_formula(simulator, theta):
    result = simulator(theta, generator=generator())
    expected = theta[:, 1:] * torch.exp(-theta[:, :1] * torch.tensor(TIMES))
    assert isinstance(result, Outcome)
    assert result.status.tolist() == [Status.OK] * 9
    assert result.x["v"].dtype == torch.float32
    torch.testing.assert_close(result.x["v"], expected.float())


def test_the_same_generator_gives_the_same_bits_and_another_one_others(theta):
    simulator = build(noisy, {"v": (7,), "n": Observable((), dtype="int64")})
    first, again, other = (simulator(theta, generator=generator(s)).x for s in (5, 5, 6))
    assert torch.equal(first["v"], again["v"])
    assert torch.equal(first["n"], again["n"])
    assert not torch.equal(first["v"], other["v"])
    assert first["n"].dtype == torch.int64


def test_a_row_does_not_depend_on_the_rows_after_it(theta):
    simulator = build(noisy, {"v": (7,), "n": ()})
    assert torch.equal(
        simulator(theta[:3], generator=generator()).x["v"], simulator(theta, generator=generator()).x["v"][:3]
    )


def test_rows_of_equal_parameters_have_noise_of_their_own():
    simulator = build(noisy, {"v": (7,), "n": ()})
    x = simulator(torch.ones(400, 2), generator=generator()).x["v"]
    residual = x - torch.exp(-torch.tensor(TIMES)).float()
    assert len(x.unique(dim=0)) == 400
    # mean of 2800 standard normals: |mean| > 5 sd has a false-alarm rate of 6e-7; the seed is fixed besides
    assert abs(float(residual.mean())) < 5 / 2800**0.5
    assert abs(float(residual.var()) - 1) < 5 * (2 / 2800) ** 0.5


def test_nothing_global_is_drawn_from(theta):
    before_torch, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    build(noisy, {"v": (7,), "n": ()})(theta, generator=generator())
    assert torch.equal(before_torch, torch.get_rng_state())
    assert (before_numpy == np.random.get_state()[1]).all()  # noqa: NPY002


def test_a_row_that_raises_fails_alone():
    theta = torch.tensor([[0.5, 1.0], [2.0, 2.0], [0.7, 3.0]])
    result = build(fragile)(theta, generator=generator())
    assert result.status.tolist() == [Status.OK, Status.RAISED, Status.OK]
    assert result.messages == {1: "FloatingPointError: rate 2 is stiff"}
    assert result.x["v"][[0, 2]].tolist() == [[1.0] * 7, [3.0] * 7]


def test_nan_where_an_integer_should_be_is_a_failed_row_and_a_fraction_an_error():
    counts = {"n": Observable((), dtype="int64")}
    theta = torch.tensor([[0.5, 1.0], [2.0, 2.0]])
    result = build(lambda rate, amplitude: np.nan if rate > 1 else 3.0, counts)(theta, generator=generator())
    assert result.status.tolist() == [Status.OK, Status.NON_FINITE]
    assert int(result.x["n"][0]) == 3
    with pytest.raises(ValueError, match=r"not whole \(0.5\).*int64"):
        build(lambda rate, amplitude: rate, counts)(theta[:1], generator=generator())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda rate, amplitude: np.zeros(6), r"'v' with shape \(6,\), expected \(7,\)"),
        (lambda rate, amplitude: {"w": np.zeros(7)}, "returned 'w'"),
        (lambda rate, amplitude: {}, "did not return 'v'"),
    ],
)
def test_a_wrong_result_is_named(function, message, theta):
    with pytest.raises(ValueError, match=message):
        build(function)(theta, generator=generator())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda rate, amplitude: None, "returned None.*`return`"),
        (lambda rate, amplitude: "text", "returned str"),
        (lambda rate, amplitude: np.zeros(7, dtype=complex), "complex128"),
    ],
)
def test_a_result_of_the_wrong_kind_is_named(function, message, theta):
    with pytest.raises(TypeError, match=message):
        build(function)(theta, generator=generator())


def test_a_batch_of_the_wrong_length_is_an_error(theta):
    simulator = build(lambda rate, amplitude: np.zeros((4, 7)), vectorised=True)
    with pytest.raises(ValueError, match=r"\(4, 7\), expected \(9, 7\)"):
        simulator(theta, generator=generator())


def test_a_misspelt_name_is_noticed_when_the_simulator_is_built():
    prior = Prior(rate=LogNormal(0.0, 0.5), amplitud=LogNormal(1.0, 0.3))
    with pytest.raises(ValueError, match=r"'amplitud'.*did you mean 'amplitude'"):
        wrappers.numpy(decay, prior, {"v": (7,)})
    with pytest.raises(ValueError, match=r"'rgn'.*did you mean 'rng'"):
        build(lambda rate, amplitude, rgn: 0)
    with pytest.raises(ValueError, match="reserved"):
        wrappers.numpy(lambda rng: 0, Prior(rng=Normal(0.0, 1.0)), {"v": ()})
    build(lambda rate, amplitude, steps=10: 0)  # an argument with a default is a setting of the function's own


def test_quantities_are_converted_to_the_observable_unit(theta):
    from astropy import units

    simulator = build(lambda rate, amplitude: np.full(7, amplitude) * 1e-3 * units.V)
    torch.testing.assert_close(simulator(theta, generator=generator()).x["v"][:, 0], theta[:, 1])
    for unit in (units.m, units.dimensionless_unscaled):
        with pytest.raises(ValueError, match="does not convert"):
            build(lambda rate, amplitude, unit=unit: np.ones(7) * unit)(theta, generator=generator())


def test_observables_come_in_shorthand():
    simulator = build(decay, {"a": (3, 2), "b": ((4,), "mV"), "c": 5, "d": (), "e": Observable((2,), "m")})
    assert {k: (o.shape, o.unit) for k, o in simulator.observables.items()} == {
        "a": ((3, 2), ""),
        "b": ((4,), "mV"),
        "c": ((5,), ""),
        "d": ((), ""),
        "e": ((2,), "m"),
    }
    with pytest.raises(TypeError, match="observable 'a' is 'mV'"):
        build(decay, {"a": "mV"})
    with pytest.raises(TypeError, match="must map names"):
        build(decay, Observable((7,)))


@pytest.mark.parametrize(
    "simulator",
    [
        build(decay, log_likelihood=log_likelihood),
        build(decay_batch, vectorised=True, log_likelihood=log_likelihood_batch),
    ],
    ids=["rows", "batch"],
)
def test_the_log_likelihood_takes_one_observation_or_as_many_as_theta(simulator, theta):
    x = torch.randn(9, 7, generator=generator())
    mean = theta[:, 1:] * torch.exp(-theta[:, :1] * torch.tensor(TIMES))
    torch.testing.assert_close(simulator.log_likelihood(theta, {"v": x}), -0.5 * ((x - mean) ** 2).sum(-1))
    torch.testing.assert_close(simulator.log_likelihood(theta, {"v": x[:1]}), -0.5 * ((x[:1] - mean) ** 2).sum(-1))
    with pytest.raises(ValueError, match="4 rows of 'v'"):
        simulator.log_likelihood(theta, {"v": x[:4]})


def test_a_log_likelihood_that_does_not_sum_is_an_error(theta):
    simulator = build(decay, log_likelihood=lambda rate, amplitude, x: x["v"])
    with pytest.raises(ValueError, match=r"shape \(7,\), expected \(\)"):
        simulator.log_likelihood(theta, {"v": torch.zeros(1, 7)})
    with pytest.raises(ValueError, match="must take the data as `x`"):
        build(decay, log_likelihood=lambda rate, amplitude: 0.0)


def test_it_pickles_with_its_functions(theta):
    simulator = build(noisy, {"v": (7,), "n": ()}, log_likelihood=log_likelihood, name="decay")
    copy = pickle.loads(pickle.dumps(simulator))
    assert copy.name == "decay"
    assert torch.equal(copy(theta, generator=generator()).x["v"], simulator(theta, generator=generator()).x["v"])
    assert torch.equal(copy.prior.bijection.forward(theta), PRIOR.bijection.forward(theta))


def test_own_reader_of_observations(tmp_path):
    (tmp_path / "cell.csv").write_text("v [uV]\n" + "\n".join(str(1000.0 * i) for i in range(7)))
    assert build(decay).observe(tmp_path / "cell.csv")["v"].tolist() == list(range(7))
    own = build(decay, observe=lambda path: {"v": np.arange(7.0) + 1})
    assert own.observe("anything")["v"].tolist() == list(range(1, 8))
    with pytest.raises(ValueError, match="simulator produces"):
        build(decay, observe=lambda path: {"v": np.arange(6.0)}).observe("anything")


def test_no_wrapper_reads_files_in_a_way_of_its_own(root):
    """`Simulator.observe` does it for all; a copy of it would go its own way one day. Records pad what it has read."""
    for path in (root / "sciinf/simulators/wrappers").glob("*.py"):
        reads = "read_observation(" in path.read_text()
        assert reads == (path.name == "hidden_records.py"), path.name


def test_a_file_of_fifteen_lines_is_a_working_simulator(root):
    path = root / "docs/skeletons/simulator.py"
    code = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    simulator = load_simulator(path)
    result = simulator(simulator.prior.sample(5, generator=generator()), generator=generator())
    assert len(code) <= 15
    assert simulator.name == "voltage"
    assert result.x["v"].shape == (5, 50)
    assert source_hash(simulator)


def test_a_uniform_prior_by_names_in_another_order():
    prior = Prior(b=Uniform(2.0, 3.0), a=Uniform(0.0, 1.0))
    simulator = wrappers.numpy(lambda a, b: [a, b], prior, {"pair": (2,)})
    theta = torch.tensor([[2.5, 0.25]])
    assert simulator(theta, generator=generator()).x["pair"].tolist() == [[0.25, 2.5]]
    with pytest.raises(ValueError, match=r"\(1, 3\), expected \(batch, 2\)"):
        simulator(torch.ones(1, 3), generator=generator())
