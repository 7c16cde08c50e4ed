"""Ordered parameters and parts of a total: densities that integrate to one, exact draws, a bijection that agrees."""

from __future__ import annotations

import json
import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch import distributions as td

from sciinf import Gamma, LogNormal, LogUniform, Normal, Ordered, Prior, Simplex, Uniform
from sciinf.core.laws import JointLaw

LAWS: dict[str, JointLaw] = {
    "two masses": Ordered(Uniform(5.0, 80.0), 2),
    "four normals": Ordered(Normal(1.0, 2.0), 4),
    "three decades": Ordered(LogUniform(0.01, 10.0), 3),
    "log-normals": Ordered(LogNormal(0.0, 0.5), 2),
    "triangle": Simplex(2, 3.0),
    "five fractions": Simplex(5),
}
EVERY = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def prior_of(law: JointLaw) -> Prior:
    return Prior.joint([f"p{k}" for k in range(law.event_shape[0])], law, "km")


def draws(law: JointLaw, n: int) -> Tensor:
    return prior_of(law).sample(n, generator=torch.Generator().manual_seed(0)).double()


def edges(low: float, high: float, cells: int = 1_000) -> Tensor:
    """Middles of cells."""
    return low + (high - low) * (torch.arange(cells).double() + 0.5) / cells


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("two masses", 5.0, 80.0), ("log-normals", 0.0, 12.0), ("triangle", 0.0, 3.0)],
)
def test_the_density_integrates_to_one(name: str, low: float, high: float) -> None:
    """By middles of cells, of which half counts on the diagonal."""
    grid = torch.cartesian_prod(edges(low, high), edges(low, high))
    density = prior_of(LAWS[name]).log_prob(grid).exp() * torch.where(grid[:, 0] == grid[:, 1], 0.5, 1.0)
    assert float(density.sum()) * ((high - low) / 1_000) ** 2 == pytest.approx(1.0, abs=3e-3)
    assert (
        float(density[grid.sum(-1) > 3.0].sum() if name == "triangle" else density[grid[:, 0] > grid[:, 1]].sum()) == 0
    )


@EVERY
def test_marginals_are_those_that_are_known(law: JointLaw) -> None:
    """By Kolmogorov-Smirnov tests at 1e-4 each: of all twenty one fails in 500 seeds."""
    theta, n = draws(law, 20_000).numpy(), law.event_shape[0]
    if isinstance(law, Ordered):
        for k in range(n):
            share = law.base.cdf(torch.from_numpy(theta[:, k])).numpy()
            assert stats.kstest(share, stats.beta(k + 1, n - k).cdf).pvalue > 1e-4
        assert (theta[:, 1:] >= theta[:, :-1]).all()
        return
    assert isinstance(law, Simplex)
    for part in [*theta.T, law.total - theta.sum(-1)]:
        assert stats.kstest(part / law.total, stats.beta(1, n).cdf).pvalue > 1e-4


@EVERY
def test_the_bijection_carries_the_law_to_independent_normals(law: JointLaw) -> None:
    """KS tests at 1e-4 each, and correlations within 4.5 of their sds: one of 1,000 seeds fails."""
    prior = prior_of(law)
    z = prior.bijection.forward(draws(law, 20_000))
    assert prior.bijection.normal
    for column in z.T:
        assert stats.kstest(column.numpy(), stats.norm.cdf).pvalue > 1e-4
    beside = torch.corrcoef(z.T) - torch.eye(z.shape[1])
    assert float(beside.abs().max()) < 4.5 / math.sqrt(20_000)


@EVERY
def test_back_and_forth_and_the_jacobian(law: JointLaw) -> None:
    prior = prior_of(law)
    z = 1.5 * torch.randn(500, len(prior), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theta = prior.bijection.inverse(z)
    assert torch.allclose(prior.bijection.forward(theta), z, atol=1e-5)
    given = prior.bijection.log_abs_det_jacobian(theta[:20])
    for row, expected in zip(theta[:20], given, strict=True):
        jacobian = torch.autograd.functional.jacobian(prior.bijection.forward, row)
        assert torch.linalg.slogdet(jacobian)[1] == pytest.approx(float(expected), abs=1e-6)
    assert torch.allclose(law.log_prob(theta), prior.log_prob(theta))


@EVERY
def test_no_draw_leaves_the_support_by_rounding(law: JointLaw) -> None:
    prior = prior_of(law)
    far = torch.cartesian_prod(*[torch.tensor([-30.0, -8.0, 0.0, 8.0, 30.0])] * 2)
    z = torch.cat([far, torch.zeros(25, len(prior) - 2)], dim=1)
    for theta in (prior.bijection.inverse(z), prior.bijection.inverse(z.flip(-1)), draws(law, 200_000).float()):
        assert bool(prior.log_prob(theta).isfinite().all())
        assert bool(prior.bijection.forward(theta).isfinite().all())
        if isinstance(law, Simplex):
            assert float(theta.min()) > 0
            for sum_ in (theta.sum(-1), theta.flip(-1).sum(-1), law.total - (law.total - theta.sum(-1))):
                assert float(sum_.max()) <= law.total


@EVERY
def test_between_draws_and_a_bound_lies_a_uniform_share_of_the_law(law: JointLaw) -> None:
    """KS tests at 1e-4 each: one of them all fails in 1,000 seeds. A log-normal law fades out before its bound."""
    found = law.edges(draws(law, 20_000))
    assert bool(found) == (law not in (LAWS["four normals"], LAWS["log-normals"]))
    for edge in found:
        assert stats.kstest(edge.between.numpy(), stats.uniform.cdf).pvalue > 1e-4


def test_equal_neighbours_are_not_far_out() -> None:
    """A network would have to learn a z of 37."""
    equal = torch.full((1, 4), 0.5)
    assert float(prior_of(LAWS["four normals"]).bijection.forward(equal).abs().max()) < 8


@EVERY
def test_laws_come_back_from_json(law: JointLaw) -> None:
    prior = prior_of(law)
    again = Prior.from_json(json.loads(json.dumps(prior.to_json(), allow_nan=False)))
    theta = draws(law, 10)
    assert again.to_json() == prior.to_json()
    assert torch.equal(again.log_prob(theta), prior.log_prob(theta))


def test_priors_add_up() -> None:
    masses = Prior.joint(("light", "heavy"), LAWS["two masses"], "solMass")
    both = Prior(spin=Uniform(-1.0, 1.0)) + masses
    assert (both.names, both.units) == (("spin", "light", "heavy"), ("", "solMass", "solMass"))
    theta = torch.tensor([[0.5, 10.0, 20.0], [0.5, 20.0, 10.0]])
    assert both.log_prob(theta)[0] == pytest.approx(math.log(0.5) + float(masses.log_prob(theta[0, 1:])))
    assert both.log_prob(theta)[1] == -math.inf
    with pytest.raises(ValueError, match="must differ"):
        both + masses
    with pytest.raises(TypeError):
        both + 1  # type: ignore[operator]


def test_a_double_law_makes_double_parameters() -> None:
    """Seconds of GPS time differ by less than steps of float32."""
    prior = Prior.joint(("first", "second"), Ordered(Normal(1126259462.4, 0.1), 2), "s")
    theta = prior.sample(1_000, generator=torch.Generator().manual_seed(0))
    assert theta.dtype == torch.float64
    assert bool((theta[:, 0] < theta[:, 1]).all())


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="no quantile function.*Truncated"):
        Ordered(Gamma(2.0, 1.0), 2)
    with pytest.raises(TypeError, match=r"such as Ordered\(Uniform\(5, 80\), 2\)"):
        Ordered(td.Normal(torch.zeros(2), 1.0), 2)
    with pytest.raises(ValueError, match="n must be an integer of at least 2, got 1"):
        Ordered(Normal(0.0, 1.0), 1)
    with pytest.raises(ValueError, match="total = 0 must be above 0"):
        Simplex(2, 0.0)
    with pytest.raises(ValueError, match="3 names"):
        Prior.joint(("a", "b", "c"), Simplex(2), "km")
