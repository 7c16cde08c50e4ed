r"""A linear stochastic system of interacting nodes, with a posterior over the graph of their effects.

    dz_i = (sum_j F_ij z_j + b_i) dt + sqrt(D_i) dW_i,     F_ij = G_ij W_ij for j != i,   F_ii = W_ii,
    G_ij ~ Bernoulli(p),   W_ij ~ N(0, size^2),            one graph and one W for all rows,

where z_i in R is the value of node i, which is a channel of the target itself
(`LatentDynamics(columns=...)`), and G_ij = 1 if node j acts on node i. b is linear in the context of the row
and in controls. W is per mean step, in units of the nodes. q(G, W) = prod_ij Bernoulli(pi_ij) N(m_ij, s_ij^2)
is learned from all rows. Its KL divergence from the prior counts once for all rows,

    shared = sum_{i != j} (KL(Bernoulli(pi_ij) || Bernoulli(p)) + pi_ij KL(N(m_ij, s_ij^2) || N(0, size^2)))
           + sum_i KL(N(m_ii, s_ii^2) || N(0, size^2)).

The KL term of W is a penalty that an edge must outweigh by its likelihood. If W were fixed numbers without
this penalty, noise in the data would produce edges. Each row draws its own G and W from q, so that the
gradients of m and s are means over rows. pi is not learned by gradients. If the log likelihood is quadratic
in W_ij, the best pi for given m and s is

    logit pi_ij = logit p + log(s_ij / size) + m_ij^2 / (2 s_ij^2),

the prior odds times the Bayes factor of an edge against no edge (Carbonetto, Stephens). The hard Gumbel edges
of the paper leave the value 1 only slowly: an edge that was needed once stays even after its effect has gone
to 0.

Given G and W the path is linear Gaussian, and `messages` computes its distribution exactly. Steps may
therefore have any length, and A = exp(F dt) includes indirect effects within a step. A solver with one Euler
step between two values cannot distinguish an edge from a path through a third node. b and D are point
estimates, without uncertainty.

**The posterior is an approximation under conditions.** In q the edges are independent of each other, and b
and D are known. `edges()` says what its probabilities are conditional on. Without `columns`, nodes are not
observed channels, and edges have no meaning. After a training that ended too soon, a false edge can have a
high probability: check that edges stay in a longer training. Measurement noise and noise of the nodes are
hard to distinguish. If training confuses them, an edge can be found in the wrong direction.

References:
    | Neural structure learning with stochastic differential equations (Wang et al., 2024),
      https://arxiv.org/abs/2311.03309
    | Scalable variational inference for Bayesian variable selection in regression (Carbonetto, Stephens, 2012),
      https://doi.org/10.1214/12-BA703
    | Computing integrals involving the matrix exponential (Van Loan, 1978), https://doi.org/10.1109/TAC.1978.1101743
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.checks import check_whole
from sciinf.core.prior import global_seed
from sciinf.emulators.processes.messages import GaussianChain, lower, smoothed
from sciinf.emulators.processes.process import Latent, LearnedProcess, Process, Series, Sizes

_HALVINGS = 5  # A step is composed of 2^5 short ones, because the exponential of a long step is unstable.
_SURE = 15.0  # Largest logit of an edge. Such an edge is practically always drawn.
_LEAST = 1e-8  # Variance that is added to each step, in squared units, so that covariances are invertible.


class Interacting(Process):
    """A linear stochastic system of interacting nodes, whose graph of effects is learned.

    Args:
        nodes: Number of nodes, at least 2.
        likely: Prior probability p of each edge.
        size: Prior sd of the effect of an edge, per mean step. The effect is the change of a node, in its
            unit, per unit of the other node.
        center: Typical value of the nodes, in the target's unit. One number, or one for each node.
        unit: Unit of a node, in the target's unit, which should be about the node's sd. One number, or one
            for each node.

    Raises:
        ValueError: If a number is out of range.

    Examples:
        >>> process = Interacting(3).build(Sizes(features=3, context=0, controls=0), seed=0)
        >>> process.edges().probability.shape
        torch.Size([3, 3])
    """

    def __init__(
        self,
        nodes: int,
        *,
        likely: float = 0.3,
        size: float = 1.0,
        center: float | Sequence[float] = 0.0,
        unit: float | Sequence[float] = 1.0,
    ) -> None:
        check_whole("nodes", nodes, 2)
        if not 0 < likely < 1:
            raise ValueError(f"likely is a probability between 0 and 1, got {likely!r}")
        if not 0 < size < math.inf:
            raise ValueError(f"size is the sd of an effect, a positive number, got {size!r}")
        self.nodes, self.likely, self.size = nodes, likely, size
        self.center, self.unit = _each("center", center, nodes), _each("unit", unit, nodes)
        if min(self.unit) <= 0:
            raise ValueError(f"unit must be above 0, got {unit!r}")

    def build(self, sizes: Sizes, *, seed: int) -> LearnedProcess:
        with global_seed(torch.Generator().manual_seed(seed)):
            return LearnedInteracting(sizes, self)


@dataclass(frozen=True)
class Edges:
    """The posterior over graphs, in which edges are independent of each other.

    Args:
        probability: Probability that node j acts on node i, (i, j). It is 1 on the diagonal, because each
            node always acts on itself.
        effect: Mean of F_ij if there is an edge, per mean step, in units of the nodes, (i, j).
        sd: Standard deviation of F_ij if there is an edge, (i, j).
        given: The conditions under which the probabilities hold, as text.
    """

    probability: Tensor
    effect: Tensor
    sd: Tensor
    given: str


@final
class LearnedInteracting(LearnedProcess):
    """The process of interacting nodes, with its learned weights.

    Small matrices are stored as vectors, so that optimisers for matrices do not treat them as such.

    Args:
        sizes: Sizes of features, context and controls.
        recipe: Settings of the process.
    """

    center: Tensor
    unit: Tensor

    def __init__(self, sizes: Sizes, recipe: Interacting) -> None:
        super().__init__()
        count = self.states = recipe.nodes
        self.likely, self.size = recipe.likely, recipe.size
        self.register_buffer("center", torch.tensor(recipe.center))
        self.register_buffer("unit", torch.tensor(recipe.unit))
        eye = torch.eye(count)
        self.mean = nn.Parameter((-0.5 * eye).flatten())
        self.log_sd = nn.Parameter(torch.full((count * count,), math.log(0.1)))
        self.log_noise = nn.Parameter(torch.full((count,), math.log(0.5)))
        known = sizes.context + sizes.controls
        self.level = nn.Parameter(torch.zeros(count))
        self.push = nn.Linear(known, count, bias=False) if known else None
        if self.push is not None:
            nn.init.zeros_(self.push.weight)
        self.first = nn.Parameter(torch.zeros(count))
        self.log_start = nn.Parameter(torch.zeros(count))
        self.log_gain = nn.Parameter(torch.zeros(count))
        triangle = count * (count + 1) // 2
        self.evidence = nn.Linear(sizes.features, count + triangle)
        with torch.no_grad():
            self.evidence.weight[count:].mul_(0.1)
            rows, columns = torch.tril_indices(count, count)
            self.evidence.bias.copy_(torch.cat([torch.zeros(count), (rows == columns).float()]))

    def posterior(self, series: Series, *, generator: torch.Generator) -> Latent:
        chain = self._chain(series, generator=generator)
        read = torch.where(series.there[..., None], self.evidence(series.read), 0.0).double()
        gain = self.log_gain.double().exp()
        root = gain[:, None] * lower(read[..., self.states :], self.states)
        found = smoothed(chain, gain.square() * read[..., : self.states], root @ root.mT, generator=generator)
        return Latent(self._told(found.draw), found.kl.float(), found.log_ratio.float())

    def prior(self, series: Series, *, generator: torch.Generator) -> Float[Tensor, "row time state"]:
        """Draw a path for each row, with a graph and effects that are drawn from q for this row."""
        chain = self._chain(series, generator=generator)
        return self._told(chain.drawn(len(series), series.length, generator=generator))

    def shared(self) -> Float[Tensor, ""]:
        """The KL divergence of q(G, W) from the prior, in nats."""
        sd, size, logit = self.log_sd.exp(), self.size, self._logit()
        there = torch.sigmoid(logit)
        slab = 0.5 * ((sd.square() + self.mean.square()) / size**2 - 1) + math.log(size) - self.log_sd
        yes, no = nn.functional.logsigmoid(logit), nn.functional.logsigmoid(-logit)
        edge = there * (yes - math.log(self.likely)) + (1 - there) * (no - math.log1p(-self.likely))
        off, own = (slab.index_select(0, each) for each in self._places())
        return edge.sum() + (there * off).sum() + own.sum()

    @torch.no_grad()
    def edges(self) -> Edges:
        """The probabilities and effects of all edges, with the conditions under which they hold."""
        count, off = self.states, self._places()[0]
        there = torch.eye(count).to(self.mean).flatten().scatter(0, off, torch.sigmoid(self._logit()))
        shape = (count, count)
        given = (
            "Given that nodes are the channels that are seen (columns), that they push one another linearly, that all "
            f"nodes which matter are among these {count} (no hidden common cause), that each has noise of its own, and "
            f"that the graph is the same for all rows; with an edge as probable as {self.likely:g} before data, and "
            f"effects N(0, {self.size:g}^2) per mean step. Edges are approximated as independent of each other, noise "
            "and levels as known: where two graphs fit equally well, this can name one of them too surely. Training "
            "can end with an edge the wrong way round. Of linear systems whose graph is known, one edge in nine with a "
            "probability above 0.9 was false."
        )
        return Edges(there.reshape(shape), self.mean.reshape(shape).clone(), self.log_sd.exp().reshape(shape), given)

    def _places(self) -> tuple[Tensor, Tensor]:
        """The indices of the entries of flattened F off the diagonal, and on the diagonal."""
        count = self.states
        own = torch.arange(count, device=self.mean.device) * (count + 1)
        between = torch.arange(count - 1, device=self.mean.device)[:, None] * (count + 1)
        return (between + torch.arange(1, count + 1, device=self.mean.device)).flatten(), own

    def _logit(self) -> Float[Tensor, " edge"]:
        """The best logit pi for the current m and s, without gradients."""
        mean, log_sd = (each.detach().index_select(0, self._places()[0]) for each in (self.mean, self.log_sd))
        prior = math.log(self.likely / (1 - self.likely)) - math.log(self.size)
        return (prior + log_sd + 0.5 * (mean / log_sd.exp()).square()).clamp(max=_SURE)

    def _told(self, y: Tensor) -> Tensor:
        return self.center + self.unit * y.float()

    def _field(self, rows: int, *, generator: torch.Generator) -> Float[Tensor, "row node node"]:
        """Draw the matrix F of each row from q; float64."""
        count, device = self.states, generator.device
        weight = self.mean + self.log_sd.exp() * torch.randn(rows, count * count, generator=generator, device=device)
        logit = self._logit()
        edge = (torch.rand(rows, len(logit), generator=generator, device=device) < torch.sigmoid(logit)).to(weight)
        off, own = self._places()
        place = nn.functional.one_hot(off, count * count).to(edge)
        kept = edge @ place + nn.functional.one_hot(own, count * count).to(edge).sum(0)
        return (kept * weight).double().unflatten(-1, (count, count))

    def _chain(self, series: Series, *, generator: torch.Generator) -> GaussianChain:
        """The Gaussian chain of y = (z - center) / unit of each row, for F drawn from q; float64."""
        field = self._field(len(series), generator=generator)
        known = series.context[:, None].expand(-1, series.length, -1)
        if series.controls is not None:
            known = torch.cat([known, series.controls], -1)
        pushed = self.level.expand(*known.shape[:2], -1)[:, :-1].double()
        if self.push is not None:
            pushed = pushed + self.push(known)[:, :-1].double()
        step = (
            series.steps().double() if series.times is not None else torch.ones(1, min(series.length - 1, 1)).to(field)
        )
        if series.times is None and series.controls is None:
            pushed = pushed[:, :1]
        matrix, shift, noise = _moved(field, pushed, self.log_noise.double().exp(), step)
        start = torch.diag_embed((2 * self.log_start.double()).exp() + _LEAST)[None]
        return GaussianChain(self.first.double()[None], start, matrix, shift, noise)


def _moved(
    field: Float[Tensor, "row node node"],
    pushed: Float[Tensor, "row step node"],
    spread: Float[Tensor, " node"],
    step: Float[Tensor, "row step"],
) -> tuple[Tensor, Tensor, Tensor]:
    """The matrix A, shift b and noise covariance Q of each step.

    They are computed for a short step by a matrix exponential (Van Loan), and then doubled several times,
    exactly.

    Args:
        field: Matrix F.
        pushed: Constant drift b of the process in each step.
        spread: Variance rate D of each node.
        step: Length of each step.
    """
    size, (rows, steps) = field.shape[-1], (len(field), max(step.shape[1], pushed.shape[1]))
    field = field[:, None].expand(-1, steps, -1, -1)
    pushed = pushed.expand(rows, steps, -1)[..., None]
    top = torch.cat([field, torch.diag_embed(spread).expand_as(field), pushed], -1)
    middle = torch.cat([torch.zeros_like(field), -field.mT, torch.zeros_like(pushed)], -1)
    both = torch.cat([top, middle, torch.zeros_like(top[..., :1, :])], -2)
    found = torch.linalg.matrix_exp(both * (step / 2**_HALVINGS)[..., None, None])[..., :size, :]
    matrix, shift = found[..., :size], found[..., 2 * size :]
    noise = found[..., size : 2 * size] @ matrix.mT
    for _ in range(_HALVINGS):
        noise, shift = noise + matrix @ noise @ matrix.mT, shift + matrix @ shift
        matrix = matrix @ matrix
    eye = torch.eye(size, dtype=field.dtype, device=field.device)
    return matrix, shift[..., 0], 0.5 * (noise + noise.mT) + _LEAST * eye


def _each(name: str, value: float | Sequence[float], count: int) -> tuple[float, ...]:
    found = tuple(float(v) for v in value) if isinstance(value, Sequence) else (float(value),) * count
    if len(found) != count or not all(map(math.isfinite, found)):
        raise ValueError(f"{name} must be one finite number, or one for each of {count} nodes; got {value!r}")
    return found
