r"""A distribution of fields: solutions drawn with their uncertainty, given a start, other fields and parameters.

Frames become tokens (`tokens.Code`). A distribution of tokens (`tokens.TokenLaw`) is learned for a block of frames
given those before (`tokens.Order`). Its tokens are drawn all at once or in turns (`tokens.Turns`). The drawn values are
innovations: the part of each frame that the frame before does not predict linearly, in units in which it is
uncorrelated (`emulators.tokens.innovations`). Further frames before, and constant fields, are tokens at the same
places. The network sees them beside the tokens that it draws.

**A prediction** is the mean of `members` draws. **A check of the draws** (`_spread`) uses held-out rows. It tests
whether draws are as far from their mean as solutions are, in each frame and in waves. The fit's record has the results
as "spread_skill" and "spread_of_waves", 1 for the right distribution. Where draws vary too little, Gaussian noise with
the held-out errors' covariance (`_errors`) is added, in those frames and waves. So a posterior from an under-trained
generator becomes wide, not wrong. Training warns if errors and spread differ along a parameter. It also reports the
power of draws in each octave of waves.

A deterministic equation has one solution for each start; an `Operator` or a `Stepwise` learns it with less effort.

**Systematic errors.** `always_off` finds errors of draws that are the same for all solutions, or that depend on a
parameter.

Let e_i(p) be the error of the mean of draws for held-out solution i of n at point p. Its mean over solutions is b and
its variance v, at each point. The share of the squared error that is the same for all solutions is

    mean_p [b(p)^2 - v(p) / n] / mean_p mean_i e_i(p)^2.

It is 0 on average for a right distribution, whatever the distribution of errors. The ratio of spread to error does not
show such errors. A generator that does not know the place of a point takes a constant feature of this place for chance,
and its spread grows by the resulting error.

Let z be a parameter or its square, scaled to mean 0 and sd 1. With z_i e_i in place of e_i in the numerator, the ratio
is the share that depends on the parameter. This share is not 0 for a generator that ignores the parameter, or uses it
only linearly.

**Power and ends.** Held-out rows show the power of draws by octaves, and spread and bias at the ends of each parameter.

| figure | of M draws u_m of a row and its solution u_0 | if right |
|---|---|---|
| power | power of the waves of an octave, draws over solutions, as a geometric mean over rows | 1 |
| spread | root of (1 + 1/M) E v / E e^2 (`_spread`), of the fifth of rows with the lowest or highest parameter | 1 |
| bias | root of the share of the squared error that is the same for all of these rows (`always_off`) | 0 |

Here waves count however small their share of the error is. The shortest waves have almost no power, but errors in them
show in gradients. One solution is known for each start, so all this is an average over starts.

**Significance.** As in `_spread`, a row's solution and its draws are exchangeable under a right distribution. Each
figure is computed again 199 times with a draw in place of the solution, and divided by its sd in these repetitions. A
figure is named if it is further off than the worst of all figures in all repetitions but three. So one in 50 right
distributions is found wrong.

References:
    | Text2PDE: Latent Diffusion Models for Accessible Physics Simulation (Zhou et al., 2024),
      https://arxiv.org/abs/2410.01153
    | AROMA: Preserving Spatial Structure for Latent PDE Modeling with Local Neural Fields (Serrano et al., 2024),
      https://arxiv.org/abs/2406.02176
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.core import Adjusting, Batch, Learns, Observable, Prior, X, telling
from sciinf.core.checks import check_positive
from sciinf.core.component import called_with
from sciinf.emulators._fields import ByEdges, OfFields
from sciinf.emulators._in_tokens import InTokens
from sciinf.emulators._spread import GridWaves, compared, first_rows, say_what_goes_together_wrongly, shown, worst_of
from sciinf.emulators.conditions import Given
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import AtOnce, Code, JointTokens, Order, Patches, TokenLaw
from sciinf.emulators.tokens.decoding import Turned
from sciinf.emulators.tokens.law import JointDenoiser, LearnedLaw
from sciinf.networks.diffusion.schedule import NoiseSchedule
from sciinf.networks.diffusion.solver import Denoiser

_MEMBERS = 4  # Number of draws for each held-out row, from which their variance is computed.
_TOGETHER, _PAIRS = 256, 2**22  # Limits of the rows that are drawn at once, and of the token pairs in them.
# A change of the excess error by more than this per sd of a parameter, and by so many standard errors, is reported.
_SLOPE, _FIRM = 0.2, 3.5


class Generator(InTokens, Adjusting, ByEdges):
    """A generator of fields: a learned distribution of the target's frames.

    Args:
        prior: The simulator's prior.
        observables: The simulator's observables.
        code: Code from frames to tokens; `Patches(4)` if None.
        order: Number of frames drawn at once, and the turns of their tokens; `AtOnce()` if None.
        law: Distribution of the tokens of a block; `JointTokens()` if None.
        given: Conditions beside parameters: a `Frame`, constant fields (`Field`), `Members`, `SensorReadings`; and
            `Words`, captions that replace parameters. `[Frame(0)]` if None.
        network: Recipe of the network; a `TokenTransformer()` if None.
        target: Name of the observable that is drawn.
        pairs: Number of blocks, with the frames before them, that each training step takes from a trajectory; one if
            there is only one.
        members: Number of draws of which a prediction is the mean.
        edges: Whether fields have edges; training sets this to True if it finds edges.
        moves: Steps on the grid, such as (1, -1), along which the equation is the same everywhere. Training translates
            solutions by random multiples of them. Only for fields without edges.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If names or layouts do not go together, frames are to follow each other and no frame is given, or
            tokens of the code do not allow these turns.

    Examples:
        >>> from torch.distributions import Uniform
        >>> prior = Prior(viscosity=Uniform(0.01, 0.1))
        >>> fields = {"initial": Observable((1, 64)), "u": Observable((5, 1, 64))}
        >>> generator = Generator(prior, fields, network=TokenTransformer(16, 1))
        >>> draw = generator.draw(torch.ones(3, 1), {"initial": torch.ones(3, 1, 64)}, generator=torch.Generator())
        >>> draw.shape
        torch.Size([3, 5, 1, 64])
    """

    learns: Learns = "noisy fields"
    missing: Tensor

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        code: Code | None = None,
        *,
        order: Order | None = None,
        law: TokenLaw | None = None,
        given: Sequence[Given] | None = None,
        network: TokenTransformer | None = None,
        target: str = "u",
        pairs: int = 4,
        members: int = 16,
        edges: bool = False,
        moves: Sequence[Sequence[int]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(prior, observables, code or Patches(), order or AtOnce(), given, target, seed, moves=moves)
        check_positive(pairs=pairs, members=members)
        self.pairs, self.members = pairs, members
        octaves = GridWaves(self.space, edges=edges).count
        self.register_buffer("missing", torch.zeros(self.frames, self.channels, octaves))
        self.parts, self.edges = (network or TokenTransformer(), law or JointTokens()), edges
        self.law = self._built()

    def _built(self) -> LearnedLaw:
        known = 2 * self.context * self.code.width if self.start is not None else 0
        known += self.stays.width if self.stays is not None else 0
        places, width, (network, law) = self.code.places, self.block * self.code.width, self.parts
        if self.by_frame:
            places, width = (torch.arange(self.block)[:, None] + 0.5) / self.block, self.code.width
        known += 3 * width if self.conditions.sensors is not None else 0
        edges = self.edges or not self.code.counts or self.by_frame
        if self.turns is not None:
            law = Turned(law, self.turns, () if self.by_frame else self.code.scales)
        widths = (width, known, self.told)
        return law.build(network, widths, places.to(self.code.places), edges=edges, seed=self.seed)

    def at_edges(self) -> None:
        self.edges = True
        called_with(self, edges=True)
        self.law = self._built().to(self.target_mean.device)

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        batch = self.shown(batch, generator=generator)
        tokens = self.code.encode(self._scaled(self._frames(batch)))
        rows, windows = len(tokens), self.unknown - self.block + 1
        pairs = self.pairs if windows > 1 else 1
        at = torch.randint(windows, (rows, pairs), generator=generator, device=generator.device).to(tokens.device)
        row = torch.arange(rows, device=tokens.device).repeat_interleave(pairs)
        last = at.flatten() if self.start is not None else at.flatten() - 1
        before = [tokens[row, (last - i).clamp_min(0)] for i in range(self.context)]
        after = [tokens[row, last + 1 + j] for j in range(self.block)]
        shown = self.conditions.shown(batch.x, batch.x[self.target], generator)
        fixed = self._fixed_tokens(shown)
        fixed = None if fixed is None else fixed[row]
        start = before[0] if self.start is not None else None
        seen, guess = self._seen(shown, start, fixed, len(row))
        sought = self._together(self.chain.brought(start, after, fixed)) - guess
        given = self._given(before, fixed, seen)
        whole = self._whole(self.z(batch.theta), shown)
        found = self.law.loss(sought, given, whole[row], generator=generator)
        return found.unflatten(0, (rows, pairs)).mean(1)

    @torch.no_grad()
    def rollout(
        self, theta: Float[Tensor, "batch theta"], given: X, frames: int, *, generator: torch.Generator
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Draws of a number of frames after the given frame; any number, if blocks follow each other.

        Raises:
            ValueError: If all frames are drawn at once, and more are requested than were learned.
        """
        if frames > self.unknown and self.block == self.unknown:
            raise ValueError(f"{self.unknown} frames were learned at once, and {frames} are requested: use Frames()")
        theta, given = self.meant(theta, given, generator=generator)
        size = (-(-frames // self.block), len(theta), self.law.noise)
        noise = torch.randn(size, generator=generator, device=generator.device).to(self.given_mean)
        return self._rolled(noise, theta, self.conditions.rows(given, slice(None)), generator)[:, :frames]

    @torch.no_grad()
    def from_noise(
        self, noise: Float[Tensor, "batch number"], theta: Float[Tensor, "batch theta"], given: X
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Draws of the unknown frames, as a function of standard normal noise.

        `noise` has `Generator.noise` values for each row. If blocks follow each other, more noise gives more blocks, up
        to the end of the last.

        Raises:
            ValueError: If draws do not depend on their initial noise alone, or captions are given.
        """
        self._check_no_words(given)
        numbers, parts = noise.unflatten(1, (-1, self.law.noise)).transpose(0, 1), list[Tensor]()
        frames = self.unknown if noise.shape[1] <= self.noise else len(numbers) * self.block
        for some in self._pieces(len(noise)):
            here = self.conditions.rows(given, some)
            parts.append(self._rolled(numbers[:, some], theta[some], here, None)[:, :frames])
        return torch.cat(parts)

    def _pieces(self, rows: int) -> list[slice]:
        """Slices of rows that go through the network at once."""
        most = max(1, min(_TOGETHER, _PAIRS // len(self.code.places) ** 2))
        return [slice(k, k + most) for k in range(0, rows, most)]

    @property
    def noise(self) -> int:
        """Number of standard normal values that determine a draw."""
        return -(-self.unknown // self.block) * self.law.noise

    def _rolled(self, noise: Tensor, theta: Tensor, given: X, generator: torch.Generator | None) -> Tensor:
        """Frames drawn block by block, from noise (block, batch, number)."""
        whole, fixed, tokens = (
            self._whole(self.z(theta), given),
            self._fixed_tokens(given),
            self._begun(given),
        )
        known = len(tokens)
        seen, guess = self._seen(given, tokens[0] if known else None, fixed, len(theta))
        for numbers in noise:
            before = [tokens[max(len(tokens) - 1 - i, 0)] for i in range(self.context)] if known else []
            drawn = self.law.from_noise(numbers, self._given(before, fixed, seen), whole, generator=generator)
            tokens += self.chain.continued(before[0] if known else None, self._apart(drawn + guess), fixed)
        return self._decoded(tokens[known:])

    def asked(
        self, theta: Float[Tensor, "1 theta"], given: X
    ) -> tuple[Denoiser, Callable[[Tensor], Tensor], NoiseSchedule]:
        """Parts of the distribution for one start: the denoiser of z, the map from z to fields, and the noise schedule.

        `questions` uses them.

        Raises:
            ValueError: If frames are not drawn at once, or are drawn in turns or not by diffusion, or captions are
                given.
        """
        self._check_no_words(given)
        if not isinstance(self.law, JointDenoiser) or self.block < self.unknown:
            raise ValueError(
                "questions need a generator of all frames at once by diffusion: AtOnce() without turns, and Joint()"
            )
        fixed, begun, (places, numbers) = self._fixed_tokens(given), self._begun(given), self.law.shape
        start = begun[0] if begun else None
        seen, guess = self._seen(given, start, fixed, 1)
        known = self._given(begun * self.context, fixed, seen)

        def fields(z: Tensor) -> Tensor:
            brought = self._apart(z.unflatten(1, (places, numbers)) + guess)
            before, stays = (None if one is None else one.expand(len(z), -1, -1) for one in (start, fixed))
            return self._decoded(self.chain.continued(before, brought, stays))

        return (
            self.law.denoiser(known, self._whole(self.z(theta), given)),
            fields,
            self.law.law.diffusion.schedule,
        )

    @torch.no_grad()
    def sample(
        self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator
    ) -> Float[Tensor, "batch time channel *space"]:
        """Solutions drawn from the learned distribution, without the noise that held-out rows showed to be missing."""
        theta, given = self.meant(theta, given, generator=generator)
        parts = []
        for some in self._pieces(len(theta)):
            here = self.conditions.rows(given, some)
            found = self.rollout(theta[some], here, self.unknown, generator=generator)
            if self.start is not None and self.known:
                found = torch.cat([here[self.start.name].to(found)[:, None], found], 1)
            parts.append(found)
        return torch.cat(parts)

    def draw(
        self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator
    ) -> Float[Tensor, "batch time channel *space"]:
        theta, given = self.meant(theta, given, generator=generator)
        return self.sample(theta, given, generator=generator) + self._widened(theta, generator)

    def _widened(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """Gaussian noise for the variance that draws lack."""
        wide = GridWaves(self.space, edges=self.edges).only
        return wide(self.drawn_error(theta, generator=generator), self.missing.sqrt())

    def predict(self, theta: Float[Tensor, "batch theta"], given: X) -> Float[Tensor, "batch time channel *space"]:
        own = torch.Generator().manual_seed(self.seed)
        return torch.stack([self.sample(theta, given, generator=own) for _ in range(self.members)]).mean(0)

    @torch.no_grad()
    def adjust(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        """Compare draws with held-out rows, and find the variance that draws lack.

        Warns:
            UserWarning: If draws vary too little at some values of a parameter and too much at others, or are far from
                sensors' readings. Also if draws have the same error for all rows or at an end of a parameter, or the
                wrong power in some waves, or captions are misread.
        """
        rows = first_rows(batches, math.prod(self.observables[self.target].shape))
        true, own = rows.x[self.target], torch.Generator().manual_seed(self.seed)
        shown = self.conditions.shown(rows.x, true, own)
        drawn = torch.stack([self.sample(rows.theta, shown, generator=own) for _ in range(_MEMBERS)])
        self.conditions.say_what_is_not_held(shown, drawn, self.target_sd)
        off = true - drawn.mean(0)
        placed = self.parts[0].coordinates or self.edges or not self.code.counts
        say_what_is_always_off(self, rows.theta, off, placed=placed)
        self.keep_errors(rows.theta, off.flatten(1).double().square().mean(1).sqrt().clamp_min(1e-30), off)
        waves = GridWaves(self.space, edges=self.edges)
        plain, true, parts = self._scaled(drawn), self._scaled(true), self.conditions.halves(shown, len(true))
        found = worst_of([compared(plain[:, some], true[some], waves, known=self.known) for some in parts])
        order = torch.cat(parts)
        self.missing.copy_(found.missing)
        told = {} if self.reader is None else self.reader.say_how_it_reads()
        if found.few:
            return {"spread_skill": found.frames, **told}
        say_what_is_not_followed(self, rows.theta[order], found.spread, found.error)
        say_what_goes_together_wrongly(self.target, found)
        wide = torch.stack([self._scaled(one + self._widened(rows.theta, own)) for one in drawn])
        told |= say_power_and_ends(self, rows.theta, wide[:, :, self.known :], true[:, self.known :], waves)
        return {"spread_skill": found.frames, "spread_of_waves": found.waves, **told}


def say_what_is_not_followed(
    law: OfFields,
    theta: Float[Tensor, "batch theta"],
    spread: Float[Tensor, " batch"],
    error: Float[Tensor, " batch"],
) -> None:
    """Warn if draws vary too little at one end of a parameter and too much at the other.

    Args:
        law: The generator of the draws.
        theta: Parameters of held-out rows.
        spread: The variance of draws for each row, scaled to compare with the error of their mean.
        error: The mean squared error of that mean.

    Warns:
        UserWarning: If error minus spread depends on a parameter. The spread is first scaled to be right on average.
    """
    level = error.mean().clamp_min(1e-30)
    excess = (error - spread * level / spread.mean().clamp_min(1e-30)) / level
    for name, z in zip(law.prior.names, law.z(theta).to(excess).T, strict=True):
        each, variance = (z - z.mean()) * excess, z.var(correction=0).clamp_min(1e-12)
        slope, chance = each.mean() / variance, each.std(correction=0) / len(each) ** 0.5 / variance
        if abs(slope) > _SLOPE and abs(slope) > _FIRM * chance:
            more, less = ("high", "low") if slope > 0 else ("low", "high")
            warnings.warn(
                f"held-out simulations show that draws of {law.target!r} are too alike where {name!r} is "
                f"{more}, and too unlike where it is {less}: the law hardly follows it. Train longer, or on more "
                "solutions",
                stacklevel=3,
            )


_SHARE, _ROWS = 0.1, 32
_CHANCE = 6.0  # Limit of a share, times the n rows; under a right distribution its sd is at most sqrt(2) / n.


def always_off(
    off: Float[Tensor, "batch frame channel *space"], z: Float[Tensor, " batch"] | None = None
) -> Float[Tensor, "frame channel"]:
    """The share of the squared error that is the same for all rows, or depends on z; 0 where there is no error."""
    weighed = off if z is None else (off.movedim(0, -1) * z).movedim(-1, 0)
    error = off.square().flatten(3).mean((0, 3))
    same = (weighed.mean(0).square() - weighed.var(0) / len(off)).flatten(2).mean(2)
    return (same / error.clamp_min(1e-30)).where(error > 0, 0.0)


def say_what_is_always_off(
    law: OfFields,
    theta: Float[Tensor, "batch theta"],
    off: Float[Tensor, "batch frame channel *space"],
    *,
    placed: bool,
) -> None:
    """Warn of systematic errors of draws, in the frame and channel where their share is largest.

    Args:
        law: The generator of the draws.
        theta: Parameters of held-out rows.
        off: Held-out solutions minus the mean of draws.
        placed: Whether the network knows the places of points.

    Warns:
        UserWarning: If a tenth of the squared error is the same for all rows, or depends on a parameter, and chance
            does not explain it.
    """
    if len(off) < _ROWS:
        return
    off = off.double().reshape(*off.shape[:3], -1)
    way = (
        "Train longer" if placed else "Is the equation the same everywhere? If not, TokenTransformer(coordinates=True)"
    )
    _say(law, always_off(off), len(off), "is the same for all held-out simulations", "wrong in some places", way)
    for name, column in zip(law.prior.names, law.z(theta).to(off).T, strict=True):
        z = _scaled(column)
        share = always_off(off, z).maximum(always_off(off, _scaled(z.square())))
        _say(law, share, len(off), f"goes with {name!r}", "wrong at its ends", "Train longer, or on more solutions")


def _scaled(column: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """The column, scaled to mean 0 and sd 1."""
    return (column - column.mean()) / column.std(correction=0).clamp_min(1e-12)


def _say(law: OfFields, share: Tensor, rows: int, what: str, so: str, way: str) -> None:
    if float(share.max()) > max(_SHARE, _CHANCE / rows):
        frame, channel = divmod(int(share.argmax()), share.shape[1])
        warnings.warn(
            f"{float(share.max()):.0%} of the squared error of draws of {law.target!r} {what}, in frame {frame}, "
            f"channel {channel}: they are {so}, not only unsure. {way}",
            stacklevel=5,
        )


_SWAPS, _RANK = 200, 4  # The probability of a false alarm is 4 in 200.
_FEWEST, _POWER_SHARE, _LEAST = 16, 5, 8  # Least rows for a check; an end is a fifth of them, of at least 8 rows.
_FACTOR, _BIAS = 1.1, 0.2  # A power or spread within this factor of 1, or a bias below so many sds, is not named.
_HEADINGS = {
    "power": "a power over that of solutions of",
    "spread": "a spread over what their mean is off by (1 if right) of",
    "bias": "means that are off, in sds, by",
}
_ROUNDING = 1e-10  # Power below this share of a row's power is rounding.


@dataclass(frozen=True)
class _Figure:
    """One figure of the check: its name in the record, its place, and its values, (swap,), the real one first."""

    name: str
    where: str
    values: Float[Tensor, " swap"]

    @property
    def value(self) -> float:
        return float(self.values[0])

    @property
    def bias(self) -> bool:
        """Whether the figure is 0 for a right distribution; if not, it is 1."""
        return self.name.startswith("bias")

    def matters(self) -> bool:
        """Whether the figure is far enough from its value for a right distribution to be named."""
        return self.value > _BIAS if self.bias else not 1 / _FACTOR < self.value < _FACTOR

    def distance(self) -> Float[Tensor, " swap"]:
        """Distance of each value from the mean over the repetitions, in sds over the repetitions.

        The first value is the figure of the solutions. In the repetitions, a draw takes the place of the
        solution. A figure that is 1 if right enters by its logarithm, and its distance is absolute.
        """
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
    """Figures of the power of draws, and of spread and bias at the ends of each parameter; they are also reported.

    Args:
        law: The generator of the draws.
        theta: Parameters of held-out rows.
        drawn: Standardised draws, of frames that were not given.
        true: The solutions.
        waves: Waves of the solutions' grid.

    Returns:
        `power_<octave>`, `spread_<low or high>_<parameter>` and `bias_<low or high>_<parameter>`; empty with fewer than
        16 rows.

    Warns:
        UserWarning: If one of them is off by more than chance explains.
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
    """One phrase for each kind of figure, with all figures of this kind."""
    some = {heading: [one for one in figures if one.name.startswith(kind)] for kind, heading in _HEADINGS.items()}
    return [
        f"{words} {', '.join(f'{one.value:.2f} {one.where}' for one in all_)}" for words, all_ in some.items() if all_
    ]


def _powers(members: Tensor, who: Int[Tensor, "swap batch"], waves: GridWaves) -> list[_Figure]:
    """Power figures, for each octave in which solutions have power."""
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
    """Spread and bias figures for rows with low, and with high, values of each parameter."""
    count = len(theta) // _POWER_SHARE
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
