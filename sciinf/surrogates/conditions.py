"""What a generated field is given beside its parameters."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence

import torch

from sciinf.core import X
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


def in_any_order(x: X, names: Sequence[str], generator: torch.Generator) -> X:
    """The same with the members of those names in any order, each row's in its own."""
    found = dict(x)
    for name in names:
        value = found[name]
        order = torch.rand(value.shape[:2], generator=generator, device=generator.device).argsort(1)
        order = order.to(value.device).reshape(*value.shape[:2], *[1] * (value.ndim - 2))
        found[name] = value.gather(1, order.expand_as(value))
    return found
