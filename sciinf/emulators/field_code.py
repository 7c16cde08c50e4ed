r"""Learned codes: an encoder maps a frame of a field to few latent variables, and a decoder maps these back.

u is a standardised frame on the grid, and z are its latent variables. The encoder (`encoders`) gives
q(z | u). The decoder (`decoders`) gives the field f(z) at any points. With sigma the argument `noise`, the
likelihood is p(u | z) = N(f(z), sigma^2 I). The loss is that of an objective (`objectives`), divided by the
number of points and channels. Each frame is coded separately. A training step takes `frames` random frames of
every trajectory.

With `points`, a training step shows that number of random points to the encoder. The encoder then learns to
read values at any points. With `asked`, a training step decodes that number of random points, which saves
time. The likelihood of the whole grid is estimated from them.

The fit's record has two figures from held-out frames: the relative error of decoded frames, and the number of
latent variables that carry information (`collapsed`).

A trained code can be used in a `Generator`:

    code = train(FieldCode(prior, observables), store, out / "code")
    fit = train(Generator(prior, observables, LearnedCode(code.learned, code.digest)), store, out / "law")

**When to use a learned code.** `tokens.Pod` needs no training, and has the least error of all linear codes
with the same number of variables. A learned code has a smaller error if two conditions hold: fields lie near
a curved surface, as moving fronts do, and few latent variables represent them. For smooth fields,
`tokens.Pod` is better (`benchmarks/codes.py`).

**Posterior collapse.** Some latent variables of a code may carry no information.

A variable z_j is dead if q(z_j | u) equals the prior for every u. Its divergence KL_j from the prior is then
0, and its mean does not vary. For a linear decoder f(z) = W z, the minimum of

    -E_q log p(u | z) + beta KL(q | p)

is probabilistic PCA with noise sd beta^(1/2) sigma. Let lambda_1 >= lambda_2 >= ... be the eigenvalues of the
covariance of the frames. Then column w_j of W has |w_j|^2 = lambda_j - beta sigma^2, and KL_j is
log(lambda_j / (beta sigma^2)) / 2 on average. Both are 0 if lambda_j <= beta sigma^2. A longer training does
not revive such a variable; a smaller beta or sigma does. So a linear code can keep as many variables alive as
there are eigenvalues above beta sigma^2. A network may represent the same information by fewer variables, and
leave the others dead.

For rounded variables (`quantised`) with L levels, the information of z_j about u is the entropy of its levels
over all frames, at most log L. The variable is dead if it always takes the same level.

References:
    | AROMA: Preserving Spatial Structure for Latent PDE Modeling with Local Neural Fields (Serrano et al., 2024),
      https://arxiv.org/abs/2406.02176
    | DDMI: Domain-Agnostic Latent Diffusion Models for Synthesizing High-Quality Implicit Neural Representations (Park
      et al., 2024), https://arxiv.org/abs/2401.12517
    | Don't Blame the ELBO! A Linear VAE Perspective on Posterior Collapse (Lucas et al., 2019),
      https://arxiv.org/abs/1911.02469
    | Beyond Vanilla Variational Autoencoders: Detecting Posterior Collapse in Conditional and Hierarchical Variational
      Autoencoders (Dang et al., 2024), https://arxiv.org/abs/2306.05023
    | Probabilistic Principal Component Analysis (Tipping & Bishop, 1999), https://doi.org/10.1111/1467-9868.00196
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sciinf.core import Adjusting, Batch, Learned, Learns, Observable, Prior
from sciinf.core.checks import check_whole
from sciinf.core.component import called_with
from sciinf.core.prior import global_seed
from sciinf.emulators._fields import ByEdges, FieldMoments, show_edges
from sciinf.emulators.adversarial import Discriminator
from sciinf.emulators.decoders import Decoder, DecoderNetwork, Query
from sciinf.emulators.encoders import Encoder, EncoderNetwork, GridEncoder, places
from sciinf.emulators.objectives import KL, Coded, Objective, Reconstruction, mmd
from sciinf.emulators.quantised import level_of, nearest, rounded
from sciinf.emulators.tokens.code import Code, FieldTokens, Level, Passes
from sciinf.networks.diffusion.solver import noise_like

_LEAST_SD = 1e-4  # Least sd of q, in units of the prior; log s lies between its logarithm and 0.
_VALIDATED = 256  # Rows that are processed at once without gradients.
_CHECKED, _NUMBERS = 1_024, 2**20  # Limits of the frames that are checked, and of their numbers coded at once.


class FieldCode(Learned, Adjusting, ByEdges):
    """A learned code of one observable's frames.

    Args:
        prior: The simulator's prior.
        observables: The simulator's observables.
        encoder: Recipe of the encoder; `GridEncoder()` if None.
        decoder: Recipe of the decoder; `Query()` if None.
        objective: Training objective of both; `KL()` if None.
        target: Name of the observable, (time, channel, *space).
        numbers: Number of latent variables of a code.
        noise: Noise sd sigma of the decoder, in sds of the frames; errors below it hardly count.
        frames: Number of frames of each trajectory at each training step; all if there are fewer.
        points: Number of points of a frame that the encoder sees in training, drawn anew at each step; the grid if
            None.
        asked: Number of points that are decoded in training, drawn anew at each step; the grid if None.
        edges: Whether fields have edges; training sets this to True if it finds edges.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If a name or layout does not suit, or a number is out of its range.

    Examples:
        >>> from torch.distributions import Uniform
        >>> fields = {"u": Observable((5, 1, 64))}
        >>> code = FieldCode(Prior(viscosity=Uniform(0.01, 0.1)), fields, numbers=4)
        >>> z = code.encode(torch.ones(3, 1, 64))
        >>> z.shape, code.decode(z).shape, code.decode(z, places((128,), edges=False)).shape
        (torch.Size([3, 4]), torch.Size([3, 1, 64]), torch.Size([3, 1, 128]))
    """

    learns: Learns = "noisy fields"
    mean: Tensor
    sd: Tensor
    grid: Tensor

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        objective: Objective | None = None,
        *,
        target: str = "u",
        numbers: int = 16,
        noise: float = 0.02,
        frames: int = 4,
        points: int | None = None,
        asked: int | None = None,
        edges: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (("numbers", numbers, 1), ("frames", frames, 1), ("seed", seed, 0)):
            check_whole(name, value, least)
        if target not in observables or len(observables[target].shape) < 3:
            raise ValueError(f"{target!r} is to be an observable of shape (time, channel, *space), got {observables}")
        if 1 in observables[target].shape[2:]:
            raise ValueError(f"{target!r} has a direction of one point, {observables[target].shape[2:]}: leave it out")
        if not 0 < noise < math.inf:
            raise ValueError(f"noise is a positive number of sds, got {noise!r}")
        self.prior, self.observables, self.target = prior, {target: observables[target]}, target
        self.times, self.channels, *space = observables[target].shape
        self.space, total = tuple(space), math.prod(space)
        for name, value in (("points", points), ("asked", asked)):
            if value is not None and not (isinstance(value, int) and 1 <= value <= total):
                raise ValueError(f"{name} is a number of points from 1 to the grid's {total}, got {value!r}")
        self.numbers, self.noise, self.points, self.asked = numbers, noise, points, asked
        self.frames, self.seed, self.objective = min(frames, self.times), seed, objective or KL()
        self.parts = (encoder or GridEncoder(), decoder or Query())
        axes = (1,) * len(space)
        self.register_buffer("mean", torch.zeros(self.channels, *axes))
        self.register_buffer("sd", torch.ones(self.channels, *axes))
        self._build(edges)

    def _build(self, edges: bool) -> None:
        self.edges = edges
        self.register_buffer("grid", places(self.space, edges=edges), persistent=False)
        encoder, decoder = self.parts
        with global_seed(torch.Generator().manual_seed(self.seed)):
            self.encoder: EncoderNetwork = encoder.build(self.channels, self.space, 2 * self.numbers, edges=edges)
            self.decoder: DecoderNetwork = decoder.build(self.channels, self.space, self.numbers, edges=edges)
            self.judge = Discriminator(self.numbers, self.objective.judged) if self.objective.judged else None
        self.to(self.mean.device)

    def at_edges(self) -> None:
        called_with(self, edges=True)
        self._build(True)

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Take mean and sd of each channel, and whether fields have edges, from the training rows."""
        found = FieldMoments()
        for batch in batches():
            found.add(batch.x[self.target], (0, 1, *range(3, 3 + len(self.space))))
        found.into(self.mean, self.sd)
        if not self.edges:
            show_edges(self, batches, lambda rows: [rows.x[self.target].flatten(0, 1)])

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        if len(batch) > _VALIDATED and not torch.is_grad_enabled():
            parts = [batch.rows(slice(k, k + _VALIDATED)) for k in range(0, len(batch), _VALIDATED)]
            return torch.cat([self.loss(part, generator=generator) for part in parts])
        fields = batch.x[self.target].to(self.mean)
        order = torch.rand(fields.shape[:2], generator=generator, device=generator.device).argsort(1)[:, : self.frames]
        rows = torch.arange(len(fields), device=fields.device)[:, None]
        scaled = ((fields[rows, order.to(fields.device)].flatten(0, 1) - self.mean) / self.sd).flatten(2)
        seen, asked = (self._some(count, generator) for count in (self.points, self.asked))
        coded = self._coded(scaled if seen is None else scaled[..., seen], None if seen is None else self.grid[seen])
        due, at = (scaled, self.grid) if asked is None else (scaled[..., asked], self.grid[asked])
        share = due.shape[2] / scaled.shape[2]
        noise = due.new_tensor(self.noise * share**0.5)  # With this factor, a part of the points weighs as much as all.
        found = self.objective.loss(
            Reconstruction(due.flatten(1), lambda z: self._decoded(z, at).flatten(2), noise), coded, generator=generator
        )
        return found.unflatten(0, (-1, self.frames)).mean(1) / scaled[0].numel()

    def _some(self, count: int | None, generator: torch.Generator) -> Tensor | None:
        """Indices of random points of the grid; None for all points."""
        if count is None:
            return None
        return torch.randperm(len(self.grid), generator=generator, device=generator.device)[:count].to(self.grid.device)

    def _coded(self, scaled: Tensor, at: Tensor | None) -> Coded:
        """q(z | u) of standardised values (row, channel, point), at the grid where no points are given."""
        values = scaled.unflatten(2, self.space) if at is None else scaled
        here = self.grid if at is None else at
        mean, spread = self.encoder(values, at, lambda z: self.decoder(z, here)).chunk(2, -1)
        return Coded(mean, math.log(_LEAST_SD) * torch.sigmoid(spread - 1.0), self.judge, self.objective.levels)

    def _decoded(self, z: Float[Tensor, "*batch number"], at: Tensor) -> Float[Tensor, "*batch channel point"]:
        return self.decoder(z.flatten(0, -2), at).unflatten(0, z.shape[:-1])

    def coded(
        self, fields: Float[Tensor, "batch channel *space"], at: Float[Tensor, "point axis"] | None = None
    ) -> Coded:
        """q(z | u) of frames in their own units.

        Args:
            fields: Fields on the grid; or values at points, (batch, channel, point).
            at: The points, in the unit box.
        """
        mean, sd = self.level()
        return self._coded((fields.flatten(2) - mean) / sd, at)

    def encode(
        self, fields: Float[Tensor, "batch channel *space"], at: Float[Tensor, "point axis"] | None = None
    ) -> Float[Tensor, "batch number"]:
        """Latent variables of frames: the mean of `coded`, with its arguments; rounded, if the objective rounds."""
        return self._kept(self.coded(fields, at))

    def _kept(self, coded: Coded) -> Float[Tensor, "batch number"]:
        return rounded(coded.mean, coded.levels) if coded.levels else coded.mean

    def decode(
        self, z: Float[Tensor, "batch number"], at: Float[Tensor, "point axis"] | None = None
    ) -> Float[Tensor, "batch channel ..."]:
        """Frames in their own units, on the grid; or at points of the unit box, (batch, channel, point)."""
        mean, sd = self.level()
        found = mean + sd * self._decoded(z, self.grid if at is None else at)
        return found.unflatten(2, self.space) if at is None else found

    def level(self) -> tuple[Float[Tensor, "channel 1"], Float[Tensor, "channel 1"]]:
        """Mean and sd of frames."""
        return self.mean.flatten(1), self.sd.flatten(1)

    @torch.no_grad()
    def adjust(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        """Figures of held-out frames: the relative error of decoded frames, and the number of informative variables.

        Also the distance of the distribution of all codes from the prior (MMD^2, `objectives`), or the share of levels
        in use.
        """
        frames = next(iter(batches())).x[self.target].to(self.mean).flatten(0, 1)[:_CHECKED]
        draw = torch.Generator().manual_seed(self.seed)
        seen, most = self._some(self.points, draw), max(1, _NUMBERS // frames[0].numel())
        parts, off = [], []
        for some in frames.split(most):
            given = some if seen is None else some.flatten(2)[..., seen]
            parts.append(self.coded(given, None if seen is None else self.grid[seen]))
            off.append(self.decode(self._kept(parts[-1])) - some)
        mean, log_sd = torch.cat([p.mean for p in parts]), torch.cat([p.log_sd for p in parts])
        error = torch.cat(off).flatten(1).norm(dim=1) / frames.flatten(1).norm(dim=1).clamp_min(1e-30)
        says = collapsed(Coded(mean, log_sd, levels=self.objective.levels))
        told = {"relative_error": float(error.mean()), "numbers_alive": float(says.alive.sum())}
        if says.in_use is not None:
            return told | {"levels_used": float(says.in_use.float().mean() / says.levels)}
        z = Coded(mean, log_sd).draw(1, generator=draw)[0]
        return told | {"codes_off_prior": float(mmd(z, noise_like(z, draw)).mean())}


class LearnedCode(Code):
    """A trained `FieldCode` as a code of tokens, with fixed weights.

    Args:
        learned: The trained code; an unchanged copy is kept.
        of: Digest of its fit, which distinguishes codes.
        width: Number of latent variables in a token; all if None.

    Raises:
        ValueError: If the width does not divide the number of variables; when built, if fields have another layout.
    """

    def __init__(self, learned: FieldCode, of: str = "", *, width: int | None = None) -> None:
        if not isinstance(learned, FieldCode):
            raise TypeError(f"expected a trained FieldCode, got {type(learned).__name__}: pass the fit's `learned`")
        self.learned, self.of, self.width = learned, of, learned.numbers if width is None else width
        check_whole("width", self.width, 1)
        if learned.numbers % self.width:
            raise ValueError(f"{learned.numbers} numbers are no whole number of tokens of {self.width}")
        self.learned_of = learned.target

    def build(self, channels: int, space: Sequence[int]) -> FieldTokens:
        if (channels, tuple(space)) != (self.learned.channels, self.learned.space):
            raise ValueError(
                f"the code was learned of fields of {self.learned.channels} x {self.learned.space}, these have "
                f"{channels} x {tuple(space)}"
            )
        return _Frozen(copy.deepcopy(self.learned), self.width)


@final
class _Frozen(FieldTokens):
    """A trained code for fields that are standardised differently: s' = shift + factor s."""

    shift: Tensor
    factor: Tensor

    def __init__(self, learned: FieldCode, width: int) -> None:
        count = learned.numbers // width
        super().__init__(learned.channels, learned.space, (torch.arange(count)[:, None] + 0.5) / count, width)
        self.learned = learned.eval().requires_grad_(False)
        self.register_buffer("shift", torch.zeros(learned.channels, 1))
        self.register_buffer("factor", torch.ones(learned.channels, 1))

    def look(self, fields: Passes, level: Level | None = None) -> None:
        del fields
        if level is not None:
            mean, sd = self.learned.level()
            self.shift.copy_((level[0].flatten(1) - mean) / sd)
            self.factor.copy_(level[1].flatten(1) / sd)

    def encode(self, fields: Float[Tensor, "*batch channel *space"]) -> Float[Tensor, "*batch token width"]:
        lead = fields.shape[: fields.ndim - 1 - len(self.space)]
        mean, sd = self.learned.level()
        own = mean + sd * (self.shift + self.factor * fields.reshape(-1, self.channels, math.prod(self.space)))
        return self.learned.encode(own.unflatten(2, self.space)).reshape(*lead, len(self.places), self.width)

    def decode(self, tokens: Float[Tensor, "*batch token width"]) -> Float[Tensor, "*batch channel *space"]:
        mean, sd = self.learned.level()
        z, levels = tokens.flatten(-2).flatten(0, -2), self.learned.objective.levels
        own = (self.learned.decode(nearest(z, levels) if levels else z).flatten(2) - mean) / sd
        return ((own - self.shift) / self.factor).reshape(*tokens.shape[:-2], self.channels, *self.space)


ALIVE = 0.01  # Least mean information in nats, and least variance of the mean, of a variable that is not dead.


@dataclass(frozen=True)
class Collapse:
    """Information that the latent variables of a code carry.

    Args:
        kl: Mean information of each variable over rows, in nats, (latent).
        variance: Variance of each variable's mean over rows, (latent); at most 1 for codes that follow their prior.
        levels: Number of levels of each variable; 0 without rounding.
        in_use: Number of levels of each variable that occur, (latent); None without rounding.
    """

    kl: Float[Tensor, " latent"]
    variance: Float[Tensor, " latent"]
    levels: int = 0
    in_use: Int[Tensor, " latent"] | None = None

    @property
    def alive(self) -> Tensor:
        """Whether each variable carries information, (latent)."""
        return (self.kl > ALIVE) & (self.variance > ALIVE)

    def __str__(self) -> str:
        found = (
            f"{int(self.alive.sum())} of {len(self.kl)} numbers say something, {float(self.kl.sum()):.3g} nats in all"
        )
        if self.in_use is None:
            return found
        return f"{found}; {int(self.in_use.sum())} of {self.levels * len(self.kl)} levels are in use"


def collapsed(coded: Coded) -> Collapse:
    """Information of each latent variable, from the distributions q of some hundred rows."""
    levels = coded.levels
    if not levels:
        return Collapse(coded.kl().mean(0).detach(), coded.mean.var(0).detach())
    counts = F.one_hot(level_of(coded.mean, levels), levels).sum(0)
    share = counts / len(coded.mean)
    entropy = -torch.xlogy(share, share).sum(1)
    return Collapse(entropy, rounded(coded.mean, levels).var(0).detach(), levels, (counts > 0).sum(1))


def expected_nats(
    rows: Float[Tensor, "batch number"], latents: int, noise: float, beta: float = 1.0
) -> Float[Tensor, " latent"]:
    """Information in nats of each variable of the best linear code, the largest first; 0 for dead variables.

    Args:
        rows: Training rows; fields flattened.
        latents: Number of latent variables.
        noise: Noise sd sigma of the decoder, in units of the rows.
        beta: Weight of the divergence.
    """
    centred = (rows - rows.mean(0)).double()
    few = len(rows) < rows.shape[1]
    eigenvalues = torch.linalg.eigvalsh((centred @ centred.mT if few else centred.mT @ centred) / len(rows)).flip(0)
    found = torch.zeros(latents, dtype=torch.float64)
    kept = eigenvalues[:latents].clamp_min(0.0)
    found[: len(kept)] = (kept / (beta * noise**2)).clamp_min(1.0).log() / 2
    return found
