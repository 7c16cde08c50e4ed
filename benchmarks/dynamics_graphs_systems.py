"""Linear systems of nodes with a random graph, and the exact posterior over it: for `dynamics_graphs.py`."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sciinf.core import Observable, Prior, Simulator
from sciinf.core.observable import X

NODES, STEPS, NOISE = 5, 25, 0.1
LIKELY, SIZE = 0.3, 0.6  # an edge before data; its effect (sd)


def graph(seed: int, nodes: int = NODES) -> Tensor:
    """F (node, node): effects of the model's own prior, of a system that stays where it is."""
    g = torch.Generator().manual_seed(seed)
    while True:
        edge = torch.rand(nodes, nodes, generator=g) < LIKELY
        field = torch.where(edge, SIZE * torch.randn(nodes, nodes, generator=g), 0.0)
        own = -0.5 - torch.rand(nodes, generator=g)
        field = (field - torch.diag(field.diagonal()) + torch.diag(own)).double()
        if float(torch.linalg.eigvals(field).real.max()) < -0.2:
            return field


def moved(field: Tensor, spread: Tensor, step: float = 1.0) -> tuple[Tensor, Tensor]:
    """A and Q of a step; F (*, n, n), D (*, n)."""
    n = field.shape[-1]
    top = torch.cat([field, torch.diag_embed(spread).expand_as(field)], -1)
    both = torch.linalg.matrix_exp(torch.cat([top, torch.cat([torch.zeros_like(field), -field.mT], -1)], -2) * step)
    matrix = both[..., :n, :n]
    return matrix, both[..., :n, n:] @ matrix.mT


class Nodes(Simulator):
    """Series of one graph, each from where the system is in the long run; a share of all numbers missing.

    Of the nodes the first `seen` are seen, or all.
    """

    name = "nodes"

    def __init__(self, field: Tensor, missing: float = 0.0, seen: int | None = None) -> None:
        self.field, self.missing, self.seen = field, missing, seen or len(field)
        self.prior = Prior.none()
        size = (STEPS, self.seen)
        self.observables = {
            "x": Observable(size, dims=("time", "node")),
            "x_mask": Observable(size, dims=("time", "node"), dtype="bool"),
        }

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        rows, n = len(theta), len(self.field)
        matrix, noise = moved(self.field, torch.ones(n).double())
        _, long = moved(self.field, torch.ones(n).double(), 15.0)
        state = torch.randn(rows, n, generator=generator).double() @ torch.linalg.cholesky(long).mT
        root, found = torch.linalg.cholesky(noise), []
        for _ in range(STEPS):
            found.append(state + NOISE * torch.randn(rows, n, generator=generator))
            state = state @ matrix.mT + torch.randn(rows, n, generator=generator).double() @ root.mT
        there = torch.rand(rows, STEPS, n, generator=generator)[..., : self.seen] >= self.missing
        return {"x": torch.where(there, torch.stack(found, 1)[..., : self.seen].float(), 0.0), "x_mask": there}


def log_likelihood(x: Tensor, at: Tensor) -> Tensor:
    """Kalman's, of values at equal steps of 1: x (row, T, n); at (particle, n * n + n), float64: F and log D."""
    n, x = x.shape[-1], x.double()
    field = at[:, : n * n].unflatten(-1, (n, n))
    matrix, noise = moved(field, at[:, n * n :].exp())
    eye = torch.eye(n, dtype=torch.float64)
    seen = NOISE**2 * eye
    mean, cov = torch.zeros(len(at), len(x), n).double(), 2.0 * eye.expand(len(at), n, n)
    total = torch.zeros(len(at)).double()
    for k in range(x.shape[1]):
        root = torch.linalg.cholesky(cov + seen)
        off = x[None, :, k] - mean
        white = torch.linalg.solve_triangular(root, off.mT, upper=False)
        total = total - 0.5 * white.square().sum((1, 2)) - len(x) * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        gain = torch.cholesky_solve(cov, root).mT
        mean = (mean + off @ gain.mT) @ matrix.mT
        kept = cov - gain @ cov
        cov = matrix @ (0.5 * (kept + kept.mT)) @ matrix.mT + noise
    return total - 0.5 * math.log(2 * math.pi) * x.numel()


@dataclass(frozen=True)
class Exact:
    """Edge probabilities (node, node), and the effective number of the weighted draws that they are means of."""

    probability: Tensor
    draws: float


def exact(x: Tensor, sweeps: int = 150, chains: int = 8, seed: int = 0) -> Exact:
    """The posterior over graphs by the exact likelihood, with a flat prior of log D; the noise of values is known.

    The likelihood is expanded about its maximum; under that Gaussian each node's parent set is drawn of all 2^(n - 1)
    given the others' (Gibbs, effects summed out). Draws of graph, effects and noise are weighted by true over expanded
    likelihood, so that what is left of the expansion is Monte Carlo error alone.
    """
    n = x.shape[-1]
    best, precision = _expanded(x)
    cov = torch.linalg.inv(precision)
    joint = torch.linalg.inv(cov[: n * n, : n * n])
    joint = 0.5 * (joint + joint.mT)
    pull = joint @ best[: n * n]
    g = torch.Generator().manual_seed(seed)
    on = torch.ones(chains, n, n, dtype=torch.bool)
    sets = torch.tensor(list(itertools.product([False, True], repeat=n - 1)))
    kept, effects = [], []
    for sweep in range(sweeps):
        for i in range(n):
            rows = torch.cat([sets[:, :i], torch.ones(len(sets), 1, dtype=torch.bool), sets[:, i:]], 1)
            trial = on[:, None].expand(-1, len(sets), -1, -1).clone()
            trial[:, :, i] = rows
            score = _evidence(trial.flatten(2).double(), joint, pull) + sets.sum(-1) * math.log(LIKELY / (1 - LIKELY))
            pick = torch.multinomial((score - score.amax(1, keepdim=True)).exp(), 1, generator=g)[:, 0]
            on = trial[torch.arange(chains), pick]
        if sweep >= sweeps // 5:
            kept.append(on)
            effects.append(_effects(on.flatten(1).double(), joint, pull, g))
    graphs, weights = torch.cat(kept).double(), torch.cat(effects)
    rest = cov[n * n :, : n * n] @ joint
    left = cov[n * n :, n * n :] - rest @ cov[: n * n, n * n :]
    noise = torch.randn(len(weights), n, generator=g).double() @ torch.linalg.cholesky(left).mT
    at = torch.cat([weights, best[n * n :] + (weights - best[: n * n]) @ rest.mT + noise], 1)
    off = at - best
    with torch.no_grad():
        log = torch.cat([log_likelihood(x, part) for part in at.split(256)])
    log = log + 0.5 * (off @ precision * off).sum(-1)
    share = torch.softmax(log, 0)
    return Exact((share[:, None, None] * graphs).sum(0), float(1 / share.square().sum()))


def _expanded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Where the likelihood is largest, and minus its curvature there."""
    n = x.shape[-1]
    start = torch.cat([-0.8 * torch.eye(n).flatten(), torch.zeros(n)]).double()
    at = start.clone().requires_grad_()
    found = torch.optim.LBFGS([at], max_iter=80, line_search_fn="strong_wolfe", tolerance_change=1e-7)

    def closure() -> Tensor:
        found.zero_grad()
        loss = -log_likelihood(x, at[None])[0]
        loss.backward()
        return loss

    found.step(closure)  # type: ignore[arg-type]
    best = at.detach()
    curve = torch.autograd.functional.hessian(lambda v: -log_likelihood(x, v[None])[0], best)
    assert isinstance(curve, Tensor)
    values, vectors = torch.linalg.eigh(0.5 * (curve + curve.mT))
    return best, (vectors * values.clamp_min(1.0)) @ vectors.mT


def _evidence(on: Tensor, joint: Tensor, pull: Tensor) -> Tensor:
    """Log evidence of graphs, on (*, n * n), with effects summed out."""
    kept = on[..., :, None] * joint * on[..., None, :] + torch.eye(len(pull)).double() / SIZE**2
    root = torch.linalg.cholesky(kept)
    white = torch.linalg.solve_triangular(root, (on * pull)[..., None], upper=False)[..., 0]
    return 0.5 * white.square().sum(-1) - (root.diagonal(dim1=-2, dim2=-1) * SIZE).log().sum(-1)


def _effects(on: Tensor, joint: Tensor, pull: Tensor, g: torch.Generator) -> Tensor:
    """A draw of effects of each graph, 0 where there is no edge."""
    kept = on[..., :, None] * joint * on[..., None, :] + torch.eye(len(pull)).double() / SIZE**2
    root = torch.linalg.cholesky(kept)
    mean = torch.cholesky_solve((on * pull)[..., None], root)
    noise = torch.randn(on.shape, generator=g).double()[..., None]
    return on * (mean + torch.linalg.solve_triangular(root.mT, noise, upper=True))[..., 0]


def euler(x: Tensor) -> Tensor:
    """Edge probabilities where a step is taken for one Euler step: exact for that regression, one node at a time."""
    n, x = x.shape[-1], x.double()
    before, change = x[:, :-1].flatten(0, 1), x.diff(dim=1).flatten(0, 1)
    found = torch.zeros(n, n).double()
    spread = torch.linalg.lstsq(before, change).solution
    left = (change - before @ spread).var(0)
    for i in range(n):
        sets = torch.tensor(list(itertools.product([False, True], repeat=n - 1)))
        on = torch.cat([sets[:, :i], torch.ones(len(sets), 1, dtype=torch.bool), sets[:, i:]], 1).double()
        score = _evidence(on, before.mT @ before / left[i], before.mT @ change[:, i] / left[i])
        score = score + sets.sum(-1) * math.log(LIKELY / (1 - LIKELY))
        found[i] = torch.softmax(score, 0) @ on
    return found


class Lorenz(Simulator):
    """dx_i = ((x_{i+1} - x_{i-2}) x_{i-1} - x_i + 8) dt + .5 dW, 6 nodes in a ring, seen .1 apart."""

    name, nodes, step, fine = "lorenz", 6, 0.1, 20

    def __init__(self) -> None:
        self.prior = Prior.none()
        size = (STEPS, self.nodes)
        self.observables = {
            "x": Observable(size, dims=("time", "node")),
            "x_mask": Observable(size, dims=("time", "node"), dtype="bool"),
        }

    @staticmethod
    def parents() -> Tensor:
        """Whether j is in the drift of i, (i, j)."""
        eye = torch.eye(Lorenz.nodes, dtype=torch.bool)
        return eye.roll(1, 1) | eye.roll(-1, 1) | eye.roll(-2, 1)

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        x, found = 2.3 + 3 * torch.randn(len(theta), self.nodes, generator=generator), []
        small = self.step / self.fine
        for k in range((STEPS + 50) * self.fine):
            if k >= 50 * self.fine and k % self.fine == 0:
                found.append(x + NOISE * torch.randn(x.shape, generator=generator))
            drift = (x.roll(-1, 1) - x.roll(2, 1)) * x.roll(1, 1) - x + 8
            x = x + small * drift + 0.5 * small**0.5 * torch.randn(x.shape, generator=generator)
        seen = torch.stack(found, 1)
        return {"x": seen, "x_mask": torch.ones(seen.shape, dtype=torch.bool)}
