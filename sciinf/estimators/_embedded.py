"""Estimators of theta given x that read x through summary networks, one for each observable, trained with the rest.

A density is one of z given features s(x) (`_standardised`). Shapes: s(x) (batch, F).
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core import Batch, Observable, Prior, X
from sciinf.core.mixed_bijection import MixedBijection
from sciinf.core.unknown_law import check_known
from sciinf.estimators._regressed import Regressed
from sciinf.estimators._standardised import Standardised, check_part
from sciinf.summaries.choice import choose, passes
from sciinf.summaries.summary import Summary, expand_mask
from sciinf.summaries.timed import (
    TIMES,
    beside_controls,
    beside_times,
    controls_beside,
    mask_beside_controls,
    mask_beside_times,
    timed_names,
    times_of,
    with_times,
)


class Embedded(Standardised, ABC):
    """An estimator with standardisation and summary networks.

    Args:
        prior: The prior.
        observables: What the simulator produces.
        summary: One summary network for every observable, or one per name; chosen from the observables'
            specification where left out.
        seed: Seeds the initial weights; a subclass builds its own under `global_seed` of what `weights` gives.

    Raises:
        TypeError: If `summary` is something else: the class or the name of one, say.
        ValueError: If a summary is for no observable, the seed is no int of at least 0, or nobody knows the law of a
            parameter.
    """

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        summary: Summary | Mapping[str, Summary] | None,
        seed: int,
    ) -> None:
        check_known(prior)  # before hours of training
        super().__init__(prior, observables, seed)
        self.data_names, self.timed = data_names(self.observables), timed_names(self.observables)
        self.controlled = controls_beside(self.observables)
        self._given = summary if isinstance(summary, Mapping) else dict.fromkeys(self.data_names, summary)
        for name, value in self._given.items():
            check_part(f"summary of {name!r}", value, Summary, "MLP()")
        if set(self._given) - set(self.data_names):
            raise ValueError(f"summaries for {sorted(self._given)}, but the observables are {list(self.data_names)}")

    def build_summaries(self, *, regressed: bool = False) -> int:
        """Build the summary networks, drawing their first weights from torch's global state; F, what they give.

        Args:
            regressed: Whether least squares and plain statistics stand beside the networks that were chosen here. A
                network that was given stands alone, and so does one that passes its numbers on as they are, or that
                sees controls.
        """
        networks = []
        for name in self.data_names:
            spec, masked = self._seen(name), self._masked(name)
            networks.append((self._given.get(name) or choose(spec, masked)).build(spec, masked=masked))
        self.summaries = nn.ModuleList(networks)
        plain = {
            name: self._seen(name)
            for name in self.data_names
            if regressed
            and not self._given.get(name)
            and not passes(self._seen(name), self._masked(name))
            # statistics of single times say little where each record has doses at others, and a line leads far astray
            and name not in self.controlled
        }
        masked = frozenset(name for name in plain if self._masked(name))
        self.regressed = Regressed(plain, masked, self._targets()) if plain else None
        return sum(network.features for network in networks) + (self.regressed.features if self.regressed else 0)

    def standardise_all(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Set the standardisation of both sides, and what least squares tell."""
        self.standardise_both(batches)
        if self.regressed is None:
            return

        most = self.regressed.rows

        def rows() -> Iterator[tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]]:
            device, left = self.z_mean.device, most
            for batch in batches():
                some = batch.rows(slice(0, left))
                x = {name: value.to(device) for name, value in some.x.items()}
                values = self._with_times(self.standardise_x(x, self.z_mean.dtype))
                yield self.targets(some.theta.to(device)), values, self._masks(x)
                left -= len(some)
                if left <= 0:
                    return

        self.regressed.fit(rows)

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.summarise(self.standardise_x(x, self.z_mean.dtype), x)

    def summarise(self, values: Mapping[str, Tensor], x: X) -> Float[Tensor, "batch feature"]:
        """Features of standardised values; x for its masks."""
        values = self._with_times(values)
        parts = [
            network(values[name], self._mask(name, x))
            for name, network in zip(self.data_names, self.summaries, strict=True)
        ]
        parts += [] if self.regressed is None else [self.regressed(values, self._masks(x))]
        return torch.cat(parts, dim=-1)

    def _seen(self, name: str) -> Observable:
        """What the network of an observable sees."""
        spec, timed = self.observables[name], name in self.timed
        controls = [self.observables[control] for control in self.controlled.get(name, ())]
        return with_times(spec, timed=timed, controls=controls) if timed or controls else spec

    def _with_times(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Standardised values, beside their times and controls where they have some."""
        wide = {name: beside_times(values[name], values[f"{name}{TIMES}"]) for name in self.timed}
        for name, controls in self.controlled.items():
            wide[name] = beside_controls(wide.get(name, values[name]), [values[control] for control in controls])
        return {**values, **wide} if wide else values

    def _mask(self, name: str, x: X) -> Tensor | None:
        mask = x.get(f"{name}_mask")
        if mask is not None and name in self.controlled:
            return mask_beside_controls(mask, self.observables[name], self._seen(name).shape[-1])
        return mask if mask is None or name not in self.timed else mask_beside_times(mask, self.observables[name])

    def _targets(self) -> int:
        """How many numbers least squares aim at."""
        bijection = self.prior.bijection
        return bijection.coordinates_size if isinstance(bijection, MixedBijection) else bijection.size

    def _masked(self, name: str) -> bool:
        return f"{name}_mask" in self.observables

    def _masks(self, x: X) -> dict[str, Tensor]:
        """Masks over all entries of their observables."""
        return {
            name: expand_mask(mask, (len(x[name]), *self._seen(name).shape))
            for name in self.data_names
            if self._masked(name) and (mask := self._mask(name, x)) is not None
        }


def data_names(observables: Mapping[str, Observable]) -> tuple[str, ...]:
    """Names of observables that are neither masks of others, nor when or under which controls these were seen."""
    beside = {f"{name}_mask" for name in observables} | set(times_of(observables))
    beside |= {control for controls in controls_beside(observables).values() for control in controls}
    return tuple(name for name in observables if name not in beside)
