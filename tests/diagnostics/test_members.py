"""An ensemble's variance is split into that between its members and that within them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributions as td

from sciinf import query
from sciinf.core import Draws, Observable, Posterior, Prior, X
from sciinf.diagnostics.members import check_members, network_share
from sciinf.interfaces.answer import load_answer
from sciinf.posteriors.ensemble import Ensemble

X_O = {"x": torch.zeros(1, 1)}


class Member(Posterior):
    """Two normal parameters, of which one is moved."""

    name, trained_on = "member", frozenset()
    prior = Prior(a=td.Normal(0.0, 10.0), b=td.Normal(0.0, 10.0))
    observables = {"x": Observable((1,))}

    def __init__(self, by: float, sd: float = 1.0) -> None:
        self.law, self.digest = td.Normal(torch.tensor([by, 5.0]), torch.tensor([sd, 2.0])), f"{by} {sd}"

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        theta = self.draw_batched(x, n, generator=generator)[:, 0]
        return Draws(self.prior.names, self.prior.units, theta, torch.zeros(n))

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> torch.Tensor:
        return self.law.mean + self.law.stddev * torch.randn(n, len(x["x"]), 2, generator=generator)

    def log_prob_batched(self, theta: torch.Tensor, x: X) -> torch.Tensor:
        return self.law.log_prob(theta).sum(-1)

    def features(self, x: X) -> torch.Tensor:
        return x["x"]


def share_of(*members: Member) -> list[float]:
    return network_share(Ensemble(members), X_O, generator=torch.Generator().manual_seed(0)).tolist()


def test_the_share_is_what_the_mixture_has_more_than_its_members() -> None:
    """Means -1, 0, 1 have a variance of 2/3; the members' mean variance is (1 + 4 + 1) / 3 = 2."""
    a, b = share_of(Member(-1.0), Member(0.0, 2.0), Member(1.0))
    # 2,000 draws of each: a variance within .04, a mean within .03 of it; false alarms 1e-3
    assert a == pytest.approx((2 / 3) / (2 + 2 / 3), abs=0.03)
    assert b < 0.003
    mixture = Ensemble([Member(-1.0), Member(0.0, 2.0), Member(1.0)])
    drawn = mixture.draw_batched(X_O, 40_000, generator=torch.Generator().manual_seed(1))[:, 0, 0]
    assert float(drawn.var()) == pytest.approx(2 + 2 / 3, rel=0.04)


def test_what_draws_add_by_chance_is_taken_off() -> None:
    """Of equal members nothing is left but noise: .0005 would be there without, and .0008 in 1 of 100."""
    found = [
        float(network_share(Ensemble([Member(0.0)] * 20), X_O, generator=torch.Generator().manual_seed(k))[0])
        for k in range(20)
    ]
    assert sum(found) / 20 < 0.00015


def test_members_that_differ_are_a_caution_and_others_are_not(tmp_path: Path) -> None:
    far = Ensemble([Member(-0.4), Member(0.4)])  # .16 of 1.16
    answer = query(far, {"x": torch.zeros(1)}, out=tmp_path, draws=500)
    (check,) = [one for one in answer.checks if one.name == "ensemble"]
    assert check.level == "caution"
    assert check.words.startswith(("13%", "14%", "15%"))
    assert "of the variance of a is between its 2 members" in check.words
    assert "of b" not in check.words
    assert check in load_answer(tmp_path).checks
    (check,) = check_members(Ensemble([Member(-0.1), Member(0.1)]), X_O, 0)  # .01
    assert check.level == "good"
    assert "does not show in this" in check.words


def test_one_network_says_nothing_of_itself() -> None:
    assert check_members(Member(0.0), X_O, 0) == ()
    assert check_members(Ensemble([Member(0.0)]), X_O, 0) == ()
