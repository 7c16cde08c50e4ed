r"""An encoder by messages between near points, and to a lattice of nodes that are read out.

Point i at x_i has a number k of neighbours j. These are the points nearer to x_i than its (k+1)-th nearest point, which
is at a distance R_i. The features h_i of a point are updated by messages,

    h_i <- h_i + B(h_i, m_i),    m_i = sum_j w_ij g(o_ij) GELU(P h_i + Q h_j + f(o_ij)) / sum_j w_ij,

with o_ij = (x_j - x_i) / s. s is the spacing of the points, or of the lattice where nodes receive messages. f and g are
two outputs of a small network, and the weights are

    w_ij = (1 - |x_j - x_i|^2 / R_i^2)^2,

which are 0 at R_i. So the encoder changes smoothly where one neighbour replaces another, and does not depend on the
order of points. Nodes are on a lattice, at (i + 1/2) / N in each direction. Each node receives messages from its
nearest points. Their number is four times the number of points per node, and at least k. Then it receives messages from
its nearest nodes. A linear map of all nodes gives the code. On a ring or torus distances go around it, and R_i is at
most half of it.

Nothing before that map depends on absolute places. If points are translated by a step of the lattice, the next node has
the features of the node before.

Text2PDE, after GINO, maps a mesh to a lattice by an integral over all points within a radius. Its kernel is a network
of both places, and convolutions follow. Here the neighbours are a fixed number of nearest points, so that each node has
some. The kernel depends on values as well as on places, and nodes exchange messages as points do.

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

_SHARE = 4  # Points from which a node receives messages, as a multiple of the points per node.
_LEAST = 1e-6  # Least weight, so that neighbours at the same distance as the (k+1)-th point still count.
_HALF = 0.5  # Half the length of a ring.
_PAIRS = 2**22  # Limit of the pairs of points whose distances are computed at once.


class Graph(Encoder):
    """An encoder by messages between points, and from points to nodes.

    Args:
        neighbours: Number of neighbours from which a point receives messages.
        width: Number of features of a point or node.
        layers: Number of message layers between points, and also between nodes.
        nodes: Number of nodes in each direction; as many as points of the grid, if there are fewer.

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
    """The nearest points of some places, with their weights.

    Attributes:
        which: Indices of the nearest points.
        weight: Weight of each point; the weights of a place sum to 1.
        away: Vector from the place to the point, divided by a spacing.
    """

    which: Int[Tensor, "place near"]
    weight: Float[Tensor, "place near"]
    away: Float[Tensor, "place near axis"]


def near(
    to: Float[Tensor, "place axis"], points: Float[Tensor, "point axis"], count: int, spacing: float, *, edges: bool
) -> Near:
    """The nearest points of each place, with their weights.

    Args:
        to: The places, in the unit box.
        points: The points.
        count: Number of nearest points; all points if there are no more.
        spacing: Unit of the vectors from places to points.
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
    bound = bound if edges else bound.clamp_max(_HALF**2)  # Beyond half the ring, the other way round is shorter.
    weight = (1 - squares / bound.clamp_min(1e-12)).clamp_min(0).square() + _LEAST
    return Near(which, weight / weight.sum(1, keepdim=True), away / spacing)


@final
class _Messages(EncoderNetwork):
    """The network that `Graph` builds."""

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
        """Features of nodes, from fields; arguments are those of `forward`."""
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
        """The nearest points of each point, and of each node."""
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
        """The nearest nodes of each node on the lattice."""
        return near(self.lattice, self.lattice, self.neighbours, self.spacing, edges=self.edges)


class _Heard(nn.Module):
    """A message layer: messages from near points to places, and the update of the places' features."""

    def __init__(self, width: int, axes: int) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.where = nn.Sequential(nn.Linear(axes + 1, width), nn.GELU(), nn.Linear(width, 2 * width))
        self.after = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, hidden: Tensor, others: Tensor, who: Near) -> Tensor:
        shift, gain = self.where(torch.cat([who.away, who.away.norm(dim=-1, keepdim=True)], -1)).chunk(2, -1)
        said = self.others(others).index_select(1, who.which.flatten()).unflatten(1, who.which.shape)
        said = F.gelu(said + (self.own(hidden)[:, :, None] + shift))
        heard = (said * ((1 + gain) * who.weight[..., None])).sum(2)  # With einsum, this would take twice as long.
        return hidden + self.after(F.layer_norm(torch.cat([hidden, heard], -1), (2 * hidden.shape[-1],)))
