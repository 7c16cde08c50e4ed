"""What a generated field is given beside its parameters."""

from __future__ import annotations

from abc import ABC

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
