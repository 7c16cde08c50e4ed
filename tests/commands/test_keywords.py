"""Options of a pipeline become keywords of the right type, or an error that names what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from sciinf.interfaces.commands.keywords import keywords


def run(
    out: Path,
    *,
    seed: int = 0,
    simulations: int = 10,
    ess: float = 1.5,
    name: str = "a",
    deep: bool = False,
    data: Path | None = None,
    layers: tuple[int, ...] = (1,),
) -> None:
    """A pipeline."""


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], {}),
        (["--simulations", "500"], {"simulations": 500}),
        (["--simulations", "1e3"], {"simulations": 1000}),
        (["--simulations", "-4"], {"simulations": -4}),
        (["--ess=3", "--name", "b"], {"ess": 3.0, "name": "b"}),
        (["--deep", "yes"], {"deep": True}),
        (["--deep=False"], {"deep": False}),
        (["--data", "x.csv"], {"data": Path("x.csv")}),
    ],
)
def test_values_have_the_type_of_the_default(tokens: list[str], expected: dict[str, object]) -> None:
    found = keywords(run, tokens, Path("p.py"))
    assert found == expected
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--simulatons", "5"], "p.py has no option '--simulatons'; it has --simulations, --ess, --name, --deep"),
        (["--seed", "5"], "no option '--seed'"),  # an option of the command itself
        (["simulations", "5"], "no option 'simulations'"),
        (["--simulations", "2.5"], "takes a int, got '2.5'"),
        (["--simulations", "1.5e0"], "takes a int"),
        (["--simulations", "1e400"], "takes a int"),
        (["--deep", "perhaps"], "takes a bool"),
        (["--ess"], "needs a value"),
        (["--layers", "12"], "takes a tuple, which the command line cannot give"),
    ],
)
def test_what_does_not_fit_is_refused(tokens: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keywords(run, tokens, Path("p.py"))
