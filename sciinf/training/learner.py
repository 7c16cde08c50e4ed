r"""Learners: one estimator to be trained, or K estimators of the same construction side by side.

All trainable weights lie in one matrix w, (K, P), one row per estimator, and their gradients in another. So a norm,
a step of the optimiser, an average or a copy is one operation, however many tensors the network has. For a single
estimator (K = 1) the parameters are views into w. For several, the loss is one function of (row of w, batch), mapped
over rows:

    L_k = mean_i loss(w_k; theta_ki, x_ki),   dL/dw = sum_k dL_k/dw has row k = dL_k/dw_k,

so the members do not influence each other.

References:
    | functorch: composable function transforms in PyTorch, model ensembling,
      https://docs.pytorch.org/tutorials/intermediate/ensembling.html
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core import Batch, Learned
from sciinf.training.muon import Span, spans
from sciinf.training.source import Source


def stream(seed: int, number: int, device: str) -> torch.Generator:
    """Random generator for each (seed, number). The number is a counter, not a random draw."""
    return torch.Generator(device).manual_seed(stream_seed(seed, number))


def stream_seed(seed: int, number: int, process: int = 0) -> int:
    """Seed of `stream`, in 0..2**63 - 1. Process 0 has the same seed as a training by one process."""
    said = f"{seed}/{number}/{process}" if process else f"{seed}/{number}"
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "big") >> 1


class Learner(ABC):
    """K estimators (members) with their trainable weights in one matrix.

    `weights` is (K, P), with its gradients in `weights.grad`. `matrices` gives the places of its matrices. `buffers`
    maps names to tensors (K, ...) that are not trained by descent: standardisation, running statistics, frozen
    parameters.
    """

    members: int
    weights: nn.Parameter
    matrices: list[Span]

    @property
    def slopes(self) -> Float[Tensor, "member weight"]:
        """Gradients of the weights, in a tensor whose place in memory does not change.

        Raises:
            RuntimeError: If a loss has set the gradients to None.
        """
        if self.weights.grad is None:
            raise RuntimeError("the slopes of the weights are gone; a loss must not set them to None")
        return self.weights.grad

    @abstractmethod
    def epoch(self, source: Source, number: int, size: int, seeds: Sequence[int]) -> Generator[Batch, None, None]:
        """Training batches of one epoch, shuffled for each member.

        A batch has the shape (size, ...) for one member and (K, size, ...) for several.
        """

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "member batch"]:
        """Loss per member and row; a batch without an axis of members is shared by all of them."""

    @abstractmethod
    def buffers(self) -> Mapping[str, Tensor]:
        """The buffers, each with a leading axis of members, for reading only."""

    @abstractmethod
    def set_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """Restore the buffers that `buffers` gave."""

    @abstractmethod
    def mode(self, *, training: bool) -> None:
        """Set the estimators to training or evaluation mode."""

    @abstractmethod
    def release(self, member: int) -> Learned:
        """The estimator of one member, with its current weights in its own tensors."""


class Single(Learner):
    """One estimator, whose parameters become views into the matrix of weights.

    Args:
        estimator: Estimator to train, on its device. It is changed.

    Raises:
        ValueError: If the estimator has nothing to train.
        TypeError: If its trainable parameters differ in dtype.
    """

    def __init__(self, estimator: Learned) -> None:
        self.estimator, self.members = estimator, 1
        named = _trainable(estimator)
        self.weights = _matrix([list(named.values())])
        self.matrices = spans(value.shape for value in named.values())
        views = zip(named.values(), _parts(self.weights.data, named), _parts(_slopes(self.weights), named), strict=True)
        for parameter, value, slope in views:
            parameter.data, parameter.grad = value[0], slope[0]

    def epoch(self, source: Source, number: int, size: int, seeds: Sequence[int]) -> Generator[Batch, None, None]:
        yield from source.epoch(number, size, stream(seeds[0], 2 * number, "cpu"))

    def loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "member batch"]:
        return self.estimator.loss(batch, generator=generator)[None]

    def buffers(self) -> Mapping[str, Tensor]:
        return {name: value[None] for name, value in _fixed(self.estimator).items()}

    def set_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        for name, value in _fixed(self.estimator).items():
            value.copy_(buffers[name][0])

    def mode(self, *, training: bool) -> None:
        self.estimator.train(training)

    def release(self, member: int) -> Learned:
        for parameter in self.estimator.parameters():
            parameter.data, parameter.grad = parameter.data.clone(), None
        return self.estimator


class Stacked(Learner):
    """Several estimators of the same construction, which differ only in weights and buffers.

    Args:
        estimators: At least one estimator, all on one device.

    Raises:
        ValueError: If their parameters or buffers differ in name or shape.
        TypeError: If their trainable parameters differ in dtype.
    """

    def __init__(self, estimators: Sequence[Learned]) -> None:
        self.estimators, self.members = list(estimators), len(estimators)
        check_alike([_shapes(estimator) for estimator in self.estimators])
        self._named = _trainable(self.estimators[0])
        self.weights = _matrix([list(_trainable(e).values()) for e in self.estimators])
        self.matrices = spans(value.shape for value in self._named.values())
        _slopes(self.weights)
        self._sizes = [value.numel() for value in self._named.values()]
        stacked = {name: torch.stack([_fixed(e)[name] for e in self.estimators]) for name in _fixed(self.estimators[0])}
        self._own = {name: value for name, value in stacked.items() if bool((value != value[:1]).any())}
        self._shared = {name: value[0].clone() for name, value in stacked.items() if name not in self._own}
        self._call = _Call(self.estimators[0])

    def epoch(self, source: Source, number: int, size: int, seeds: Sequence[int]) -> Generator[Batch, None, None]:
        epochs = [source.epoch(number, size, stream(seed, 2 * number, "cpu")) for seed in seeds]
        for batches in zip(*epochs, strict=True):
            x = {name: torch.stack([batch.x[name] for batch in batches]) for name in batches[0].x}
            yield Batch(torch.stack([batch.theta for batch in batches]), x)

    def loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "member batch"]:
        axis = 0 if batch.theta.ndim == 3 else None

        def one(weights: Tensor, own: dict[str, Tensor], theta: Tensor, x: dict[str, Tensor]) -> Tensor:
            values = {
                f"estimator.{name}": part.view(like.shape)
                for (name, like), part in zip(self._named.items(), weights.split(self._sizes), strict=True)
            }
            values |= {f"estimator.{name}": value for name, value in (own | self._shared).items()}
            return torch.func.functional_call(self._call, values, (Batch(theta, x), generator))

        mapped = torch.func.vmap(one, in_dims=(0, 0, axis, axis), randomness="different")
        return mapped(self.weights, self._own, batch.theta, dict(batch.x))

    def buffers(self) -> Mapping[str, Tensor]:
        shared = {name: value.expand(self.members, *value.shape) for name, value in self._shared.items()}
        return {**self._own, **shared}

    def set_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        for name, value in self._own.items():
            value.copy_(buffers[name])
        for name, value in self._shared.items():
            value.copy_(buffers[name][0])

    def mode(self, *, training: bool) -> None:
        self.estimators[0].train(training)

    def release(self, member: int) -> Learned:
        estimator = self.estimators[member]
        named, buffers = _trainable(estimator), self.buffers()
        with torch.no_grad():
            for parameter, value in zip(named.values(), _parts(self.weights.data, named), strict=True):
                parameter.copy_(value[member])
            for name, value in _fixed(estimator).items():
                value.copy_(buffers[name][member])
        return estimator


class _Call(nn.Module):
    """Module whose call is an estimator's loss, because torch asks for a module."""

    def __init__(self, estimator: Learned) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        return self.estimator.loss(batch, generator=generator)


def _trainable(estimator: Learned) -> dict[str, nn.Parameter]:
    return {name: value for name, value in estimator.named_parameters() if value.requires_grad}


def _fixed(estimator: Learned) -> dict[str, Tensor]:
    """Buffers of an estimator, and its parameters that are not trained."""
    frozen = {name: value.detach() for name, value in estimator.named_parameters() if not value.requires_grad}
    return {**dict(estimator.named_buffers()), **frozen}


def _matrix(rows: Sequence[Sequence[nn.Parameter]]) -> nn.Parameter:
    """Parameter (K, P) whose rows are the given tensors, laid end to end."""
    if not rows[0]:
        raise ValueError("the estimator has no parameter that requires a gradient, so there is nothing to train")
    if len(dtypes := {value.dtype for row in rows for value in row}) > 1:
        raise TypeError(f"the estimator's trainable parameters have dtypes {sorted(map(str, dtypes))}; expected one")
    return nn.Parameter(torch.stack([torch.cat([value.detach().reshape(-1) for value in row]) for row in rows]))


def _slopes(weights: nn.Parameter) -> Tensor:
    slopes = torch.zeros_like(weights.data)
    weights.grad = slopes
    return slopes


def _parts(matrix: Tensor, named: Mapping[str, Tensor]) -> list[Tensor]:
    """Views (K, *shape) of the matrix (K, P), one per tensor."""
    parts = matrix.split([value.numel() for value in named.values()], dim=1)
    return [part.view(len(matrix), *value.shape) for part, value in zip(parts, named.values(), strict=True)]


def check_alike(members: Sequence[Mapping[str, Any]]) -> None:
    """Refuse an ensemble whose members have different descriptions.

    Args:
        members: Description of each member, by name; at least one member.

    Raises:
        ValueError: If a member differs from the first; the message names the entries.
    """
    first, *rest = members
    for index, other in enumerate(rest, 1):
        if other != first:
            names = sorted(name for name in {*first, *other} if first.get(name) != other.get(name))
            raise ValueError(
                f"members 0 and {index} of the ensemble differ in {names}; build them by the same call but for the seed"
            )


def _shapes(estimator: Learned) -> dict[str, Any]:
    """Shape and dtype of every parameter and buffer of an estimator."""
    named = [*estimator.named_parameters(), *estimator.named_buffers()]
    return {name: (tuple(value.shape), value.dtype) for name, value in named}
