r"""A surrogate that predicts each frame from the frame before, step by step.

    u_{t+1} = u_t + d f(u_t, g, theta),     d the sd of a step or, if less, of frames,
    loss = |u_{t+1} - true| / |true|,

over pairs of frames drawn from the trajectories; g are constant fields (a coefficient, a forcing). A trajectory of any
length is rolled out from its start. In a rollout, errors accumulate. With `noise`, training adds Gaussian noise to
frames, with an sd of so many sds of a step. So the network learns to correct its own deviations. The errors of a
rollout grow. With `random`, the sd for each pair of frames is drawn uniformly from 0 to `noise`. With `at_use`, frames
of a rollout get a little noise as well, as in training. This noise is drawn from `seed`, and is the same in every row
and in every rollout. So a prediction does not depend on the other rows of its batch, and can be repeated.

References:
    | Fourier Neural Operator for Parametric Partial Differential Equations (Li et al., 2021),
      https://arxiv.org/abs/2010.08895
    | Learning to Simulate Complex Physics with Graph Networks (Sanchez-Gonzalez et al., 2020), for the noise,
      https://arxiv.org/abs/2002.09405
    | Continuous Autoregressive Models with Noise Augmentation Avoid Error Accumulation (Pasini et al., 2024), for noise
      at random levels in training and at a low one in use, https://arxiv.org/abs/2411.18447
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Observable, Prior, X
from sciinf.core.checks import check_from_zero, check_whole
from sciinf.core.component import called_with, called_without
from sciinf.core.prior import global_seed
from sciinf.emulators._errors import Predicting
from sciinf.emulators._fields import ByEdges, ByTimes
from sciinf.emulators.losses import FieldLoss, RelativeL2
from sciinf.networks.fields import FieldArchitecture, FieldNetwork
from sciinf.networks.spectral import Fourier
from sciinf.simulators.dynamics.frames import spacing


class Stepwise(Predicting, ByEdges, ByTimes):
    """A neural operator for one time step, which is rolled out.

    Args:
        prior: The simulator's prior.
        observables: The simulator's observables; frames of the target are evenly spaced.
        network: Architecture of the network from a frame and constant fields to the change. If None, a `Fourier`, with
            coordinates and padding where the training fields have edges.
        target: Name of the observable that is predicted.
        start: Name of the field that it starts from, with the target's channels.
        stays: Names of constant fields.
        begins: Whether the first frame is the start itself (`times[0]` is 0), not the frame after it.
        pairs: Number of pairs of frames that each training step takes from a trajectory.
        noise: Sd of the training noise, in sds of a step.
        random: Whether each pair has its own sd, drawn uniformly from 0 to `noise`.
        at_use: Sd of the noise of each frame in a rollout, in sds of a step; at most `noise`.
        loss: Distance of fields; `RelativeL2()` if None.
        moves: Steps on the grid, such as (1, -1), along which the equation is the same everywhere. Training translates
            solutions by random multiples of them. Only for fields without edges.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If names or layouts do not go together, there is no second frame, or sds are out of range.
    """

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        network: FieldArchitecture | None = None,
        *,
        target: str = "u",
        start: str = "initial",
        stays: Sequence[str] = (),
        begins: bool = True,
        pairs: int = 4,
        noise: float = 0.0,
        random: bool = False,
        at_use: float = 0.0,
        loss: FieldLoss | None = None,
        moves: Sequence[Sequence[int]] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(prior, observables, target, (start, *stays), seed, moves)
        check_whole("pairs", pairs, 1)
        check_from_zero("noise", noise, math.inf)
        check_from_zero("at_use", at_use, math.inf)
        if not isinstance(random, bool):
            raise ValueError(f"random is True or False, got {random!r}: set the largest sd by noise=")
        if random and not noise:
            raise ValueError("random=True draws sds from 0 to `noise`, which is 0: give Stepwise(noise=...) too")
        if at_use > noise:
            raise ValueError(f"at_use is {at_use}, and training shows sds up to noise={noise}: give at most that")
        if self.observables[start].shape[0] != self.channels:
            raise ValueError(f"{start!r} has {self.observables[start].shape[0]} channels, {target!r} {self.channels}")
        if self.frames < 2:
            raise ValueError(f"{target!r} has {self.frames} frames, and no step from one to the next: use an Operator")
        self.begins, self.pairs, self.noise, self.distance = begins, pairs, noise, loss or RelativeL2()
        self.random, self.at_use = random, at_use
        called_without(self, *(name for name, value in (("random", random), ("at_use", at_use)) if not value))
        self.architecture, self.seed = network or Fourier(), seed
        self.network = self._built()

    def _built(self) -> FieldNetwork:
        with global_seed(torch.Generator().manual_seed(self.seed)):
            return self.architecture.build((self.channels_given, self.channels), self.space, len(self.prior.names))

    def at_edges(self) -> None:
        if isinstance(self.architecture, Fourier):
            self.architecture = self.architecture.at_edges()
            called_with(self, network=self.architecture)
            self.network = self._built().to(self.target_mean.device)

    def check_times(self, times: Sequence[float]) -> None:
        """Refuse times of frames that are not evenly spaced.

        Raises:
            ValueError: If they are not evenly spaced, or the first time contradicts `begins`.
        """
        if self.begins != (times[0] == 0):
            place = "after the start, which is at 0" if self.begins else "the start itself"
            raise ValueError(
                f"the first frame, at {times[0]:g}, is {place}: build the surrogate with begins={not self.begins}"
            )
        spacing(times if self.begins else (0.0, *times))

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        batch = self.shown(batch, generator=generator)
        known = self.stacked(batch.x).to(self.given_mean)
        frames = batch.x[self.target].to(self.target_mean)
        if not self.begins:
            frames = torch.cat([known[:, None, : self.channels], frames], 1)
        rows, pairs = len(frames), self.pairs
        at = torch.randint(frames.shape[1] - 1, (rows, pairs), generator=generator, device=generator.device)
        row = torch.arange(rows, device=frames.device).repeat_interleave(pairs)
        at = at.to(frames.device).flatten()
        before, after = frames[row, at], frames[row, at + 1]
        if self.noise and self.training:
            blur = torch.randn(before.shape, generator=generator, device=generator.device).to(before)
            if self.random:
                share = torch.rand(len(blur), generator=generator, device=generator.device).to(before)
                blur = share.reshape(-1, *[1] * (blur.ndim - 1)) * blur
            before = before + self.noise * self.step_sd * blur
        found = self.step(before, known[row, self.channels :], self.z(batch.theta)[row])
        _, sd = self.level()
        return self.distance(found / sd, after / sd, directions=len(self.space)).unflatten(0, (rows, pairs)).mean(1)

    def step(
        self,
        frame: Float[Tensor, "batch channel *space"],
        stays: Float[Tensor, "batch channel_stays *space"],
        z: Float[Tensor, "batch theta"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Predict the next frame after `frame`."""
        mean, sd = self.level()
        apart = torch.minimum(self.step_sd, sd)
        fixed = (stays - self.given_mean[self.channels :]) / self.given_sd[self.channels :]
        here = torch.cat([(frame - mean) / sd, fixed], 1)
        return frame + apart * self.network(here, z)

    def predict(self, theta: Float[Tensor, "batch theta"], given: X) -> Float[Tensor, "batch time channel *space"]:
        return self.rollout(theta, given, self.frames - self.begins)[:, 0 if self.begins else 1 :]

    def rollout(self, theta: Float[Tensor, "batch theta"], given: X, steps: int) -> Float[Tensor, "batch frame ..."]:
        """The start, and `steps` frames after it."""
        known, z = self.stacked(given).to(self.given_mean), self.z(theta)
        frames = [known[:, : self.channels]]
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(steps):
            shown = frames[-1]
            if self.at_use:
                blur = torch.randn(shown.shape[1:], generator=generator).to(shown)
                shown = shown + self.at_use * self.step_sd * blur
            frames.append(self.step(shown, known[:, self.channels :], z))
        return torch.stack(frames, 1)
