"""What a generated field is given beside its parameters."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence

import torch

from sciinf.core import Observable, X
from sciinf.core.component import Component


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


class Conditions:
    """What a generator is given, sorted.

    Args:
        given: The conditions.

    Attributes:
        start: The frame to go on from, if there is one.
        stay: Names of fields that stay, members of ensembles among them.
        fields: Names of all fields, the frame's first.

    Raises:
        TypeError: If one is no condition.
        ValueError: If there is more than one frame.
    """

    def __init__(self, given: Sequence[Given]) -> None:
        for one in given:
            if not isinstance(one, Frame | Field | Members):
                raise TypeError(f"a Generator is given a Frame, a Field or Members, by name, and got {one!r}")
        starts = [one for one in given if isinstance(one, Frame)]
        if len(starts) > 1:
            raise ValueError(f"a Generator goes on from one frame, and {len(starts)} were given")
        self.start = starts[0] if starts else None
        self.stay = [one.name for one in given if isinstance(one, Field | Members)]
        self.fields = [one.name for one in starts] + self.stay
        self._members = [one.name for one in given if isinstance(one, Members)]

    def check_start(self, observables: Mapping[str, Observable], target: str) -> None:
        """Refuse a frame to go on from that is none of the target's.

        Raises:
            ValueError: If it has other channels.
        """
        if self.start is None:
            return
        found, sought = observables[self.start.name].shape[0], observables[target].shape[1]
        if found != sought:
            raise ValueError(f"{self.start.name!r} has {found} channels, {target!r} {sought}")

    def in_any_order(self, x: X, generator: torch.Generator) -> X:
        """The same with the members of ensembles in any order, each row's in its own."""
        found = dict(x)
        for name in self._members:
            value = found[name]
            order = torch.rand(value.shape[:2], generator=generator, device=generator.device).argsort(1)
            order = order.to(value.device).reshape(*value.shape[:2], *[1] * (value.ndim - 2))
            found[name] = value.gather(1, order.expand_as(value))
        return found
