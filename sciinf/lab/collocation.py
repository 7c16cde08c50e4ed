r"""A network that solves an equation for all parameters at once, trained on the equation's residual alone.

    min over u   E[r(u; x, theta)^2] + w E[b(u; x, theta)^2],

where r is the residual of the equation at points, divided by its rms before training. b is the residual of
the conditions on the faces of the box, divided by the size of u. Parameters are inputs of the network. Points
are placed in x and theta together (`placements`): evenly, or by a density that learns where r^2 is large.

**One loss, one optimiser.** If a density places the points, network and density are trained at once. The
points are constants in r^2 and b^2, which thus have gradients in u alone. r^2 is a constant in the loss of
the density, which thus has gradients in the density alone. In each step r^2 + b^2 is divided by its mean, so
that its gradient is that of log E(r^2 + b^2). Otherwise the larger of the two losses would dominate the norm
of all gradients, which is clipped. The reported loss is r^2 + b^2. For held-out rows it is computed at many
even points, so that the best weights are those with the smallest residual over the whole box.

The solution is approximate, and a small residual does not mean a small error. The error is known only if
solutions are available: train on a store of the solved equation, whose held-out rows then give the error
(`spread`, `draw`). Without solutions, `draw` raises an error.

References:
    | Physics-informed neural networks (Raissi et al., 2019), https://doi.org/10.1016/j.jcp.2018.10.045
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Adjusting, Batch, X, predicted
from sciinf.core.checks import check_whole
from sciinf.core.existence import check_continuous
from sciinf.core.prior import global_seed
from sciinf.core.surrogate import Values
from sciinf.emulators._errors import WithErrors, held_out_errors
from sciinf.emulators._fields import Looking
from sciinf.lab.jets import Jet, JetNetwork
from sciinf.lab.placements import EDGE, EvenPoints, Placement
from sciinf.lab.point_equation import AtPoints, box, faces, rings, timed
from sciinf.simulators.dynamics.field_equation import SOLUTION

_SEEN = 8  # Held-out rows have this many times as many points as training rows, for a precise loss.
_LOOK = 4_096  # Number of points at which the residual is measured before training.


@final
class Collocation(WithErrors, Looking, Adjusting):
    """An emulator of an equation's solutions for all parameters, trained on the residual of the equation.

    Args:
        equation: An equation with a residual at points (`lab.point_equation`). Its initial state must be
            determined by theta.
        placement: Placement of the points, by default `EvenPoints()`.
        points: Number of points for each row of a training step.
        width: Width of the network's hidden layers.
        layers: Number of hidden layers.
        edges: Weight w of the conditions on the faces, at least 0.
        scale: Expected size of u, in its unit.
        seed: Seed of the initial weights.

    Raises:
        TypeError: If the equation is not `AtPoints`.
        ValueError: If solutions of the equation start from given fields or are random, the prior has discrete
            parameters, or a number is out of range.

    Examples:
        >>> from torch.distributions import Uniform
        >>> from sciinf.core import Prior
        >>> from sciinf.simulators.dynamics.field_equation import described
        >>> from sciinf.simulators.dynamics.grid import BoxGrid
        >>> from sciinf.lab.point_equation import Unsolved
        >>> class Heated(Unsolved):  # -u'' = heat, u = 0 at both ends
        ...     name, times = "heated", (0.0,)
        ...     def __init__(self):
        ...         self.grid, self.prior = BoxGrid((33,), (1.0,), periodic=False), Prior(heat=Uniform(1.0, 5.0))
        ...         _, self.observables = described({}, 1, 1, self.grid)
        ...     def residual_at(self, u, at, theta):
        ...         return -u.bend[..., 0] - theta["heat"]
        ...     def edge_at(self, u, at, theta):
        ...         return u.value
        >>> Collocation(Heated()).predict(torch.tensor([[2.0]]), {}).shape
        torch.Size([1, 1, 1, 33])
    """

    needs: ClassVar[Sequence[str] | None] = ()
    residual_size: Tensor

    def __init__(
        self,
        equation: AtPoints,
        placement: Placement | None = None,
        *,
        points: int = 16,
        width: int = 40,
        layers: int = 4,
        edges: float = 1.0,
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not isinstance(equation, AtPoints):
            raise TypeError(f"Collocation needs an equation that is `AtPoints`, got {equation!r}")
        if equation.given or equation.random:
            raise ValueError(
                f"solutions of {equation.name!r} start from {', '.join(equation.given) or 'chance'}, but Collocation "
                "needs those that follow from parameters alone: use an Operator, which learns from solutions"
            )
        check_continuous(equation.prior, "a Collocation")
        for name, value in (("points", points), ("width", width), ("layers", layers)):
            check_whole(name, value, 1)
        if not (0 <= edges < math.inf and 0 < scale < math.inf):
            raise ValueError(
                f"edges is a weight of at least 0, scale a size above 0, both finite; got {edges}, {scale}"
            )
        super().__init__(equation.prior, {SOLUTION: equation.observables[SOLUTION]}, SOLUTION, (), seed)
        self.equation, self.count, self.edges, self.scale = equation, points, edges, scale
        self.lengths, self.faces = box(equation), faces(equation)
        parameters = equation.prior.bijection.size
        with global_seed(torch.Generator().manual_seed(seed)):
            channels = self.observables[SOLUTION].shape[1]
            self.network = JetNetwork(self.lengths, rings(equation), parameters, channels, width, layers)
            self.placing = (placement or EvenPoints()).build(len(self.lengths) + parameters)
        self.register_buffer("residual_size", torch.ones(()))

    def look(self, batches: Callable[[], Iterator[Batch]]) -> None:
        theta = torch.cat([batch.theta for batch in batches()])[:_LOOK]
        generator = torch.Generator(theta.device).manual_seed(0)
        cube = self._even(theta, math.ceil(_LOOK / len(theta)), generator)
        with torch.no_grad():
            size = self.residual_squares(cube).mean().sqrt()
        self.residual_size.copy_(torch.where((size > 0) & size.isfinite(), size, torch.ones_like(size)))

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        many = self.count * (1 if self.training else _SEEN)
        even, rows = self._even(batch.theta, many, generator), len(batch.theta)
        edges = self._at_edges(batch.theta, generator)
        if not self.training:
            return self.residual_squares(even).reshape(many, rows).mean(0) + edges
        points = self.placing.points(even, self._unsloped, generator=generator)
        squares = self.residual_squares(points)
        wanted = squares.reshape(many, rows).mean(0) + edges
        placed = self.placing.loss(points, squares.detach(), generator=generator).reshape(many, rows).mean(0)
        each = wanted / wanted.mean().detach().clamp_min(1e-30) + placed
        return each - each.detach() + wanted.detach()

    def predict(self, theta: Float[Tensor, "batch theta"], given: X) -> Float[Tensor, "batch time channel *space"]:
        z = self.prior.split(theta.to(self.theta_mean)).z.to(self.given_mean.dtype)
        at = self._grid().to(z)
        numbers = z[:, None].expand(-1, len(at), -1).flatten(0, 1)
        found = self.scale * self.network(at.repeat(len(z), 1), numbers)
        return found.unflatten(0, (len(z), self.frames, *self.space)).movedim(-1, 2)

    @torch.no_grad()
    def adjust(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        theta = torch.cat([batch.theta for batch in batches()])
        cube = self._even(theta, self.count * _SEEN, torch.Generator(theta.device).manual_seed(1))
        told = {"residual": float(self.residual_squares(cube).mean().sqrt())}
        if self.target in next(iter(batches())).x:
            return told | held_out_errors(self, batches)
        self.size.fill_(math.nan)  # Without solutions the errors are not known, and `spread` says so.
        return told

    def error(self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator) -> Values:
        return self.drawn_error(theta, generator=generator)

    def draw(self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator) -> Values:
        found = predicted(self, Batch(theta, given))
        return found + self.drawn_error(theta, generator=generator).to(found.device)

    def _even(self, theta: Tensor, many: int, generator: torch.Generator) -> Float[Tensor, "n size"]:
        """Points of the unit cube, `many` for each row: x is uniform in the box, theta is that of the row."""
        own = torch.special.ndtr(self.prior.split(theta).z).to(self.given_mean.dtype).repeat(many, 1)
        at = torch.rand(len(own), len(self.lengths), generator=generator, device=generator.device)
        return torch.cat([at.to(own), own], -1)

    def _told(self, cube: Tensor, kind: Callable[..., Tensor]) -> Tensor:
        """The squared residual of the network at points of the cube, summed over equations or conditions.

        Args:
            cube: Points of the unit cube, (n, size).
            kind: Method of the equation that returns residuals, `residual_at` or `edge_at`.
        """
        share, place = cube.split([len(self.lengths), cube.shape[-1] - len(self.lengths)], -1)
        z = torch.special.ndtri(place.clamp(EDGE, 1 - EDGE))
        theta = self.prior.join(z).to(cube)
        at = share * torch.tensor(self.lengths, dtype=cube.dtype, device=cube.device)
        raw = self.network.jet(at, z)
        jet = Jet(self.scale * raw.value, self.scale * raw.slope, self.scale * raw.bend)
        named = {name: theta[:, k : k + 1] for k, name in enumerate(self.prior.names)}
        return kind(jet, at, named).square().sum(-1)

    def residual_squares(self, cube: Float[Tensor, "n size"]) -> Float[Tensor, " n"]:
        """The squared residual r^2 at points of the cube, divided by its mean before training."""
        return self._told(cube, self.equation.residual_at) / self.residual_size.square()

    @torch.no_grad()
    def _unsloped(self, cube: Tensor) -> Float[Tensor, " n"]:
        return self.residual_squares(cube)

    def _at_edges(self, theta: Tensor, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """The mean of w b^2 for each row, at random points of the faces."""
        if not self.faces:
            return theta.new_zeros(len(theta), dtype=self.given_mean.dtype)
        many = max(1, self.count // 4)
        cube = self._even(theta, many, generator)
        which = torch.randint(len(self.faces), (len(cube),), generator=generator, device=generator.device)
        across, end = (torch.tensor(part, device=cube.device) for part in zip(*self.faces, strict=True))
        on = torch.arange(cube.shape[-1], device=cube.device) == across[which][:, None]
        cube = torch.where(on, end[which][:, None].to(cube), cube)
        return self.edges / self.scale**2 * self._told(cube, self.equation.edge_at).reshape(many, -1).mean(0)

    def _grid(self) -> Float[Tensor, "point direction"]:
        """The points of all frames: for each time, the points of the grid, with the time first."""
        space = self.equation.grid.coordinates.flatten(1).T if self.space else torch.zeros(1, 0, dtype=torch.float64)
        if not timed(self.equation):
            return space
        times = torch.tensor(self.equation.times, dtype=torch.float64).repeat_interleave(len(space))
        return torch.cat([times[:, None], space.repeat(self.frames, 1)], -1)
