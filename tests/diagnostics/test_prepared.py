"""Data that were standardised, and simulations that were not, are told; data as they are made are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sciinf.core import Case, Finding, Level, Observable, X
from sciinf.diagnostics.prepared import Prepared


def flux(rows: int, seed: int) -> Tensor:
    """Simulations of 40 numbers, whose sd is about 1 by themselves."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 40, generator=generator) + 0.1 * torch.arange(40)


def standardised(x: Tensor) -> Tensor:
    return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)


@dataclass(frozen=True)
class Asked:
    """What a posterior says of its observables."""

    observables: dict[str, Observable]


def found(x: Tensor, predicted: Tensor, **more: Tensor) -> tuple[Finding, ...]:
    none: Any = None
    data: X = {"flux": x, **more}
    specs = {
        name: Observable(tuple(value.shape[1:]), dims=("item",), dtype=kind(value)) for name, value in data.items()
    }
    posterior: Any = Asked(specs)
    return Prepared()(Case(posterior, none, 0.9, x=data, predicted={"flux": predicted}))


def kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


@pytest.mark.parametrize(
    ("prepare", "what"),
    [
        (standardised, "mean 0 and sd 1"),
        (lambda x: standardised(x) * (39 / 40) ** -0.5, "mean 0 and sd 1"),
        (lambda x: (standardised(x) * 1e3).round() / 1e3, "mean 0 and sd 1"),
    ],
)
def test_prepared_data_are_told(prepare, what: str) -> None:
    (one,) = found(prepare(flux(1, 1)), flux(400, 0))
    assert (one.level, one.name) == (Level.ALARM, "preparation")
    assert one.words.startswith(f"'flux' has {what}, as none of 400 simulations has. Give data as")


@pytest.mark.parametrize(("own", "simulated"), [(1.0, 1.0), (1.0002, 1.0005)])
def test_what_the_simulator_prepares_as_well_is_right(own: float, simulated: float) -> None:
    """Or nearly so, as with an sd of another rounding."""
    assert not found(own * standardised(flux(1, 1)), simulated * standardised(flux(400, 0)))


@pytest.mark.parametrize("decimals", [0, 1, 2, 3])
def test_right_data_that_were_rounded_are_left_alone(decimals: int) -> None:
    time = torch.linspace(0.0, 5.0, 40).double()
    for every in (flux(300, 3).double(), torch.exp(-time * torch.rand(300, 1).double()), torch.rand(300, 40).double()):
        assert not any(found(every[k : k + 1].round(decimals=decimals), every[50:]) for k in range(50))


def test_right_data_are_left_alone() -> None:
    """Of noise with an sd of 1 and a mean of 0 by itself; one in 5,000 is as near as this by chance."""
    every = torch.randn(2_000, 40, generator=torch.Generator().manual_seed(2))
    assert sum(bool(found(every[k : k + 1], every[:400])) for k in range(400, 2_000)) <= 3  # of more: < 1 in 1,000


def test_few_numbers_whole_numbers_and_masked_data_are_left_alone() -> None:
    x, simulated = standardised(flux(1, 1)), flux(400, 0)
    assert not found(standardised(x[:, :5]), simulated[:, :5])
    assert not found(torch.tensor([[-1, 1] * 20]), simulated.round().long())
    assert not found(x, simulated[:100])
    assert not found(x, simulated, flux_mask=torch.ones(1, 40, dtype=torch.bool))
