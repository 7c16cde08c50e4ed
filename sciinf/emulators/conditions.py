"""Conditioning values of a generated field, beside its parameters."""

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


_OFF = 0.1  # Accepted squared error of draws at sensors beside noise, as a share of a frame's variance.
_FEW = 32  # With fewer rows, statistics of half of them would say nothing.


class Given(Component, ABC):
    """A condition of a `Generator`.

    Attributes:
        name: Name of the observable that holds the condition.
    """

    name: str


class Frame(Given):
    """A known frame of the target, which the other frames follow.

    Args:
        index: 0 if it is the target's first frame (`times[0]` is 0), -1 if it is the frame before the first.
        name: Name of the observable that holds the frame, (channel, *space), with the target's channels.

    Raises:
        ValueError: If the index is another.
    """

    def __init__(self, index: int = 0, name: str = "initial") -> None:
        if index not in (0, -1):
            raise ValueError(f"Frame({index}): the given frame is the first, 0, or the one before it, -1")
        self.index, self.name = index, name


class Members(Given):
    """Members of an ensemble, (member, *space): constant fields without an order.

    Training shows them in a new random order each time, so that the generator does not learn which is which.

    Args:
        name: Name of the observable.
    """

    def __init__(self, name: str) -> None:
        self.name = name


class Field(Given):
    """A field that is constant in time: a coefficient, a forcing, a boundary.

    Args:
        name: Name of the observable, (channel, *space).
    """

    def __init__(self, name: str) -> None:
        self.name = name


class SensorReadings(Given):
    """Readings of sensors: known values of the target's frames, at any points and times.

    Training shows the values of each solution at random points, from none to `most`. So the generator learns the
    distribution of solutions given any of them. In use, the readings are an observable of this name with the target's
    layout. Its mask has the name and "_mask", and is True where a value is known. If the observable is left out,
    nothing is known.

    Args:
        most: Largest number of points that training shows, of all frames.
        sd: Sd of the Gaussian noise of the readings, in the target's units.
        name: Name of the observable.

    Raises:
        ValueError: If most is no int of at least 1, or sd no number from 0 on.
    """

    def __init__(self, most: int = 64, *, sd: float = 0.0, name: str = "sensors") -> None:
        check_whole("most", most, 1)
        if not isinstance(sd, int | float) or not 0 <= sd < math.inf:
            raise ValueError(f"the noise sd of sensors is one number of at least 0, got {sd!r}")
        self.most, self.sd, self.name = most, sd, name

    def shown(
        self, frames: Float[Tensor, "batch frame channel *space"], known: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Readings and mask of sensors at random points, in frames that are not known anyway."""
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
        """Readings and mask from the conditioning values; all zero if there are none.

        Frames that are known anyway have no readings.

        Raises:
            ValueError: If their shape is another, one of the two is missing, a reading is not finite, or there are more
                readings than in training.
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
            raise ValueError(f"{self.names[1]!r} is a mask, True or False (1 or 0), and has other numbers")
        mask = mask.bool()
        mask[:, :known] = False
        if not bool(value[mask].isfinite().all()):
            raise ValueError(f"{self.name!r} has values that are not finite where its mask is True")
        if (most := int(mask.flatten(1).sum(1).max())) > self.most:
            raise ValueError(
                f"sensors see {most} points, and training has shown {self.most} at most: leave some out, or train with "
                f"SensorReadings({most})"
            )
        return torch.where(mask, value, torch.zeros_like(value)), mask

    @property
    def names(self) -> tuple[str, str]:
        """Names of the readings and of their mask."""
        return self.name, f"{self.name}_mask"

    def share(self, x: X, known: int, like: Float[Tensor, "batch one"]) -> Float[Tensor, "batch one"]:
        """Number of points that sensors observe, divided by the most that training shows.

        Frames that are known anyway do not count.
        """
        mask = x.get(self.names[1])
        if mask is None:
            return torch.zeros_like(like)
        return mask[:, known:].flatten(1).sum(1, keepdim=True).to(like) / self.most


class ParameterReader(nn.Module, ABC):
    """A reader of texts that are given in place of parameters, as ints (batch, token)."""

    @abstractmethod
    def said(self, texts: Sequence[str]) -> Int[Tensor, "batch token"]:
        """Texts as tokens."""

    @abstractmethod
    def heard(self, ids: Int[Tensor, "batch token"]) -> Sequence[Any]:
        """Statements about the parameters, one for each row of tokens, as inputs of `within`."""

    @abstractmethod
    def within(self, said: Any, at: Float[Tensor, "draw theta"]) -> Float[Tensor, "draw theta"]:
        """Parameters from the prior within one row's statement, as a function of uniform numbers from 0 to 1."""

    @abstractmethod
    def drawn(self, ids: object, at: Float[Tensor, "batch theta"]) -> Float[Tensor, "batch theta"]:
        """Parameters from the prior within the statements of many rows of tokens, after a check of the tokens."""

    @abstractmethod
    def learn(self) -> None:
        """Learn to understand texts, from parameters of the prior."""

    @abstractmethod
    def say_how_it_reads(self) -> dict[str, float]:
        """Figures of how well the reader understands texts; warns where it understands too little."""


class InPlaceOfParameters(Given, ABC):
    """A condition that may be given in place of parameters, such as captions.

    Draws then have parameters from the prior within the statement of the condition.
    """

    name = WORDS

    @abstractmethod
    def reader(self, prior: Prior, *, seed: int) -> ParameterReader:
        """A new reader of such conditions."""


class Conditions:
    """The conditions of a generator, sorted by kind.

    Args:
        given: The conditions.

    Attributes:
        start: The given frame, if there is one.
        known: How many of the target's frames are known: 0 or 1.
        stay: Names of constant fields, members of ensembles among them.
        sensors: Readings of sensors, if there are any.
        words: Captions, if there are any.
        fields: Names of all fields, the frame's first.

    Raises:
        TypeError: If one is no condition.
        ValueError: If there is more than one frame, more than one set of sensors, or captions of more than one grammar.
    """

    def __init__(self, given: Sequence[Given]) -> None:
        for one in given:
            if not isinstance(one, Frame | Field | Members | SensorReadings | InPlaceOfParameters):
                raise TypeError(f"a Generator is given a Frame, Field, Members, Sensors or Words, and got {one!r}")
        starts = [one for one in given if isinstance(one, Frame)]
        sensors = [one for one in given if isinstance(one, SensorReadings)]
        if len(starts) > 1:
            raise ValueError(f"a Generator starts from one frame, and {len(starts)} were given")
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
        """Register the simulator's names, and refuse conditions that do not match them.

        Raises:
            ValueError: If the given frame has other channels than the target. Also if sensors or captions have the name
                of another observable.
        """
        if taken := [name for name in self._own if name in observables or self._own.count(name) > 1]:
            raise ValueError(
                f"{taken} would mean two things: give SensorReadings another name=, or rename the observable"
            )
        self._known_names = [*observables, *self._own]
        self._shapes = {name: tuple(observables[name].shape) for name in self.fields}
        if self.start is None:
            return
        found, sought = observables[self.start.name].shape[0], observables[target].shape[1]
        if found != sought:
            raise ValueError(f"{self.start.name!r} has {found} channels, {target!r} {sought}")

    def rows(self, x: X, some: slice) -> X:
        """Conditioning values of some rows, after a check of names and layouts.

        Raises:
            ValueError: If a name is neither an observable nor a condition of this generator, or a field is missing or
                of another layout.
        """
        for name in self.fields:
            if name not in x:
                raise ValueError(f"{name!r} is missing: the generator needs the fields {', '.join(self.fields)}")
            if (shape := self._shapes.get(name)) and tuple(x[name].shape[1:]) != shape:
                raise ValueError(
                    f"{name!r} has shape {tuple(x[name].shape)}: (batch, {', '.join(map(str, shape))}) is needed"
                )
        if unknown := [name for name in x if name not in self._known_names]:
            raise ValueError(
                f"{unknown} is given, which this generator does not know; it knows {', '.join(self._known_names)}. "
                "Sensors and captions have to be learned: Generator(..., given=[Frame(0), SensorReadings()])"
            )
        return {name: x[name][some] for name in (*self.fields, *(one for one in self._own if one in x))}

    def reader(self, prior: Prior, *, seed: int) -> ParameterReader | None:
        """A new reader of captions; None if there are no captions."""
        return None if self.words is None else self.words.reader(prior, seed=seed)

    def shown(self, x: X, frames: Tensor, generator: torch.Generator) -> X:
        """Conditioning values as training sees them.

        Members of ensembles are in a random order for each row, and sensors are at random points of the frames.
        """
        found = dict(x)
        for name in self._members:
            value = found[name]
            order = torch.rand(value.shape[:2], generator=generator, device=generator.device).argsort(1)
            order = order.to(value.device).reshape(*value.shape[:2], *[1] * (value.ndim - 2))
            found[name] = value.gather(1, order.expand_as(value))
        return found if self.sensors is None else found | self.sensors.shown(frames, self.known, generator)

    def halves(self, x: X, rows: int) -> list[Int[Tensor, " row"]]:
        """Groups of rows that are checked together: rows in which sensors observe few points, and rows with many.

        Without sensors, or with few rows, there is one group of all rows.
        """
        if self.sensors is None or rows < _FEW:
            return [torch.arange(rows)]
        return list(self.sensors.share(x, self.known, torch.zeros(rows, 1))[:, 0].argsort(stable=True).chunk(2))

    def say_what_is_not_held(
        self, x: X, drawn: Float[Tensor, "draw batch frame channel *space"], sd: Float[Tensor, "frame channel ..."]
    ) -> None:
        """Warn if draws differ from the readings of sensors.

        Args:
            x: Conditioning values of the draws.
            drawn: Draws given these values.
            sd: Sd of frames.

        Warns:
            UserWarning: If the difference is larger than noise and a tenth of the variance explain.
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
