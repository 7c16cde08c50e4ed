r"""An encoder by messages: between points that lie close to each other, and to a lattice of nodes that are read out.

Point i at x_i has neighbours j: those nearer than x_i's (k+1)-th nearest point is, at a distance R_i. What a point
knows, h_i, grows by messages,

    h_i <- h_i + B(h_i, m_i),    m_i = sum_j w_ij g(o_ij) GELU(P h_i + Q h_j + f(o_ij)) / sum_j w_ij,

with o_ij = (x_j - x_i) / s, s the spacing of the points, or of the lattice where nodes hear, f and g two outputs of a
small network, and weights

    w_ij = (1 - |x_j - x_i|^2 / R_i^2)^2,

which are 0 at R_i: the encoder changes smoothly where points change places, and the order of points does not count.
Nodes stand on a lattice, at (i + 1/2) / N in each direction; each takes messages from the points nearest to it, four
for each that would be its own in an even share (and no fewer than k), then from its nearest nodes. A linear map of all
nodes gives the numbers. On a ring or torus distances go around it, and R_i is half of it at most.

Nothing before that map knows where it is: points that are moved by a step of the lattice are known by the next node.

Text2PDE, after GINO, brings a mesh to a lattice by an integral over all points within a radius, its kernel a network of
both places, and goes on with convolutions. Here neighbours are the nearest few, so that no node is without, the kernel
looks at values as well as at places, and nodes send messages as points do.

References:
    | Text2PDE: Latent Diffusion Models for Accessible Physics Simulation (Zhou et al., 2024),
      https://arxiv.org/abs/2410.01153
    | Geometry-Informed Neural Operator for Large-Scale 3D PDEs (Li et al., 2023), https://arxiv.org/abs/2309.00583
    | Neural Message Passing for Quantum Chemistry (Gilmer et al., 2017), https://arxiv.org/abs/1704.01212
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core.checks import check_positive
from sciinf.emulators.encoders import At, Decode, Encoder, EncoderNetwork, Values, places

_SHARE = 4  # points that a node hears, for each that would be its own
_LEAST = 1e-6  # weight, so that points which are all as far away as the next one count
_HALF = 0.5  # of a ring
_PAIRS = 2**22  # of points, whose distances are found at once


class Graph(Encoder):
    """Messages between points, and to nodes.

    Args:
        neighbours: Points that a point hears.
        width: Numbers that a point, or a node, knows.
        layers: Of messages between points, and as many between nodes.
        nodes: In each direction; as many as points of the grid, if there are fewer.

    Raises:
        ValueError: If a number is no int of at least 1; when built, if there are no directions.
    """

    def __init__(self, neighbours: int = 8, width: int = 32, layers: int = 2, *, nodes: int = 8) -> None:
        check_positive(neighbours=neighbours, width=width, layers=layers, nodes=nodes)
        self.neighbours, self.width, self.layers, self.nodes = neighbours, width, layers, nodes

    def build(self, channels: int, space: Sequence[int], numbers: int, *, edges: bool) -> EncoderNetwork:
        if not space:
            raise ValueError("Graph() is for fields of one direction or more, and these have none")
        return _Messages(self, (channels, numbers), tuple(space), edges)


class Near(NamedTuple):
    """What lies near to each of some places.

    Attributes:
        which: Of the points.
        weight: Of each, 1 in all.
        away: From the place to the point, over a spacing.
    """

    which: Int[Tensor, "place near"]
    weight: Float[Tensor, "place near"]
    away: Float[Tensor, "place near axis"]


def near(
    to: Float[Tensor, "place axis"], points: Float[Tensor, "point axis"], count: int, spacing: float, *, edges: bool
) -> Near:
    """The points that are nearest to places.

    Args:
        to: The places, in the unit box.
        points: The points.
        count: Of points near to each; all where there are no more.
        spacing: That distances are told in.
        edges: Whether the box has edges; else distances go around it.
    """
    most, axes = min(count + 1, len(points)), points.shape[1]
    parts = []
    for some in to.split(max(1, _PAIRS // len(points))):
        apart = points - some[:, None]
        apart = apart if edges else apart - apart.round()
        parts.append(apart.square().sum(-1).topk(most, 1, largest=False))
    squares, which = (torch.cat([part[k] for part in parts]) for k in range(2))
    away = points[which] - to[:, None]
    away = away if edges else away - away.round()
    bound = squares[:, -1:] if len(points) > count else squares.new_full((1, 1), float(axes))
    bound = bound if edges else bound.clamp_max(_HALF**2)  # beyond, a point would lie on the other side, too
    weight = (1 - squares / bound.clamp_min(1e-12)).clamp_min(0).square() + _LEAST
    return Near(which, weight / weight.sum(1, keepdim=True), away / spacing)


@final
class _Messages(EncoderNetwork):
    """See `Graph`."""

    grid: Tensor
    lattice: Tensor

    def __init__(self, of: Graph, ends: tuple[int, int], space: tuple[int, ...], edges: bool) -> None:
        super().__init__()
        self.edges, self.neighbours, width, axes = edges, of.neighbours, of.width, len(space)
        at = [(torch.arange(min(n, of.nodes)) + 0.5) / min(n, of.nodes) for n in space]
        lattice = torch.stack(torch.meshgrid(*at, indexing="ij"), -1).reshape(-1, axes)
        self.register_buffer("grid", places(space, edges=edges), persistent=False)
        self.register_buffer("lattice", lattice, persistent=False)
        self.enter = nn.Sequential(nn.Linear(ends[0], width), nn.GELU(), nn.Linear(width, width))
        self.points = nn.ModuleList(_Heard(width, axes) for _ in range(of.layers))
        self.gather = _Heard(width, axes)
        self.nodes = nn.ModuleList(_Heard(width, axes) for _ in range(of.layers))
        self.out = nn.Linear(len(lattice) * width, ends[1])
        self.spacing = len(lattice) ** (-1 / axes)
        self.of_grid: tuple[Near, Near] | None = None

    def forward(self, values: Values, at: At, decode: Decode) -> Float[Tensor, "batch number"]:
        del decode
        return self.out(self.known(values, at).flatten(1))

    def known(
        self, values: Float[Tensor, "batch channel *space"], at: Float[Tensor, "point axis"] | None
    ) -> Float[Tensor, "batch node width"]:
        """What nodes know of fields; arguments are those of `forward`."""
        about, own = self._near(at)
        hidden = self.enter(values.flatten(2).mT)
        for layer in self.points:
            hidden = layer(hidden, hidden, about)
        blank = hidden.new_zeros(len(hidden), len(self.lattice), hidden.shape[-1])
        nodes, beside = self.gather(blank, hidden, own), self._around()
        for layer in self.nodes:
            nodes = layer(nodes, nodes, beside)
        return F.layer_norm(nodes, nodes.shape[-1:])

    @torch.no_grad()
    def _near(self, at: Tensor | None) -> tuple[Near, Near]:
        """What lies near to points, and to nodes."""
        if at is None and self.of_grid is not None and self.of_grid[0].away.device == self.grid.device:
            return self.of_grid
        points = self.grid if at is None else at.to(self.grid)
        share = max(self.neighbours, _SHARE * math.ceil(len(points) / len(self.lattice)))
        own = len(points) ** (-1 / points.shape[1])
        found = (
            near(points, points, self.neighbours, own, edges=self.edges),
            near(self.lattice, points, share, self.spacing, edges=self.edges),
        )
        if at is None:
            self.of_grid = found
        return found

    @torch.no_grad()
    def _around(self) -> Near:
        """What lies near to nodes on their lattice."""
        return near(self.lattice, self.lattice, self.neighbours, self.spacing, edges=self.edges)


class _Heard(nn.Module):
    """Messages of points near to places, and what these make of them."""

    def __init__(self, width: int, axes: int) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.where = nn.Sequential(nn.Linear(axes + 1, width), nn.GELU(), nn.Linear(width, 2 * width))
        self.after = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, hidden: Tensor, others: Tensor, who: Near) -> Tensor:
        shift, gain = self.where(torch.cat([who.away, who.away.norm(dim=-1, keepdim=True)], -1)).chunk(2, -1)
        said = self.others(others).index_select(1, who.which.flatten()).unflatten(1, who.which.shape)
        said = F.gelu(said + (self.own(hidden)[:, :, None] + shift))
        heard = (said * ((1 + gain) * who.weight[..., None])).sum(2)  # einsum would copy, and take twice as long
        return hidden + self.after(F.layer_norm(torch.cat([hidden, heard], -1), (2 * hidden.shape[-1],)))
