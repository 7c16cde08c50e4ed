"""Priors: named parameters with units, each with a distribution and a bijection to R (`core.bijection`).

Densities are learned in R^D. So no posterior mass leaks outside the prior's support, and no rejection loop
can hang.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch import distributions as td

from sciinf.core.bijection import Bijection, central, log_density, makes_up_a_whole, places_of
from sciinf.core.checks import check_parameter_name, check_unit
from sciinf.core.existence import Each, Existence, Family, Only, columns_of
from sciinf.core.given_laws import law_and_unit
from sciinf.core.joint_laws import Ordered
from sciinf.core.law_arguments import as_torch_checks
from sciinf.core.law_json import law_from_json, law_to_json
from sciinf.core.laws import JointLaw, from_normal, inside, is_normalisable, support
from sciinf.core.levels import Levels, is_counting, tabulated
from sciinf.core.mixed_bijection import MixedBijection, Split
from sciinf.core.precision import precision_for

_GLOBAL_RNG = threading.RLock()


@contextmanager
def global_seed(generator: torch.Generator) -> Iterator[int]:
    """A context in which torch's global random state is seeded from `generator`.

    It serves code that draws from the global state only. The state is restored afterwards. One thread at a
    time can be in the context.

    Yields:
        The seed, in 0..2**62 - 1.
    """
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    devices = [] if generator.device.type == "cpu" else [generator.device]
    with _GLOBAL_RNG, torch.random.fork_rng(devices=devices, device_type=generator.device.type):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.get_device_module(generator.device).manual_seed(seed)
        yield seed


class Prior:
    """An ordered set of named parameters, each with a distribution and an optional unit.

    Args:
        **parameters: `name=law` (dimensionless) or `name=(law, unit)`. The law is a distribution of `sciinf`
            (Normal, Uniform, LogNormal, ...), of torch.distributions, or a frozen one of scipy.stats, which
            is converted. The unit is any string that astropy reads, or a unit of astropy. A distribution of
            whole numbers (`Choice`, `Counts`, Poisson, ...) makes a discrete parameter. `Only` and `Each`
            make parameters that exist in some rows only, and are NaN in all other rows.

    Parameters that depend on each other have a joint distribution: `Prior.joint`. The sum of two priors has
    the parameters of both: `Prior(...) + Prior(...)`.

    Densities are computed in float64. Parameters are of `dtype`: float32, or float64 if the steps of float32
    are larger than a ten-thousandth of a distribution's width, as for seconds of GPS time.

    Raises:
        TypeError: If a value is not a univariate distribution, alone or with a unit. The message says what
            was probably meant: Uniform(-1, 1) if (-1, 1) was given.
        ValueError: If there are no parameters, if astropy cannot read a unit, or if the numbers that a
            distribution holds are too coarse for its width. torch rounds these numbers to float32 unless they
            are given in float64.

    Examples:
        >>> from sciinf import LogNormal, Normal
        >>> prior = Prior(rate=(LogNormal(0.0, 0.5), "1/h"), offset=Normal(0.0, 1.0))
        >>> prior.names, prior.units
        (('rate', 'offset'), ('1/h', ''))
        >>> prior.sample(3, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3, 2])
    """

    def __init__(self, **parameters: object) -> None:
        if not parameters:
            raise ValueError(
                "a prior needs at least one parameter, Prior(name=(distribution, unit)); the prior that has "
                "none is Prior.none()"
            )
        laws, units, known = list[td.Distribution](), list[Any](), dict[str, td.Distribution]()
        when, each = dict[str, Mapping[str, tuple[Any, ...]]](), dict[str, Family]()
        for name, value in parameters.items():
            law, unit = law_and_unit(name, (value.law, value.unit) if isinstance(value, Only | Each) else value)
            law, columns = _one_dimensional(name, law), (name,)
            if isinstance(value, Only):
                when[name] = value.when
            if isinstance(value, Each):
                each[name] = columns_of(name, value, law, known)
                columns = each[name].columns
            if taken := known.keys() & set(columns):
                raise ValueError(f"parameter names must differ, {sorted(taken)[0]!r} stands for two of them")
            joint = isinstance(value, Each) and value.always_in_order(len(columns))
            laws += [Ordered(law, len(columns))] if joint else [law] * len(columns)
            units += [unit] * len(columns)
            known |= dict.fromkeys(columns, law)
        self._set(tuple(known), tuple(units), tuple(laws), Existence(when, each))

    @classmethod
    def joint(cls, names: Sequence[str], law: td.Distribution, units: Sequence[Any] | str | None = None) -> Prior:
        """A prior whose parameters follow one multivariate distribution, correlations included.

        Args:
            names: One name per dimension of the distribution.
            law: A distribution with event shape (D,), such as Ordered, Simplex, MultivariateNormal, Dirichlet
                or Independent(Uniform(low, high), 1).
            units: One unit per name, or a single unit for all. The default is dimensionless.

        Raises:
            TypeError: If the law is not a distribution of torch.distributions.
            ValueError: If the numbers of names, units and dimensions differ, or if the support has no
                bijection to R^D.
        """
        names = tuple(names)
        if not isinstance(law, td.Distribution):
            raise TypeError(
                f"the distribution of {names} is {law!r}; expected one of torch.distributions, such as "
                "MultivariateNormal, or Ordered or Simplex of sciinf"
            )
        units = (units or "",) * len(names) if units is None or isinstance(units, str) else tuple(units)
        if law.event_shape != (len(names),) or law.batch_shape:
            raise ValueError(
                f"{len(names)} names {names} need a distribution with event shape ({len(names)},) and batch "
                f"shape (), got {law!r} with event shape {tuple(law.event_shape)} and batch shape "
                f"{tuple(law.batch_shape)}"
            )
        if isinstance(law, td.Independent) and law.base_dist.batch_shape == (len(names),) and _splits(law.base_dist):
            laws = tuple(_pick(law.base_dist, i) for i in range(len(names)))
        else:
            _check_joint(law)
            laws = (law,)
        return cls.of_laws(names, units, laws)

    @classmethod
    def of_laws(
        cls,
        names: Sequence[str],
        units: Sequence[str],
        laws: Sequence[td.Distribution],
        existence: Existence | None = None,
    ) -> Prior:
        """A prior made from a list of distributions, each for as many names, in order, as it has dimensions.

        Args:
            names: Names of the parameters.
            units: Units of the parameters.
            laws: Distributions of the parameters, as `laws` of a prior has them.
            existence: Which parameters exist in which rows. By default all parameters exist in all rows.

        Raises:
            ValueError: If the numbers of names and units differ, a name is given twice or a unit is unknown.
        """
        prior = cls.__new__(cls)
        prior._set(tuple(names), tuple(units), tuple(laws), existence or Existence())
        return prior

    @classmethod
    def none(cls) -> Prior:
        """The prior of a simulator without parameters.

        Such a simulator is an equation whose solutions differ only by their initial conditions.
        """
        return cls.of_laws((), (), ())

    def _set(
        self,
        names: tuple[str, ...],
        units: tuple[str, ...],
        laws: tuple[td.Distribution, ...],
        existence: Existence,
    ) -> None:
        if len(units) != len(names):
            raise ValueError(f"{len(names)} parameters {names} need as many units, got {units}")
        if len(set(names)) != len(names):
            raise ValueError(f"parameter names must differ, got {names}")
        if twice := sorted(set(names) & set(existence.each)):
            raise ValueError(
                f"{twice[0]!r} is a parameter, and what several others are called together (an Each); rename "
                "one of the two"
            )
        for name, unit in zip(names, units, strict=True):
            check_parameter_name(name)
            check_unit(unit, f"parameter {name!r}")
        self.names, self.units, self.laws = names, tuple(str(unit) for unit in units), laws
        self.dtype, places, self.existence = torch.float32, places_of(laws), existence
        for law, place in zip(laws, places, strict=True):
            if not isinstance(law, Levels):
                needed = precision_for(names[place], self.units[place], law)
                self.dtype = torch.promote_types(self.dtype, needed)
        self.mixed = any(isinstance(law, Levels) for law in laws)
        # Without discrete parameters, no existence can depend on a parameter; `conditions` refuses it.
        if not self.mixed:
            existence.conditions(names, {names[place.start]: law for law, place in zip(laws, places, strict=True)})
        self.bijection = (
            MixedBijection(names, laws, existence, self.dtype) if self.mixed else Bijection(laws, self.dtype)
        )

    def __add__(self, other: Prior) -> Prior:
        """A prior with the parameters of both priors, independent of each other.

        Raises:
            ValueError: If both priors have a parameter of the same name.
        """
        if not isinstance(other, Prior):
            return NotImplemented
        names, units, laws = self.names + other.names, self.units + other.units, self.laws + other.laws
        return Prior.of_laws(names, units, laws, self.existence | other.existence)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Prior({', '.join(f'{n} [{u}]' if u else n for n, u in zip(self.names, self.units, strict=True))})"

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """n draws, of `dtype`, on the CPU. All randomness comes from `generator`."""
        if n == 0:  # Some distributions cannot make zero draws.
            return torch.empty(0, len(self), dtype=self.dtype)
        if isinstance(self.bijection, MixedBijection):
            with global_seed(generator) if (some := self.bijection.without_quantiles()) else nullcontext():
                other = {k: self.laws[k].sample(torch.Size([n])) for k in some}
            return self.bijection.draw(n, generator, other)
        columns = [torch.empty(n, 0, dtype=self.dtype)]
        for law, transform in zip(self.laws, self.bijection.transforms, strict=True):
            if transform is None:  # The distribution has quantiles, so its draws are made from normal draws.
                z = torch.randn(n, *law.event_shape, generator=generator, dtype=torch.float64)
                columns.append(inside(law, from_normal(law, z).to(self.dtype)).reshape(n, -1))
            else:
                with global_seed(generator):
                    columns.append(law.sample((n,)).to(self.dtype).reshape(n, -1))
        return torch.cat(columns, dim=1)

    def sample_on_device(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """n draws, of `dtype`, on the device of the generator.

        They are made on that device if every distribution has quantiles, and on the CPU otherwise.
        """
        if self.bijection.normal:
            noise = torch.randn(n, len(self), generator=generator, device=generator.device)
            return self.bijection.inverse(noise)
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        return self.sample(n, generator=torch.Generator().manual_seed(seed)).to(generator.device)

    def places(self) -> list[tuple[td.Distribution, slice]]:
        """Each distribution with the places of its parameters in theta."""
        return list(zip(self.laws, self.bijection.places, strict=True))

    def log_prob(self, theta: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch"]:
        """The log density of theta in the units of the parameters, float64; -inf outside the support."""
        self._check(theta)
        if isinstance(self.bijection, MixedBijection):
            return self.bijection.log_prob(theta)
        total = torch.zeros(theta.shape[:-1], dtype=torch.float64, device=theta.device)
        parts = self.bijection.parts(theta.to(torch.float64))
        for law, (_, part) in zip(self.bijection.exact, parts, strict=True):
            total = total + log_density(law, part).to(theta.device)
        return total

    @property
    def arguments(self) -> dict[str, tuple[str, ...]]:
        """The arguments of a simulator: name of an argument -> names of the parameters that it holds.

        A parameter is an argument by itself. The parameters of an `Each` are one argument, named like the
        `Each`.
        """
        of = {column: name for name, group in self.existence.each.items() for column in group.columns}
        found: dict[str, tuple[str, ...]] = {}
        for name in self.names:
            found[of.get(name, name)] = (*found.get(of.get(name, name), ()), name)
        return found

    def discrete(self) -> dict[str, Levels]:
        """The discrete parameters: name -> distribution."""
        return {self.names[place.start]: law for law, place in self.places() if isinstance(law, Levels)}

    def present(self, theta: Float[Tensor, "*batch theta"]) -> Bool[Tensor, "*batch theta"]:
        """Whether each parameter exists, computed from the discrete parameters of theta alone."""
        self._check(theta)
        if isinstance(self.bijection, MixedBijection):
            return self.bijection.present(theta)
        return torch.ones_like(theta, dtype=torch.bool)

    def split(self, theta: Float[Tensor, "*batch theta"]) -> Split:
        """theta as numbers z for networks, (..., bijection.size), and whether each of these numbers exists.

        For a continuous parameter whose distribution has quantiles, z is N(0, 1) under the prior. For a
        discrete parameter, z is the code of its value. For a parameter that does not exist, z is 0.
        """
        self._check(theta)
        if isinstance(self.bijection, MixedBijection):
            return self.bijection.split(theta)
        z = self.bijection.forward(theta)
        return Split(z, torch.ones_like(z, dtype=torch.bool))

    def join(self, z: Float[Tensor, "*batch z"]) -> Float[Tensor, "*batch theta"]:
        """theta from the numbers z of `split`, with NaN where a parameter does not exist.

        All other values are strictly inside the support.
        """
        return self.bijection.inverse(z)

    def coordinates(self, theta: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch coordinate"]:
        """theta as coordinates for distances and networks, none of them NaN.

        The first coordinates are z of the continuous parameters. Then comes a number for each parameter that
        need not exist: 1 if it exists, else 0. The last coordinates are one-hot codes of the values of the
        discrete parameters.
        """
        self._check(theta)
        return self.bijection.coordinates(theta) if isinstance(self.bijection, MixedBijection) else self.split(theta).z

    def log_jacobian(self, theta: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch"]:
        """log |dz / dtheta| of the continuous parameters that exist, float64."""
        self._check(theta)
        return self.bijection.log_abs_det_jacobian(theta)

    def _check(self, theta: Tensor) -> None:
        if theta.ndim == 0 or theta.shape[-1] != len(self):
            raise ValueError(f"theta has shape {tuple(theta.shape)}, expected (..., {len(self)}) for {self.names}")

    def to_json(self) -> dict[str, Any]:
        """The prior as plain JSON values."""
        laws = [law_to_json(law) for law in self.laws]
        return {"names": list(self.names), "units": list(self.units), "laws": laws, **self.existence.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Prior:
        """The prior that `to_json` wrote."""
        laws = [law_from_json(law) for law in data["laws"]]
        return cls.of_laws(data["names"], data["units"], laws, Existence.from_json(data))


def _one_dimensional(name: str, law: td.Distribution) -> td.Distribution:
    if law.batch_shape == (1,) and not law.event_shape:
        law = _pick(law, 0)
    if law.batch_shape or law.event_shape:
        raise TypeError(
            f"parameter {name!r} has a distribution of shape {tuple(law.batch_shape + law.event_shape)}, "
            "made from arrays, but a parameter is one number. Give each number its own name and "
            "distribution. Or give all of them at once: Prior.joint(names, law, units); if they are "
            "independent, the law is torch.distributions.Independent(law, 1)"
        )
    as_torch_checks(name, law)
    if is_counting(law):
        return tabulated(law)
    if isinstance(law, Levels):
        return law
    if support(law).is_discrete:
        raise TypeError(
            f"parameter {name!r} has the discrete distribution {law!r}, which is not supported; take "
            "Choice('a', 'b'), Counts(0, 3), or Poisson, Binomial, Geometric, Bernoulli or Categorical of "
            "torch.distributions"
        )
    try:
        one = is_normalisable(law) or td.biject_to(support(law))(torch.zeros(1)).shape == (1,)
    except NotImplementedError:
        one = False
    if not one:
        raise TypeError(
            f"the support of {law!r}, the distribution of parameter {name!r}, has no bijection to R; use "
            "another distribution"
        )
    return law


def _pick(law: td.Distribution, index: int) -> td.Distribution:
    if isinstance(law, td.Independent):
        law = law.base_dist
    data = law_to_json(law)
    arguments = {k: v[index] if isinstance(v, list) else v for k, v in data["arguments"].items()}
    return law_from_json({**data, "arguments": arguments})


def _splits(law: td.Distribution) -> bool:
    try:
        return "arguments" in law_to_json(law)
    except TypeError:
        return False


def _check_joint(law: td.Distribution) -> None:
    size = law.event_shape
    if isinstance(law, JointLaw):
        return
    if support(law).is_discrete:
        raise ValueError(
            f"{law!r} is a joint distribution of discrete parameters, which is not supported; give each "
            "parameter its own distribution, such as Counts(0, 3)"
        )
    try:
        fits = makes_up_a_whole(law) or td.biject_to(support(law)).inverse_shape(size) == size
    except NotImplementedError:
        fits = False
    if not fits:
        raise ValueError(f"the support of {law!r} has no bijection to R^{size[0]}; use another distribution")
    try:
        law.log_prob(central(law))
    except RuntimeError as error:
        raise ValueError(
            f"{law!r} cannot compute the density of float64 values; build it from float64 tensors ({error})"
        ) from error
