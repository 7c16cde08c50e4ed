r"""Latent dynamics: a hidden path z(t) with a learned distribution, of which noisy values are observed at some times.

    z ~ p(z_1..z_T | theta, u),     x_k ~ p(x_k | z_k, theta, u_k),     z ~ q(z_1..z_T | x seen, theta, u).

p(z) and q(z) are a `processes.Process`. p(x_k | z_k) is an `emissions.Emission` with a decoder. (The decoder of
`Controlled` does not see u_k, because u_k may have been chosen after a look at x_k.) An encoder reads the values of
each time separately, with a mask of the observed ones (`NAME_mask`). It gives features, which the process combines over
time (`NAME_times`). The loss of a row is minus the evidence lower bound, in nats of the target's own units,

    loss = KL(q || p) - E_q[sum_{seen k} log p(x_k | z_k)] + shared / N.

Each training step draws one path of q for each row. `shared` is the penalty that all N training rows have in common
(`LearnedProcess.shared`). In training alone, the loss also contains the penalty of the process (`LearnedProcess.cost`).
With `hide`, each training step hides this share of the times from q, at random, and still scores them. The bound still
holds, and q learns to fill gaps.

**One fit answers several questions.** `draw` emulates: it samples p(x | theta) without any observation of the target,
and ignores values that are passed under its name. `complete` fills in missing values: they are drawn given the observed
ones, which stay as they are or are smoothed. If the later values are missing, this is a forecast. `latent` draws the
hidden path. `bound` gives a lower bound of the log likelihood of rows.

**It is an approximation.** q is the exact posterior only for some processes with linear decoders. Intervals of
filled-in values can be too narrow, and `bound` lies below the log likelihood by the KL from q to the exact posterior.
The fit's record contains a comparison of draws with held-out values ("spread_skill", "bound").

References:
    | Auto-encoding variational Bayes (Kingma, Welling, 2013), https://arxiv.org/abs/1312.6114
    | Importance weighted autoencoders (Burda et al., 2015), https://arxiv.org/abs/1509.00519
    | Revisiting structured variational autoencoders (Zhao, Linderman, 2023), https://arxiv.org/abs/2305.16543
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.core import Adjusting, Batch, Learns, Observable, Prior, Surrogate, X
from sciinf.core.checks import check_whole
from sciinf.core.prior import global_seed
from sciinf.core.surrogate import ALIKE, UNLIKE
from sciinf.emulators._series import MASK, Inputs
from sciinf.emulators.emissions import Bernoulli, Emission, Gaussian, Poisson
from sciinf.emulators.processes import Latent, Linear, Process, Series, Sizes


def compared(
    drawn: Float[Tensor, "draw row time channel"],
    true: Float[Tensor, "row time channel"],
    at: Bool[Tensor, "row time channel"],
) -> tuple[float, float]:
    """The rms error of the mean of draws at some values, and the draws' spread divided by this error.

    The ratio is 1 if the draws have the right distribution.
    """
    square = (drawn.mean(0) - true)[at].double().square().mean()
    spread = drawn.double().var(0)[at].mean() * (1 + 1 / len(drawn))
    return float(square.sqrt()), float((spread / square.clamp_min(1e-30)).sqrt())


def say_where_draws_are_unlike_errors(ratio: float, what: str) -> None:
    """Warn if draws of some kind vary too little or too much, compared with their errors on held-out series.

    Warns:
        UserWarning: If the ratio of spread to error is far from 1.
    """
    if not ALIKE <= ratio <= UNLIKE:
        warnings.warn(
            f"draws of {what} spread {ratio:.2f} times as far as their mean is off for held-out simulations (1 if "
            f"right): they are too {'sure' if ratio < 1 else 'wide'}. Try more simulations, a longer training, "
            "more states, or another process",
            stacklevel=5,
        )


_CHECKED, _DRAWS = 256, 16  # Number of held-out rows that are checked, and of draws for each row.
_HIDDEN = 0.3  # Share of the times of held-out rows that is hidden and then filled in.


@final
class LatentDynamics(Surrogate, Adjusting):
    """A surrogate of series: a hidden path, and a distribution of the values observed from it.

    Args:
        prior: The simulator's prior; `Prior.none()` for series without parameters.
        observables: The simulator's observables. `TARGET_mask` (bool) says which values of the target were observed,
            and `TARGET_times` (float64) says when.
        process: Recipe of the distribution of the hidden path, with its approximate posterior.
        target: Name of the series, (time, *event).
        given: Names of other observables that are known beforehand. Series with as many times as the target are
            controls, which the process sees, and the decoder if the process allows it. The others are conditioning
            values of the row as a whole.
        emission: Distribution of a value given the state. If None, `Bernoulli` for bool, `Poisson` for int64, and
            `Gaussian` for other types.
        width: Width of the hidden layers of encoder and decoder; 0 makes both linear.
        hide: Share of the times that training hides from the posterior, and still scores.
        members: Number of draws of which a prediction is the mean.
        seed: Seed of the initial weights.
        columns: Components of the path that are the target's channels themselves, in its units, each with noise. There
            is no decoder then, so that the path has the meaning of a known equation (`NeuralSDE(known=...)`).

    Raises:
        ValueError: If a name or layout does not suit, or a number is out of its range.
    """

    learns: Learns = "noisy fields"
    off: Tensor

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        process: Process,
        *,
        target: str = "x",
        given: Sequence[str] = (),
        emission: Emission | None = None,
        width: int = 32,
        hide: float = 0.0,
        members: int = 16,
        seed: int = 0,
        columns: Sequence[int] = (),
    ) -> None:
        super().__init__()
        for name, value, least in (("width", width, 0), ("members", members, 1), ("seed", seed, 0)):
            check_whole(name, value, least)
        if not 0 <= hide < 1:
            raise ValueError(f"hide is a share of the times, from 0 to below 1, got {hide!r}")
        self.inputs = Inputs(prior, observables, target, given)
        self.prior, self.target, self.observables = prior, target, self.inputs.used
        self.given = (*given, *([self.inputs.times] if self.inputs.times else []))
        self.hide, self.members, self.seed = hide, members, seed
        self.register_buffer("off", torch.ones(()))
        law = emission or {"bool": Bernoulli(), "int64": Poisson()}.get(observables[target].dtype, Gaussian())
        channels, context, controls = self.inputs.channels, self.inputs.context, self.inputs.controls
        with global_seed(torch.Generator().manual_seed(seed)):
            self.emission = law.build(channels)
            read = self.emission.inputs + channels
            sizes = Sizes(width or read, context, controls, tuple(prior.names))
            self.encoder = Linear(read, sizes.features, width)
            self.process = process.build(sizes, seed=seed)
            self.columns = _columns(columns, self.process.states, channels, law)
            if not self.columns:
                shown = controls if self.process.decodes_controls else 0
                self.decoder = Linear(self.process.states + context + shown, self.emission.outputs, width)

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Take means and sds, the unit of time and the number of rows from the training rows.

        Raises:
            ValueError: If a value is impossible under the emission's distribution, or times go backwards.
        """
        self.inputs.standardise(batches)
        self.emission.standardise(self.inputs.values(batch.x) for batch in batches())

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        series = self.series(batch.theta, batch.x)
        if self.hide:
            kept = torch.rand(series.there.shape, generator=generator, device=generator.device).to(series.seen)
            kept = series.there & (kept >= self.hide)
            series = replace(series, seen=torch.where(kept[..., None], series.seen, 0.0), there=kept)
        found = self.process.posterior(series, generator=generator)
        shared = self.process.shared() / self.inputs.rows.to(found.kl)
        loss = found.kl - self._expected(series, found, batch.x) + shared
        return loss + self.process.cost(series, found.z) if self.training else loss

    def series(
        self, theta: Float[Tensor, "row theta"], x: X, *, offset: Float[Tensor, "row time feature"] | None = None
    ) -> Series:
        """Inputs of the process for a batch of rows.

        Args:
            theta: Parameters, in the prior's order and units.
            x: The target with its mask and times, and the observables that are known beforehand.
            offset: Values that are added to the features that the process reads (`Series.offset`).
        """
        value, there = self.inputs.values(x)
        read = torch.cat([torch.where(there, 1.0, 0.0), self._read(value, there)], -1)
        seen = there.any(-1)
        embedded = torch.where(seen[..., None], self.encoder(read), 0.0)
        known, controls = self.inputs.known(theta, x), self.inputs.controlled(x)
        clock, nought = self.inputs.clock(len(theta)), self.inputs.nought(len(theta))
        return Series(embedded, seen, known, self.inputs.when(x), controls, offset, theta, *clock, nought)

    def _read(self, value: Tensor, there: Tensor) -> Tensor:
        read = self.emission.read(value)
        each = there[..., None].expand(*there.shape, read.shape[-1] // there.shape[-1]).flatten(-2)
        return torch.where(each, read, 0.0)

    def likelihood(self, series: Series, z: Float[Tensor, "row time state"], x: X) -> Float[Tensor, " row"]:
        """Log likelihood log p(x seen | z) of paths, in nats, in the target's units."""
        value, there = self.inputs.values(x)
        log = self.emission.log_prob(self._decoded(series, z), value)
        return torch.where(there, log, 0.0).sum((1, 2))

    def _expected(self, series: Series, found: Latent, x: X) -> Float[Tensor, " row"]:
        """E_q[log p(x seen | z)], estimated from the drawn path, or exact for finitely many states."""
        if found.marginals is None:
            return self.likelihood(series, found.z, x)
        value, there = self.inputs.values(x)
        total = torch.zeros_like(found.kl)
        for k, state in enumerate(torch.eye(self.process.states, dtype=found.z.dtype, device=found.z.device)):
            log = self.emission.log_prob(self._decoded(series, state.expand_as(found.z)), value)
            total = total + (torch.where(there, log, 0.0).sum(-1) * found.marginals[..., k]).sum(-1)
        return total

    def _decoded(self, series: Series, z: Tensor) -> Tensor:
        if self.columns:
            return self.emission.read(torch.stack([z[..., k] for k in self.columns], -1))
        parts = [z, series.context[:, None].expand(-1, z.shape[1], -1)]
        if series.controls is not None and self.process.decodes_controls:
            parts.append(series.controls)
        return self.decoder(torch.cat(parts, -1))

    def bound(
        self,
        theta: Float[Tensor, "row theta"],
        x: X,
        *,
        generator: torch.Generator,
        draws: int = 1,
        offset: Float[Tensor, "row time feature"] | None = None,
    ) -> Float[Tensor, " row"]:
        """A lower bound of log p(x seen | theta) of each row, in nats.

        It is a lower bound on average over draws, and is tighter with more draws.

        Raises:
            ValueError: If several draws are requested, and the process does not give the log density of one. Also as
                for `complete`.
        """
        check_whole("draws", draws, 1)
        series, logs = self._asked(theta, x, offset), list[Tensor]()
        for _ in range(draws):
            found = self.process.posterior(series, generator=generator)
            less = found.kl if draws == 1 else found.log_ratio
            if less is None:
                raise ValueError("this process does not give the log density of a path: ask for one draw")
            log = self._expected(series, found, x) if draws == 1 else self.likelihood(series, found.z, x)
            logs.append(log - less)
        return torch.stack(logs).logsumexp(0) - math.log(draws)

    @torch.no_grad()
    def latent(
        self,
        theta: Float[Tensor, "row theta"],
        x: X,
        *,
        generator: torch.Generator,
        offset: Float[Tensor, "row time feature"] | None = None,
    ) -> Float[Tensor, "row time state"]:
        """Draw a hidden path of each row, given the observations.

        Its coordinates are the network's own, and are defined only up to an invertible map. `offset` is the result of
        `refined` for these rows.

        Raises:
            ValueError: As for `complete`.
        """
        return self.process.posterior(self._asked(theta, x, offset), generator=generator).z

    @torch.no_grad()
    def complete(
        self,
        theta: Float[Tensor, "row theta"],
        x: X,
        *,
        generator: torch.Generator,
        keep: bool = True,
        offset: Float[Tensor, "row time feature"] | None = None,
    ) -> Float[Tensor, "row time ..."]:
        """Draw the whole series of each row, given the observed values; gaps and future values are filled in.

        Args:
            theta: Parameters, in the prior's order and units.
            x: The target, of any length, with a mask that is True where a value was observed; its times; and the
                observables that are known beforehand.
            generator: Source of the draws.
            keep: Whether observed values stay as they are. If False, they are drawn anew from p(x | z), like another
                measurement.
            offset: The result of `refined` for these rows.

        Raises:
            ValueError: If something is missing, not finite, or of another layout, or times go backwards.
        """
        series, (value, there) = self._asked(theta, x, offset), self.inputs.values(x)
        z = self.process.posterior(series, generator=generator).z
        drawn = self.emission.draw(self._decoded(series, z), generator=generator)
        return self._shaped(torch.where(there, value, drawn) if keep else drawn)

    @torch.no_grad()
    def draw(
        self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator
    ) -> Float[Tensor, "batch time ..."]:
        series = self._nothing_seen(theta, given)
        z = self.process.prior(series, generator=generator)
        return self._shaped(self.emission.draw(self._decoded(series, z), generator=generator))

    @torch.no_grad()
    def predict(self, theta: Float[Tensor, "batch theta"], given: X) -> Float[Tensor, "batch time ..."]:
        series, own = self._nothing_seen(theta, given), torch.Generator().manual_seed(self.seed)
        found = [self._decoded(series, self.process.prior(series, generator=own)) for _ in range(self.members)]
        mean = self.emission.mean(torch.stack(found))
        return mean.reshape(*mean.shape[:2], *self.inputs.event)

    def _asked(self, theta: Tensor, x: X, offset: Tensor | None) -> Series:
        """Inputs of the process for rows of a query, after checks that training under vmap cannot do."""
        self.inputs.check(theta, x, target=True)
        series = self.series(theta, x, offset=offset)
        self.process.check(series)
        return series

    def _nothing_seen(self, theta: Tensor, given: X) -> Series:
        """Inputs of the process for rows without any observation; values of the target are ignored."""
        self.inputs.check(theta, given, target=False)
        known, controls, times = self.inputs.known(theta, given), self.inputs.controlled(given), self.inputs.when(given)
        length = next((part.shape[1] for part in (times, controls) if part is not None), None)
        length = length or self.observables[self.target].shape[0]
        seen = known.new_zeros(len(known), length, self.encoder.outputs)
        there, clock = seen.new_zeros(seen.shape[:2], dtype=torch.bool), self.inputs.clock(len(known))
        return Series(seen, there, known, times, controls, None, theta, *clock, self.inputs.nought(len(known)))

    def _shaped(self, found: Tensor) -> Tensor:
        spec = self.observables[self.target]
        return found.reshape(*found.shape[:2], *self.inputs.event).to(spec.torch_dtype)

    def spread(self, theta: Float[Tensor, "batch theta"]) -> Float[Tensor, " batch"]:
        """Root mean square error on held-out series, the same at all parameters."""
        return self.off.expand(len(theta))

    @torch.no_grad()
    def adjust(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        """Figures of held-out rows: the bound in nats per row, and the spread of draws divided by their error.

        Warns:
            UserWarning: If draws of filled-in gaps, or of whole series, vary too little or too much.
        """
        rows = next(iter(batches()))
        rows, own = rows.rows(slice(0, _CHECKED)), torch.Generator().manual_seed(self.seed)
        told = {"bound": float(self.bound(rows.theta, rows.x, generator=own).mean())}
        if not self.emission.ordered:
            return told
        value, there = self.inputs.values(rows.x)
        gone = there & (torch.rand(there.shape[:2], generator=own).to(value) < _HIDDEN)[..., None]
        x = {**rows.x, self.target + MASK: (there & ~gone).reshape(rows.x[self.target].shape)}
        drawn = [self.draw(rows.theta, rows.x, generator=own) for _ in range(_DRAWS)]
        filled = [self.complete(rows.theta, x, generator=own) for _ in range(_DRAWS)]
        off = 0.0
        for what, draws, at in (("gaps", filled, gone), ("series", drawn, there)):
            off, ratio = compared(torch.stack(draws).reshape(_DRAWS, *value.shape).float(), value, at)
            say_where_draws_are_unlike_errors(ratio, f"{what} of {self.target!r}")
            told["spread_skill_of_" + what] = ratio
        self.off.fill_(off)
        return told


def _columns(columns: Sequence[int], states: int, channels: int, emission: Emission) -> tuple[int, ...]:
    """Components of the path that are channels of the target, after a check."""
    if not columns:
        return ()
    if len(columns) != channels or not all(0 <= k < states for k in columns):
        raise ValueError(
            f"columns is {list(columns)}: one of 0..{states - 1} for each of {channels} channels is needed"
        )
    if not isinstance(emission, Gaussian):
        raise ValueError(f"columns are for values with Gaussian noise, and the emission is {type(emission).__name__}")
    return tuple(columns)
