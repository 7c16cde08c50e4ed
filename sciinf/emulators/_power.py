r"""Power of draws by octaves, and spread and bias at the ends of each parameter, told from held-out rows.

| figure | of M draws u_m of a row and its solution u_0 | right law |
|---|---|---|
| power | squares of the waves of an octave, of draws over those of solutions, a geometric mean over rows | 1 |
| spread | root of (1 + 1/M) E v / E e^2 (`_spread`), of the fifth of rows where a parameter is lowest, or highest | 1 |
| bias | root of the share of the squared error that is the same for all of these rows (`_always_off`) | 0 |

Here waves count however little of the error they make: the shortest have next to no power, and what is drawn of them
shows in gradients. One solution is known for each start, so all this is on average over starts.

**What is chance.** As in `_spread` a row's solution and draws of a right law are alike. Each figure is found again 199
times with one that is drawn in place of the solution, and taken over its sd there. One is named if it is off by more
than the worst of all figures is in all of these but three: of right laws one in 50 is found wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.core import telling
from sciinf.emulators._fields import OfFields
from sciinf.emulators._spread import GridWaves, shown

_SWAPS, _RANK = 200, 4  # a right law is found wrong in 4 of 200
_FEWEST, _SHARE, _LEAST = 16, 5, 8  # rows to tell anything; a fifth of them is an end, of that many rows at least
_FACTOR, _BIAS = 1.1, 0.2  # of a power or spread, and sds of a bias, below which nothing is named
_HEADINGS = {
    "power": "a power over that of solutions of",
    "spread": "a spread over what their mean is off by (1 if right) of",
    "bias": "means that are off, in sds, by",
}
_ROUNDING = 1e-10  # of the power of a row: less is rounding


@dataclass(frozen=True)
class _Figure:
    """One figure: its name in the record, where it is, and its values, (swap,), the real one first."""

    name: str
    where: str
    values: Float[Tensor, " swap"]

    @property
    def value(self) -> float:
        return float(self.values[0])

    @property
    def bias(self) -> bool:
        """Whether a right law has 0, and not 1."""
        return self.name.startswith("bias")

    def matters(self) -> bool:
        """Whether it is far enough from that of a right law to be named."""
        return self.value > _BIAS if self.bias else not 1 / _FACTOR < self.value < _FACTOR

    def distance(self) -> Float[Tensor, " swap"]:
        """From where chance puts it, in its sds there."""
        at = self.values if self.bias else self.values.clamp_min(1e-30).log()
        away = (at - at[1:].mean()) / at[1:].std().clamp_min(1e-9)
        return away if self.bias else away.abs()


def say_power_and_ends(
    law: OfFields,
    theta: Float[Tensor, "batch theta"],
    drawn: Float[Tensor, "draw batch frame channel *space"],
    true: Float[Tensor, "batch frame channel *space"],
    waves: GridWaves,
) -> dict[str, float]:
    """Say what power draws have, and what spread and bias at the ends of each parameter.

    Args:
        law: Whose draws they are.
        theta: Of held-out rows.
        drawn: Standardised, of frames that were not given.
        true: The solutions.
        waves: Of their grid.

    Returns:
        `power_<octave>`, `spread_<low or high>_<parameter>` and `bias_<low or high>_<parameter>`; nothing of fewer
        than 16 rows.

    Warns:
        UserWarning: If one of them is off by more than chance makes it.
    """
    members = torch.cat([true[None], drawn])
    if len(true) < _FEWEST:
        return {}
    who = torch.randint(len(members), (_SWAPS, len(true)), generator=torch.Generator().manual_seed(0))
    who[0] = 0
    figures = [*(_powers(members, who, waves) if waves.space else ()), *_ends(law, theta, members, who)]
    for words in _listed(figures):
        telling.tell(f"held-out fields: draws of {law.target!r} have {words}")
    if not figures:
        return {}
    distance = torch.stack([one.distance() for one in figures])
    chance = float(distance[:, 1:].amax(0).topk(_RANK).values[-1])
    odd = [one for one, away in zip(figures, distance[:, 0].tolist(), strict=True) if away > chance and one.matters()]
    if odd:
        warnings.warn(
            f"held-out simulations show that draws of {law.target!r} have {'; '.join(_listed(odd))}: that is no "
            "chance. Train longer, on more solutions, or with a code that keeps more",
            stacklevel=4,
        )
    return {one.name: one.value for one in figures}


def _listed(figures: Sequence[_Figure]) -> list[str]:
    """Figures in words, a text for each kind."""
    some = {heading: [one for one in figures if one.name.startswith(kind)] for kind, heading in _HEADINGS.items()}
    return [
        f"{words} {', '.join(f'{one.value:.2f} {one.where}' for one in all_)}" for words, all_ in some.items() if all_
    ]


def _powers(members: Tensor, who: Int[Tensor, "swap batch"], waves: GridWaves) -> list[_Figure]:
    """The power of each octave that solutions have."""
    power = waves.by_octave(waves.of(members).abs().square()).sum((2, 3)).double().cpu()
    least = _ROUNDING * power.sum(-1, keepdim=True)
    there, log = (power[0] > least[0]).any(0), power.maximum(least).clamp_min(1e-30).log()
    own = log[who, torch.arange(len(log[0]))].mean(1)
    found = ((log.mean(1).sum(0) - own) / (len(log) - 1) - own).exp()
    return [
        _Figure(f"power_{octave}", f"in {waves.words(octave)}", found[:, octave])
        for octave in range(waves.count)
        if bool(there[octave])
    ]


def _ends(law: OfFields, theta: Tensor, members: Tensor, who: Int[Tensor, "swap batch"]) -> list[_Figure]:
    """Spread and bias where parameters are low, and where they are high."""
    count = len(theta) // _SHARE
    if count < _LEAST:
        return []
    spread, error = (part.double().cpu() for part in shown(members, lambda squares: squares.flatten(2).sum(2)))
    off = (members - (members.sum(0) - members) / (len(members) - 1)).flatten(2)
    found = list[_Figure]()
    for name, order in zip(law.prior.names, theta.argsort(0).cpu().T, strict=True):
        for end, rows in (("low", order[:count]), ("high", order[-count:])):
            some, where = who[:, rows], f"where {name!r} is {end}"
            ratio = (spread[some, rows].sum(1) / error[some, rows].sum(1).clamp_min(1e-30)).sqrt()
            each = off[:, rows.to(off.device)].flatten(0, 1)
            products, at = (each @ each.mT).double().cpu(), some * count + torch.arange(count)
            chosen = products[at[:, :, None], at[:, None, :]]
            own = chosen.diagonal(dim1=1, dim2=2).sum(1)
            same = (chosen.sum((1, 2)) - own) / (count - 1) / own.clamp_min(1e-30)
            found += [
                _Figure(f"spread_{end}_{name}", where, ratio),
                _Figure(f"bias_{end}_{name}", where, same.clamp_min(0).sqrt()),
            ]
    return found
