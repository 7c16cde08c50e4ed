"""Conversion of a generator's conditioning values, and of the frames that it draws, to tokens and back."""

from __future__ import annotations

import itertools
import math
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Observable, Prior, X
from sciinf.emulators._errors import WithErrors
from sciinf.emulators._fields import ByTimes, FieldMoments, Looking
from sciinf.emulators.conditions import WORDS, Conditions, Frame, Given
from sciinf.emulators.tokens import Code, Order, Scales
from sciinf.emulators.tokens.assimilated import guessed
from sciinf.emulators.tokens.innovations import FrameChain, Innovations, beside
from sciinf.simulators.dynamics.frames import spacing

_NUMBERS = 2**22  # Limit of the numbers in one batch that `look` reads.
_SAME = 1e-2  # Two equal frames may differ by so many sds of frames, because of rounding.
_LINEAR = 1e-3  # This share of the linear model's residual variance is added to the noise of sensors.


class InTokens(WithErrors, Looking, ByTimes, ABC):
    """A surrogate of frames that are represented by tokens. Arguments are those of `Generator`."""

    left_sd: Tensor

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        code: Code,
        order: Order,
        given: Sequence[Given] | None,
        target: str,
        seed: int,
        *,
        moves: Sequence[Sequence[int]] = (),
    ) -> None:
        self.conditions = Conditions([Frame(0)] if given is None else given)
        super().__init__(prior, observables, target, self.conditions.fields, seed, moves)
        self.start, self.seed = self.conditions.start, seed
        self.conditions.check_names(self.observables, target)
        self.known, self.unknown = self.conditions.known, self.frames - self.conditions.known
        self.turns, (self.block, self.context) = order.turns, order.sizes(self.unknown)
        if not self.unknown:
            raise ValueError(
                f"{target!r} has one frame, which is the one that is given: if the given one comes before, Frame(-1)"
            )
        if self.start is None and self.block < self.unknown:
            raise ValueError(f"{target!r} is to be drawn frame by frame, and there is none to go on from: give a Frame")
        if code.learned_of and (code.learned_of != target or self.conditions.stay):
            raise ValueError(f"the code was learned of frames of {code.learned_of!r}, and is to code others, too")
        self.code = code.build(self.channels, self.space)
        if moves and not self.code.on_grid:
            raise ValueError("moves are steps on a grid, and fields of stations have none: leave moves out")
        if self.conditions.sensors is not None and (self.block < self.unknown or not self.code.counts):
            raise ValueError("sensors need pieces of all frames at once: use Patches() and AtOnce()")
        self.stays = code.build(self.channels_stay, self.space) if self.conditions.stay else None
        stays = self.stays.width if self.stays is not None else 0
        nested = isinstance(order.turns, Scales)
        self.plain, self.first = (Innovations(self.code, n, nested=nested) for n in (0, stays))
        self.units = Innovations(self.code, self.code.width + stays, follows=True, nested=nested)
        self.chain = FrameChain(self.first, self.units)
        self.reader = self.conditions.reader(prior, seed=seed)
        if self.conditions.sensors is not None:
            self.register_buffer("left_sd", torch.ones(self.unknown, self.channels, *[1] * len(self.space)))

    @property
    def by_frame(self) -> bool:
        """Whether each frame is one token with a place in time; this is so for fields without space."""
        return self.block > 1 and not self.space and len(self.code.places) == 1

    @property
    def channels_stay(self) -> int:
        """Number of channels of the given fields that stay constant."""
        return self.channels_given - (self.channels if self.start is not None else 0)

    def check_times(self, times: Sequence[float]) -> None:
        """Refuse times of frames that do not suit this generator.

        Raises:
            ValueError: If blocks follow each other and frames are not evenly spaced. Also if the index of the given
                `Frame` contradicts whether the first frame is at time 0.
        """
        if self.start is not None and (self.start.index == 0) != (times[0] == 0):
            right = -1 if self.start.index == 0 else 0
            raise ValueError(f"the first frame is at {times[0]:g}: give the generator Frame({right})")
        if self.block < self.unknown:
            spacing(times if times[0] == 0 else (0.0, *times))

    def look(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Learn the units of tokens (the innovations) from the training rows.

        Raises:
            ValueError: If the given `Frame` is said to be the first frame of the target, and differs from it.
        """

        def frames() -> Iterator[Tensor]:
            return (self._scaled(self._frames(batch)).flatten(0, 1) for batch in self._some(batches))

        self.code.look(frames, self.level())
        if self.stays is not None:
            self.stays.look(lambda: (self._fixed(batch.x) for batch in self._some(batches)))
        if self.reader is not None:
            self.reader.learn()
        draw = torch.Generator().manual_seed(self.seed)
        for batch in self._some(batches):
            self._check_first(batch)
            tokens = self.code.encode(self._scaled(self._frames(batch)))
            fixed = self._fixed_tokens(self.conditions.shown(batch.x, batch.x[self.target], draw))
            self.plain.see(tokens.flatten(0, 1))
            self.first.see(tokens[:, 0], fixed)
            for before, after in itertools.pairwise(tokens.unbind(1)):
                self.units.see(after, beside(before, fixed))
        for units in (self.plain, self.first, self.units)[: 2 + (self.frames > 1 or self.start is not None)]:
            units.settle()
        if self.conditions.sensors is not None:
            left = FieldMoments()
            for batch in self._some(batches):
                off, _ = self._beyond(batch.x[self.target].to(self.target_mean), *self._known_tokens(batch.x))
                left.add(off, (0, *range(3, 3 + len(self.space))))
            left.into(torch.empty_like(self.left_sd), self.left_sd)

    def _check_first(self, batch: Batch) -> None:
        if self.start is None or not self.known:
            return
        sd, first = self.level()[1], batch.x[self.target][:, 0].to(self.target_mean)
        off = float(((first - batch.x[self.start.name].to(first)) / sd).abs().max())
        if off > _SAME:
            raise ValueError(
                f"the first frame of {self.target!r} is not {self.start.name!r}, the given frame (they are {off:.2g} "
                "sds apart): give Frame(-1), for a frame before the first"
            )

    def _known_tokens(self, x: X) -> tuple[Tensor | None, Tensor | None]:
        """Tokens of the given frame, and tokens of the fields that stay constant."""
        begun = self._begun(x)
        return (begun[0] if begun else None), self._fixed_tokens(x)

    def _beyond(
        self, frames: Tensor, start: Tensor | None, fixed: Tensor | None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Unknown frames minus the frames of zero innovations; and the function from innovations to frames."""

        def fields(z: Tensor) -> Tensor:
            return self._decoded(self.chain.continued(start, z.unbind(1), fixed))

        places = frames.new_zeros(len(frames), self.block, len(self.code.places), self.code.width)
        return frames[:, self.known :] - fields(places), fields

    def _some(self, batches: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
        """A pass over the rows in smaller batches, because several copies of each batch are made."""
        most = max(1, _NUMBERS // math.prod(self.observables[self.target].shape))
        for batch in batches():
            for k in range(0, len(batch), most):
                yield batch.rows(slice(k, k + most))

    def _frames(self, batch: Batch) -> Float[Tensor, "batch frame channel *space"]:
        """All frames of each row in order; a given frame before the first comes in front."""
        frames = batch.x[self.target].to(self.target_mean)
        if self.start is not None and self.start.index == -1:
            frames = torch.cat([batch.x[self.start.name].to(frames)[:, None], frames], 1)
        return frames

    def _scaled(self, frames: Tensor) -> Tensor:
        mean, sd = self.level()
        return (frames - mean) / sd

    def _fixed(self, x: X) -> Float[Tensor, "batch channel *space"]:
        """The fields that stay constant, standardised."""
        skipped = self.channels if self.start is not None else 0
        fields = self.stacked(x).to(self.given_mean)
        return ((fields - self.given_mean) / self.given_sd)[:, skipped:]

    def _fixed_tokens(self, x: X) -> Tensor | None:
        return None if self.stays is None else self.stays.encode(self._fixed(x))

    def _given(self, before: Sequence[Tensor], fixed: Tensor | None, seen: Tensor) -> Tensor:
        """Conditioning values at the places of tokens: frames before, constant fields and sensor readings."""
        parts = [part for one in before for part in (one, self.plain(one))] if self.start is not None else []
        parts += [] if fixed is None else [fixed]
        found = torch.cat([seen[:, : len(self.code.places), :0], *parts], -1)
        return torch.cat([found.expand(-1, self.block, -1) if self.by_frame else found, seen], -1)

    def _seen(
        self, x: X, start: Tensor | None, fixed: Tensor | None, rows: int
    ) -> tuple[Float[Tensor, "batch token number"], Tensor]:
        """Sensor readings at the places of tokens, and the linear estimate of the innovations z from these readings.

        The sensors' part has their readings minus the linear model's prediction, the mask, and the estimate of z.
        Without sensors, this part is empty and the estimate is 0.
        """
        if self.conditions.sensors is None:
            places = self.block if self.by_frame else len(self.code.places)
            return self.target_mean.new_zeros(rows, places, 0), self.target_mean.new_zeros(())
        shape = (rows, self.frames, self.channels, *self.space)
        values, mask = self.conditions.sensors.seen(x, self.known, self.target_mean.new_zeros(shape))
        off, fields = self._beyond(values, start, fixed)
        mask = mask[:, self.known :].to(off)
        off = off * mask
        noise = self.conditions.sensors.sd**2 + _LINEAR * self.left_sd.square()
        like = off.new_zeros(rows, self.block, len(self.code.places), self.code.width)
        z = guessed(fields, off, mask / noise, like).unbind(1)
        pieces = (self.code.encode(one).unbind(1) for one in (off / self.left_sd, mask))
        told = [self._together(one) for one in (*pieces, z)]
        return torch.cat(told, -1), told[-1]

    def said(self, captions: Sequence[str]) -> Tensor:
        """Captions as tokens for `given["words"]`, (batch, token); errors and warnings are those of `Reader.said`."""
        if self.reader is None:
            raise ValueError("this generator knows no words: give it Words(), given=[Frame(0), Words(Grammar())]")
        return self.reader.said(captions)

    @property
    def told(self) -> int:
        """Number of conditioning values that describe a solution as a whole."""
        return len(self.prior.names) + (self.conditions.sensors is not None)

    def meant(self, theta: Tensor, given: X, *, generator: torch.Generator) -> tuple[Tensor, X]:
        """Parameters, drawn from the prior within captions if there are captions; and the other conditioning values.

        Raises:
            ValueError: If captions are no tokens of this generator, or not as many as rows. Also if there are no
                captions and a parameter is not finite.
        """
        if self.reader is None:
            return theta, given
        if WORDS not in given:
            fine = zip(self.prior.names, theta.isfinite().all(0), strict=True)
            if bad := [name for name, known in fine if not known]:
                raise ValueError(f"{bad} are not finite, and there are no captions to draw them from: give captions")
            return theta, given
        at = torch.rand(theta.shape, generator=generator, device=generator.device, dtype=torch.float64).cpu()
        rest = {name: value for name, value in given.items() if name != WORDS}
        return self.reader.drawn(given[WORDS], at), rest

    def _check_no_words(self, given: X) -> None:
        """Refuse captions where parameters are needed."""
        if WORDS in given:
            raise ValueError(
                "captions leave parameters open, and this function needs parameters: draw parameters by "
                "generator.reader.captions.drawn(caption, n, generator=...), and call it for each"
            )

    def _whole(self, told: Tensor, x: X) -> Float[Tensor, "batch number"]:
        """Conditioning values of a solution as a whole: parameters, and the share of points that sensors observe."""
        if self.conditions.sensors is None:
            return told
        share = self.conditions.sensors.share(x, self.known, told.new_zeros(len(told), 1))
        return torch.cat([told, share], 1)

    def _together(self, frames: Sequence[Tensor]) -> Tensor:
        """Tokens of a block from its frames: joined at each place, or one token for each frame."""
        return torch.cat(list(frames), 1 if self.by_frame else -1)

    def _apart(self, tokens: Tensor) -> Sequence[Tensor]:
        """Frames of a block, from its tokens."""
        return tokens.chunk(self.block, 1 if self.by_frame else -1)

    def _begun(self, given: X) -> list[Tensor]:
        """Tokens of the given frame, in a list; an empty list if no frame is given."""
        if self.start is None:
            return []
        return [self.code.encode(self._scaled(given[self.start.name].to(self.target_mean)))]

    def _decoded(self, tokens: Sequence[Tensor]) -> Float[Tensor, "batch frame channel *space"]:
        mean, sd = self.level()
        return mean + sd * self.code.decode(torch.stack(list(tokens), 1))
