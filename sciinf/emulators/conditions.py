"""What a generated field is given beside its parameters."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sciinf.core import Observable, Prior, X
from sciinf.core.checks import check_whole
from sciinf.core.component import Component

WORDS = "words"
"""Under which captions are given."""


_OFF = 0.1  # of a frame's variance that draws may be off where sensors see them, beside noise
_FEW = 32  # rows, of which halves would tell nothing


class Given(Component, ABC):
    """A condition of a `Generator`.

    Attributes:
        name: Of the observable that it is.
    """

    name: str


class Frame(Given):
    """A frame of the target that is known, from which the others go on.

    Args:
        index: 0 where it is the target's first frame (`times[0]` is 0), -1 where it is the one before.
        name: Of the observable that holds it, (channel, *space), with the target's channels.

    Raises:
        ValueError: If the index is another.
    """

    def __init__(self, index: int = 0, name: str = "initial") -> None:
        if index not in (0, -1):
            raise ValueError(f"Frame({index}): the frame to go on from is the first, 0, or the one before it, -1")
        self.index, self.name = index, name


class Members(Given):
    """Members of an ensemble, (member, *space): fields that stay, in no order.

    Training shows them in another order each time, so that the law does not learn which is which.

    Args:
        name: Of the observable.
    """

    def __init__(self, name: str) -> None:
        self.name = name


class Field(Given):
    """A field that stays what it is: a coefficient, a forcing, a boundary.

    Args:
        name: Of the observable, (channel, *space).
    """

    def __init__(self, name: str) -> None:
        self.name = name


class SensorReadings(Given):
    """Numbers of the target's frames that are known, at any points and times: what sensors saw.

    Training shows each solution's numbers at some points that are drawn, from none to `most`, so that the law is that
    given any of them. In use they are an observable of the name, of the target's layout, with a mask of the name and
    "_mask" that is True where a number is known; where it is left out, nothing is.

    Args:
        most: Points that are shown, of all frames.
        sd: Of the Gaussian noise of what is seen, in the target's units.
        name: Of the observable.

    Raises:
        ValueError: If most is no int of at least 1, or sd no number from 0 on.
    """

    def __init__(self, most: int = 64, *, sd: float = 0.0, name: str = "sensors") -> None:
        check_whole("most", most, 1)
        if not isinstance(sd, int | float) or not 0 <= sd < math.inf:
            raise ValueError(f"the sd of what sensors see is one number of at least 0, got {sd!r}")
        self.most, self.sd, self.name = most, sd, name

    def shown(
        self, frames: Float[Tensor, "batch frame channel *space"], known: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """What sensors at drawn points see of frames, after the first that are known anyway."""
        flat = frames[:, known:].flatten(1)
        most = min(self.most, flat.shape[1])
        count = torch.randint(most + 1, (len(flat), 1), generator=generator, device=generator.device)
        at = torch.rand(flat.shape, generator=generator, device=generator.device).topk(most, 1).indices.to(flat.device)
        noise = torch.randn(at.shape, generator=generator, device=generator.device).to(flat)
        here = (torch.arange(most, device=count.device) < count).to(flat.device)
        found = torch.where(here, flat.gather(1, at) + self.sd * noise, 0.0)
        mask, seen = torch.zeros_like(frames, dtype=torch.bool), torch.zeros_like(frames)
        mask[:, known:] = torch.zeros_like(flat, dtype=torch.bool).scatter(1, at, here).reshape(mask[:, known:].shape)
        seen[:, known:] = torch.zeros_like(flat).scatter(1, at, found).reshape(seen[:, known:].shape)
        return {self.name: seen, f"{self.name}_mask": mask}

    def seen(self, x: X, known: int, like: Float[Tensor, "batch frame channel *space"]) -> tuple[Tensor, Tensor]:
        """Numbers and mask in what is given, or none; of frames that are known anyway nothing is seen.

        Raises:
            ValueError: If their shape is another, one of both is missing, a number that is seen is not finite, or more
                is seen than training showed.
        """
        if missing := [name for name in self.names if name not in x]:
            if len(missing) < len(self.names):
                raise ValueError(
                    f"{missing} is missing: sensors are given by {self.names}, True where a number is known"
                )
            return torch.zeros_like(like), torch.zeros_like(like, dtype=torch.bool)
        value, mask = (x[name].to(like) for name in self.names)
        for what, one in zip(self.names, (value, mask), strict=True):
            if one.shape != like.shape:
                raise ValueError(f"{what!r} has shape {tuple(one.shape)}, the target's frames {tuple(like.shape)}")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(f"{self.names[1]!r} is True or False (1 or 0) at each point, and has other numbers")
        mask = mask.bool()
        mask[:, :known] = False
        if not bool(value[mask].isfinite().all()):
            raise ValueError(f"{self.name!r} has numbers that are not finite, and are said to be known")
        if (most := int(mask.flatten(1).sum(1).max())) > self.most:
            raise ValueError(
                f"sensors see {most} points, and training has shown {self.most} at most: leave some out, or train with "
                f"Sensors({most})"
            )
        return torch.where(mask, value, torch.zeros_like(value)), mask

    @property
    def names(self) -> tuple[str, str]:
        """Of numbers and of their mask."""
        return self.name, f"{self.name}_mask"

    def share(self, x: X, known: int, like: Float[Tensor, "batch one"]) -> Float[Tensor, "batch one"]:
        """How many points are known, beside frames that are known anyway, over the most that training shows."""
        mask = x.get(self.names[1])
        if mask is None:
            return torch.zeros_like(like)
        return mask[:, known:].flatten(1).sum(1, keepdim=True).to(like) / self.most


class ParameterReader(nn.Module, ABC):
    """Understands what is given in place of parameters: texts, as ints (batch, token)."""

    @abstractmethod
    def said(self, texts: Sequence[str]) -> Int[Tensor, "batch token"]:
        """Texts as tokens."""

    @abstractmethod
    def heard(self, ids: Int[Tensor, "batch token"]) -> Sequence[Any]:
        """What each row of tokens says of the parameters, for `within`."""

    @abstractmethod
    def within(self, said: Any, at: Float[Tensor, "draw theta"]) -> Float[Tensor, "draw theta"]:
        """Parameters from the prior within what one row says, a function of even numbers from 0 to 1."""

    @abstractmethod
    def drawn(self, ids: object, at: Float[Tensor, "batch theta"]) -> Float[Tensor, "batch theta"]:
        """The same, of many rows of tokens, which are checked."""

    @abstractmethod
    def learn(self) -> None:
        """Learn to understand texts, from parameters of the prior."""

    @abstractmethod
    def say_how_it_reads(self) -> dict[str, float]:
        """Figures of how well it understands; it warns where that is too little."""


class InPlaceOfParameters(Given, ABC):
    """What may be given in place of parameters: draws are at parameters from the prior within what it says."""

    name = WORDS

    @abstractmethod
    def reader(self, prior: Prior, *, seed: int) -> ParameterReader:
        """A new reader."""


class Conditions:
    """What a generator is given, sorted.

    Args:
        given: The conditions.

    Attributes:
        start: The frame to go on from, if there is one.
        known: How many of the target's frames that is.
        stay: Names of fields that stay, members of ensembles among them.
        sensors: What sees some points, if there are any.
        words: Captions, if there are any.
        fields: Names of all fields, the frame's first.

    Raises:
        TypeError: If one is no condition.
        ValueError: If there is more than one frame, or set of sensors, or are captions of more than one grammar.
    """

    def __init__(self, given: Sequence[Given]) -> None:
        for one in given:
            if not isinstance(one, Frame | Field | Members | SensorReadings | InPlaceOfParameters):
                raise TypeError(f"a Generator is given a Frame, Field, Members, Sensors or Words, and got {one!r}")
        starts = [one for one in given if isinstance(one, Frame)]
        sensors = [one for one in given if isinstance(one, SensorReadings)]
        if len(starts) > 1:
            raise ValueError(f"a Generator goes on from one frame, and {len(starts)} were given")
        if len(sensors) > 1:
            raise ValueError(f"a Generator has one set of sensors, and {len(sensors)} were given")
        words = [one for one in given if isinstance(one, InPlaceOfParameters)]
        if len(words) > 1:
            raise ValueError(f"a Generator is given Words of one grammar, and {len(words)} were given")
        self.sensors, self.words = sensors[0] if sensors else None, words[0] if words else None
        self.start = starts[0] if starts else None
        self.stay = [one.name for one in given if isinstance(one, Field | Members)]
        self.fields = [one.name for one in starts] + self.stay
        self.known = int(self.start is not None and self.start.index == 0)
        self._members = [one.name for one in given if isinstance(one, Members)]
        self._own = [*([] if self.sensors is None else self.sensors.names), *([] if self.words is None else [WORDS])]
        self._known_names, self._shapes = [*self.fields, *self._own], dict[str, tuple[int, ...]]()

    def check_names(self, observables: Mapping[str, Observable], target: str) -> None:
        """Take the simulator's names, and refuse what does not go with them.

        Raises:
            ValueError: If the frame to go on from has other channels than the target, or sensors or captions are given
                under a name that means something else.
        """
        if taken := [name for name in self._own if name in observables or self._own.count(name) > 1]:
            raise ValueError(f"{taken} would mean two things: give Sensors another name=, or rename the observable")
        self._known_names = [*observables, *self._own]
        self._shapes = {name: tuple(observables[name].shape) for name in self.fields}
        if self.start is None:
            return
        found, sought = observables[self.start.name].shape[0], observables[target].shape[1]
        if found != sought:
            raise ValueError(f"{self.start.name!r} has {found} channels, {target!r} {sought}")

    def rows(self, x: X, some: slice) -> X:
        """What is given, of some rows.

        Raises:
            ValueError: If something is given that is no observable, and no condition of this generator, or a field is
                missing or of another layout.
        """
        for name in self.fields:
            if name not in x:
                raise ValueError(f"{name!r} is missing: the generator goes on from {', '.join(self.fields)}")
            if (shape := self._shapes.get(name)) and tuple(x[name].shape[1:]) != shape:
                raise ValueError(
                    f"{name!r} has shape {tuple(x[name].shape)}: (batch, {', '.join(map(str, shape))}) is needed"
                )
        if unknown := [name for name in x if name not in self._known_names]:
            raise ValueError(
                f"{unknown} is given, which this generator does not know; it knows {', '.join(self._known_names)}. "
                "Sensors and captions have to be learned: Generator(..., given=[Frame(0), Sensors()])"
            )
        return {name: x[name][some] for name in (*self.fields, *(one for one in self._own if one in x))}

    def reader(self, prior: Prior, *, seed: int) -> ParameterReader | None:
        """A new reader of captions, if there are any."""
        return None if self.words is None else self.words.reader(prior, seed=seed)

    def shown(self, x: X, frames: Tensor, generator: torch.Generator) -> X:
        """What training shows: members of ensembles in any order, each row's in its own; frames at some points."""
        found = dict(x)
        for name in self._members:
            value = found[name]
            order = torch.rand(value.shape[:2], generator=generator, device=generator.device).argsort(1)
            order = order.to(value.device).reshape(*value.shape[:2], *[1] * (value.ndim - 2))
            found[name] = value.gather(1, order.expand_as(value))
        return found if self.sensors is None else found | self.sensors.shown(frames, self.known, generator)

    def halves(self, x: X, rows: int) -> list[Int[Tensor, " row"]]:
        """Rows that are judged together: those in which sensors see few points, and many.

        All where there are no sensors, or so few rows that a half of them would tell nothing.
        """
        if self.sensors is None or rows < _FEW:
            return [torch.arange(rows)]
        return list(self.sensors.share(x, self.known, torch.zeros(rows, 1))[:, 0].argsort(stable=True).chunk(2))

    def say_what_is_not_held(
        self, x: X, drawn: Float[Tensor, "draw batch frame channel *space"], sd: Float[Tensor, "frame channel ..."]
    ) -> None:
        """Say how far draws are from what sensors saw.

        Args:
            x: What was shown.
            drawn: Draws given that.
            sd: Of frames.

        Warns:
            UserWarning: If they are further off than noise and a tenth of the variance can make them.
        """
        if self.sensors is None:
            return
        values, mask = self.sensors.seen(x, self.known, drawn[0])
        off = ((drawn - values) / sd)[:, mask].double().square().mean()
        noise = (self.sensors.sd / sd).expand_as(drawn[0])[mask].double().square().mean()
        if float(off) > 2 * float(noise) + _OFF:
            warnings.warn(
                f"where sensors see held-out simulations, draws are {float(off.sqrt()):.2f} sds of a frame off on "
                "average: they do not hold to what was seen. Train longer, or on more solutions",
                stacklevel=4,
            )
