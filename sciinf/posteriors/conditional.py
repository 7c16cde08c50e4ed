"""Questions to a joint model of parameters and data: some of them given some others, the rest integrated out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from sciinf.core import Fit, Observable
from sciinf.core.bijection import Bijection
from sciinf.core.checks import check_whole
from sciinf.core.laws import support
from sciinf.core.observation import as_observation
from sciinf.core.posterior import fresh_generator
from sciinf.networks.summaries.standardise import LIMIT, unsquashed
from sciinf.training.estimators._numbers import flat_with_slopes, unflat
from sciinf.training.estimators.joint import Conditioned, Joint, with_errors

_RELATIVE = 0.5  # largest error that is taken for one of the logarithm
_UNKNOWN = 1e6  # sds of a number; with a larger error, and within `_FAR` such errors, it tells nothing
_FAR = 1e3
_SEEN = 5.0  # sds beyond sqrt(n): normal numbers never lie so far; of heavy-tailed ones up to 2 % do


class Conditional:
    """Any conditional of a joint model.

    Names are those of parameters and observables. What is neither asked for nor given is integrated out, and so is
    each number of a given observable that is NaN: a missing one.

    Args:
        fit: What `train` returned or `load_fit` read, of a `Joint`.

    Raises:
        TypeError: If the fit's estimator is another.

    Examples:
        >>> conditional = Conditional(fit)  # doctest: +SKIP
        >>> conditional.sample(1000, ["rate"], {"x": x_o, "offset": 0.3})["rate"].mean()  # doctest: +SKIP
    """

    def __init__(self, fit: Fit) -> None:
        if not isinstance(fit.estimator, Joint):
            raise TypeError(
                f"{type(fit.estimator).__name__} answers one question only, the posterior given all data; train a Joint"
            )
        self.joint = fit.estimator

    def __repr__(self) -> str:
        return f"conditionals of ({', '.join(self.joint.places)})"

    def sample(
        self,
        n: int,
        asked: Sequence[str],
        given: Mapping[str, Any] | None = None,
        *,
        errors: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Draws of some names, jointly, given values of others.

        Args:
            n: How many.
            asked: Names.
            given: Name -> value: a number for a parameter, and for an observable numbers of its shape, NaN where
                missing; with a unit or in the simulator's own.
            errors: Observable -> sds of errors of its values, of its shape and in its unit; of a `Joint(noisy=0.3)`.
                They are Gaussian, independent, and come on top of the noise that the simulator adds: give what it does
                not know of. On a logarithmic scale they are errors of the logarithm, sd / value.
            generator: Source of randomness; fresh entropy when left out.

        Returns:
            Name -> (n, *event), in the simulator's own units.

        Raises:
            TypeError: If `given` is no mapping.
            ValueError: If a name is unknown or both asked for and given, nothing is asked for, a value has another
                shape, does not convert or lies outside the prior's support, n is below 1, or errors are given that the
                model has learned nothing of, or that are no sds of given data.

        Warns:
            UserWarning: If what is given lies far from the simulations that were learned from.
        """
        check_whole("n", n, 1)
        law = self._law(asked, _named("given", given), _named("errors", errors))
        v = law.draw(n, generator if generator is not None else fresh_generator())[:, 0]
        joint = self.joint
        theta = joint.to_theta(v[:, : len(joint.prior)]).cpu()
        found = {name: theta[:, i] for i, name in enumerate(joint.prior.names)}
        found |= {name: value.cpu() for name, value in unflat(joint.standardise_x, v[:, len(joint.prior) :]).items()}
        return {name: found[name] for name in asked}

    def log_prob(
        self,
        asked: Mapping[str, Any],
        given: Mapping[str, Any] | None = None,
        *,
        errors: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Joint log density of values of some parameters and observables, conditional on values of others.

        Args:
            asked: Name -> one value (*event), or n values (n, *event), whose joint density is asked for.
            given: Values that are conditioned on, as for `sample`.
            errors: Sds of the errors of given data, as for `sample`.

        Returns:
            Log density, (n,), float64, in the simulator's own units. Data that are whole numbers have a log
            probability in place of a log density. The result is -inf outside the prior's support.

        Raises:
            TypeError: If `asked` or `given` is no mapping.
            ValueError: As for `sample`. Also if the names in `asked` have different numbers n of values, or a
                value is NaN.

        Warns:
            UserWarning: As for `sample`.
        """
        joint, prior = self.joint, self.joint.prior
        asked = _named("asked", asked)
        law = self._law(list(asked), _named("given", given), _named("errors", errors))
        values = {name: self._values(name, value, many=True) for name, value in asked.items()}
        if len({len(value) for value in values.values()}) > 1:
            raise ValueError(f"asked for different numbers of values: { {k: len(v) for k, v in values.items()} }")
        rows = len(next(iter(values.values())))
        theta, inside = self._theta({k: v for k, v in values.items() if k in prior.names}, rows)
        y, slopes = self._data({k: v for k, v in values.items() if k in joint.observables}, rows)
        v = torch.cat([joint.to_z(theta.to(joint.z_mean.device)), y], dim=-1)[:, None]
        found = law.log_density(v)[:, 0].double().cpu()
        stretch = torch.cat([-joint.z_sd.double().log().expand(rows, -1), slopes], dim=-1)
        found = found + (stretch * law.asked).sum(-1).cpu() + self._bend(theta, values)
        return torch.where(inside, found, -math.inf)

    def _law(self, asked: Sequence[str], given: Mapping[str, Any], errors: Mapping[str, Any]) -> Conditioned:
        joint, names = self.joint, self.joint.places
        self._check(asked, given)
        device, size = joint.z_mean.device, len(joint.gaussian.mean)
        flags = torch.zeros(2, size, dtype=torch.bool, device=device)
        for name in asked:
            flags[0, names[name]] = True
        values = {name: self._values(name, value, many=False) for name, value in given.items()}
        for name, value in values.items():
            flags[1, names[name]] = ~value.isnan().reshape(-1).to(device)
        theta, inside = self._theta({k: v for k, v in values.items() if k in joint.prior.names}, 1)
        if not bool(inside.all()):
            outside = {k: float(v) for k, v in values.items() if k in joint.prior.names}
            raise ValueError(f"{outside} lies outside the prior's support")
        y, slopes = self._data({k: v for k, v in values.items() if k in joint.observables}, 1)
        v = torch.cat([joint.to_z(theta.to(device)), y], dim=-1)
        sds = self._errors(errors, values, y, slopes).to(device) if errors else None
        if sds is not None:
            flags[1] &= sds.isfinite()
            sds = torch.where(sds.isfinite(), sds, 0.0)
        self._tell_far(v if sds is None else with_errors(v, sds), flags[1], sds)
        return Conditioned(joint, v, flags[0], flags[1], sds)

    def _tell_far(self, v: Tensor, given: Tensor, sds: Tensor | None) -> None:
        """Warn where what is given lies far from the rows of the training."""
        most = math.sqrt(int(given.sum())) + _SEEN
        far = float(self.joint.gaussian.distance(v, given, sds))
        if not far <= most:
            warnings.warn(
                f"what is given lies {far:.3g} sds from the middle of the simulations, all numbers together (up to "
                f"{most:.2g} are expected): the model has learned of few or none like it, and its answer may be far "
                "off; look at the values, their units and errors, and the prior",
                stacklevel=4,
            )

    def _errors(self, errors: Mapping[str, Any], given: Mapping[str, Tensor], y: Tensor, slopes: Tensor) -> Tensor:
        """Sds of errors in sds of the model's numbers, (N,); 0 of what has none, inf of what tells nothing.

        Raises:
            ValueError: If the joint model has learned of none, or one is of nothing that is given, negative, not finite
                or, on a logarithmic scale, above half of the value.
        """
        joint, found = self.joint, torch.zeros(len(self.joint.gaussian.mean), dtype=torch.float64)
        if not joint.noisy:
            raise ValueError(
                f"errors of {sorted(errors)}: this model takes values as they are; train Joint(..., noisy=0.3) "
                "for values with errors"
            )
        if other := sorted(set(errors) - (set(given) & set(joint.observables))):
            there = sorted(set(given) & set(joint.observables))
            raise ValueError(f"errors are of observables that are given, which are {there}, got errors of {other}")
        rise = (slopes[0] + (y[0].double().abs() - LIMIT).clamp_min(0.0)).exp().cpu()  # what squashes is no scale
        rise = torch.cat([torch.zeros(len(joint.prior), dtype=torch.float64), rise])
        for name, value in errors.items():
            sd, place = self._sds(name, value, given[name].reshape(-1).isnan()), joint.places[name]
            relative = float((sd / given[name].double().reshape(-1).abs()).nan_to_num(nan=0.0).max())
            if joint.observables[name].scale == "log" and relative > _RELATIVE:
                raise ValueError(
                    f"errors of {name!r} are up to {relative:.2g} of the value, and at most {_RELATIVE:g} of it on its "
                    "logarithmic scale, where they are sd / value: leave such values out (NaN)"
                )
            sd = sd * rise[place]
            off = unsquashed(y[0, place.start - len(joint.prior) : place.stop - len(joint.prior)].double().cpu()).abs()
            if bool(((sd > _UNKNOWN) & (off > _FAR * sd)).any()):
                raise ValueError(f"{name!r} has values that lie thousands of their errors from all simulations")
            found[place] = torch.where(sd > _UNKNOWN, torch.inf, sd)
        return found.float()

    def _sds(self, name: str, value: Any, missing: Tensor) -> Tensor:
        """Sds of errors of an observable's numbers, float64, in its unit; 0 of those that are missing.

        Raises:
            ValueError: If they have another shape or unit, or one of a number that is there is negative or not finite.
        """
        spec = self.joint.observables[name]
        value, numbers = _numbers(name, value)
        if numbers.shape not in (spec.shape, (1, *spec.shape)):
            raise ValueError(
                f"errors of {name!r} have shape {numbers.shape}, its values {spec.shape}: give a sd for each value, 0 "
                "where it has no error of its own"
            )
        sd = np.where(missing.numpy().reshape(numbers.shape), 0.0, numbers)
        if not (np.isfinite(sd) & (sd >= 0)).all():
            raise ValueError(
                f"errors of {name!r} are sds, finite and at least 0, got {value!r}; leave out what is not known at "
                "all (NaN as its value)"
            )
        if (unit := getattr(value, "unit", None)) is not None:
            sd = sd * unit
        try:
            found = as_observation({name: Observable(spec.shape, spec.unit, dtype="float64")}, {name: sd})[name]
        except ValueError as error:
            raise ValueError(f"errors of {name!r}: {error}") from None
        return found.double().reshape(-1)

    def _check(self, asked: Sequence[str], given: Mapping[str, Any]) -> None:
        names = set(self.joint.places)
        if isinstance(asked, str) or not asked:
            raise ValueError(f"ask for a list of one or more of {sorted(names)}, got {asked!r}")
        if unknown := sorted((set(asked) | set(given)) - names):
            raise ValueError(f"{unknown} are neither parameters nor observables; there are {sorted(names)}")
        if both := sorted(set(asked) & set(given)):
            raise ValueError(f"{both} are asked for and given too")
        for law, part in zip(self.joint.prior.laws, self._columns(), strict=True):
            states = {(name in asked, name in given) for name in part}
            if len(states) > 1 and not _is_free(support(law)):
                raise ValueError(f"{part} share one bounded law: ask for all of them, give all, or leave all out")

    def _columns(self) -> list[tuple[str, ...]]:
        """The parameters of each of the prior's laws."""
        names, found = iter(self.joint.prior.names), []
        for law in self.joint.prior.laws:
            found.append(tuple(next(names) for _ in range(law.event_shape[0] if law.event_shape else 1)))
        return found

    def _values(self, name: str, value: Any, *, many: bool) -> Tensor:
        """(n, *event), or (1, *event) unless many; NaN where missing, which only what is given may be."""
        prior, observables = self.joint.prior, self.joint.observables
        parameter = name in prior.names
        spec = Observable((), prior.units[prior.names.index(name)]) if parameter else observables[name]
        value, numbers = _numbers(name, value)
        missing = np.isnan(numbers)
        if parameter and missing.any():
            raise ValueError(f"the parameter {name!r} is NaN; leave it out of what is given to integrate over it")
        if missing.any() and not many:
            unit = getattr(value, "unit", None)
            value = np.where(missing, 0.0, numbers)
            value = value if unit is None else value * unit
        batched = many and numbers.ndim > len(spec.shape)
        found = as_observation({name: spec}, {name: value}, batched=batched)[name]
        if not missing.any():
            return found
        return torch.where(torch.as_tensor(missing).reshape(-1, *spec.shape), torch.nan, found.double())

    def _theta(self, values: Mapping[str, Tensor], rows: int) -> tuple[Tensor, Tensor]:
        """theta (rows, D), in the middle of the prior where it has no value, and which rows the support holds."""
        prior = self.joint.prior
        centre = prior.bijection.inverse(torch.zeros(rows, len(prior), dtype=torch.float64))
        theta = centre.clone()
        for name, value in values.items():
            theta[:, prior.names.index(name)] = value.double()
        inside = prior.log_prob(theta).isfinite()
        return torch.where(inside[:, None], theta, centre), inside

    def _data(self, values: Mapping[str, Tensor], rows: int) -> tuple[Tensor, Tensor]:
        """y (rows, E) and log |dy / dx| of each, at 1 where there is no value."""
        joint, x = self.joint, {}
        for name, spec in joint.observables.items():
            value = values.get(name, torch.ones(rows, *spec.shape)).nan_to_num(nan=1.0).to(spec.torch_dtype)
            x[name] = (value.double() + 1.0 if spec.dtype == "int64" else value).to(joint.z_mean.device)
        return flat_with_slopes(joint.standardise_x, x)

    def _bend(self, theta: Tensor, values: Mapping[str, Any]) -> Tensor:
        """log |det dz / dtheta| of the parameters asked for."""
        total, start = torch.zeros(len(theta), dtype=torch.float64), 0
        for law, part in zip(self.joint.prior.laws, self._columns(), strict=True):
            if any(name in values for name in part):
                bijection = Bijection((law,), self.joint.prior.dtype)
                total = total + bijection.log_abs_det_jacobian(theta[:, start : start + len(part)])
            start += len(part)
        return total


def _named(what: str, values: object) -> Mapping[str, Any]:
    """The values by their names; none of what is left out."""
    if values is None and what != "asked":
        return {}
    if not isinstance(values, Mapping):
        raise TypeError(f"{what} must name its values, as {{'x': ...}}, got {type(values).__name__}")
    return values


def _numbers(name: str, value: Any) -> tuple[Any, np.ndarray]:
    """The value, on the CPU, and its numbers without their unit; NaN where masked."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
    try:
        return value, np.ma.filled(np.ma.asarray(getattr(value, "value", value), dtype=float), np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name!r} holds no numbers: {value!r}") from error


def _is_free(where: constraints.Constraint) -> bool:
    """Whether each number of a joint law may take any value."""
    if isinstance(where, constraints.independent):
        return where.base_constraint is constraints.real
    return where is constraints.real
