r"""Features of a series whose law changes at times that nobody knows: how well it falls into 1, 2, ... segments.

Time is cut into G cells, with edges t_0 < ... < t_G. Of all items between two edges a network g tells the score

    L(a, b) = g_0(s_ab) + n_ab (g_1(s_ab) + w r_ab^2),

s_ab the number n_ab of these items and means of theirs, r_ab the mean of asinh(2 item). It is a Gaussian's at first,
and can become the log evidence of one law for all of them. What a series with j changes, wherever they are, then has,
is a sum over all places, by forward recursion,

    A_1(b) = L(0, b),    A_{i+1}(b) = log sum_{a < b} exp(A_i(a) + L(a, b)),    Z_j = A_{j+1}(G),

and with B from the other end, P(the i-th of j changes is at edge c) ~ exp(A_i(c) + B_{j-i+1}(c)). Features are
Z_j - log sum_k exp Z_k for j = 0 ... m, which tell how many changes there are, and what a perceptron makes of these, of
where the changes are, of sums up to there, and of the series itself.

References:
    | Exact and efficient Bayesian inference for multiple changepoint problems (Fearnhead, 2006),
      https://doi.org/10.1007/s11222-006-8450-8
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sciinf.core.simulator import Observable
from sciinf.summaries.perceptron import Perceptron
from sciinf.summaries.summary import Summary, SummaryNetwork, check_positive, find_axis, rows_of

_NEVER = -1e4  # log score of what cannot be
_BEND = 2.0  # what is beyond half a standard deviation counts by its logarithm, so that no item outweighs all others
_MOST = 8.0  # beyond which differences of Z_j count by their logarithms, so that none is too large to learn from


class Segments(Summary):
    """How well a series falls into segments within which its items are alike.

    For change points: what is asked for is how many there are, when, and what is between them. It costs as much as the
    number of cells squared; items within a segment are taken for independent of each other.

    Args:
        changes: Most changes that are looked for, m.
        cells: Between which of as many pieces of time changes are looked for, G; fewer in a shorter series.
        features: Width of what the perceptron makes.
        heads: Networks g side by side.
        hidden: Width of g.
    """

    def __init__(self, changes: int = 3, cells: int = 56, features: int = 64, heads: int = 1, hidden: int = 16) -> None:
        check_positive(changes=changes, cells=cells, features=features, heads=heads, hidden=hidden)
        self.changes, self.cells, self.features, self.heads, self.hidden = changes, cells, features, heads, hidden

    def build(self, spec: Observable, *, masked: bool) -> SummaryNetwork:
        return _Segments(self, spec, masked)


class _Segments(SummaryNetwork):
    edges: Tensor
    starts: Tensor
    stops: Tensor

    def __init__(self, plan: Segments, spec: Observable, masked: bool) -> None:
        super().__init__(spec.shape, masked)
        self.axis, self.plan = find_axis(spec, "time"), plan
        self.length = spec.shape[self.axis]
        width, cells = math.prod(spec.shape) // self.length, min(plan.cells, self.length)
        if self.length < 2:
            raise ValueError(f"a series of {self.length} steps has no segments; use MLP")
        self.cells = cells
        starts, stops = torch.triu_indices(cells + 1, cells + 1, 1)
        for name, value in (
            ("edges", (torch.arange(cells + 1) * self.length / cells).round().long()),
            ("starts", starts),
            ("stops", stops),
        ):
            self.register_buffer(name, value, persistent=False)
        self.score = Perceptron([2 + 6 * width, plan.hidden, 2 * plan.heads])
        with torch.no_grad():
            [*self.score.parameters()][-2].mul_(0.2)  # a Gaussian's at first
        self.gaussian = nn.Parameter(torch.full((width, plan.heads), 0.5 / width))
        self.found = (plan.changes + 1) * plan.heads
        places = plan.changes * (plan.changes + 1) // 2
        told = self.found + places * (cells - 1 + 1 + width) + self.length * width + (cells + 1) * width
        self.head = Perceptron([told, 2 * plan.features, plan.features])
        self.features = self.found + plan.features

    def summarise(
        self, x: Float[Tensor, "batch ..."], mask: Bool[Tensor, "batch ..."]
    ) -> Float[Tensor, "batch feature"]:
        steps, known = rows_of(x, self.axis), rows_of(mask, self.axis).to(x.dtype)
        sums = self._sums(steps, known)
        scores = self._scores(sums)
        forward, backward, total = self._paths(scores)
        less = total.logsumexp(-1, keepdim=True) - total
        found = -(_MOST * torch.log1p(less / _MOST)).flatten(1)
        summed = sums[..., : steps.shape[-1]] / math.sqrt(self.length)
        where = self._where(forward, backward, summed)
        told = torch.cat([found, where, steps.flatten(1), summed.flatten(1)], dim=1)
        return torch.cat([found, self.head(told)], dim=1)

    def _sums(self, steps: Tensor, known: Tensor) -> Float[Tensor, "batch edge sum"]:
        """Sums up to each edge: of items, of items bent and these squared, and of how many there are."""
        bent = torch.asinh(_BEND * steps)
        each = torch.cat([steps, bent, bent.square(), known], dim=-1).cumsum(1)
        return torch.cat([torch.zeros_like(each[:, :1]), each], dim=1).index_select(1, self.edges)

    def _scores(self, sums: Float[Tensor, "batch edge sum"]) -> Float[Tensor, "batch head stop start"]:
        """L, `_NEVER` where a segment does not begin before it ends."""
        between = sums.index_select(1, self.stops) - sums.index_select(1, self.starts)
        *totals, number = between.chunk(4, dim=-1)
        mean, bent, square = (total / number.clamp_min(1) for total in totals)
        n = number.mean(-1, keepdim=True)
        size = [n.clamp_min(1).log() / 2 - 1, n / self.length]
        of_bent = [bent, square, 0.2 * n.sqrt() * bent, bent.square()]
        seen = torch.cat([*size, mean / 4, torch.asinh(_BEND * mean), *of_bent], dim=-1)
        once, each = self.score(seen.flatten(0, 1)).unflatten(0, seen.shape[:2]).chunk(2, dim=-1)
        each = each + bent.square() @ self.gaussian
        found, edges = (once + n * each).transpose(1, 2), self.cells + 1
        empty = found.new_full((*found.shape[:2], edges * edges), _NEVER)
        return empty.index_copy(2, self.stops * edges + self.starts, found).unflatten(2, (edges, edges))

    def _paths(self, scores: Tensor) -> tuple[list[Tensor], list[Tensor], Float[Tensor, "batch head number"]]:
        """A_1 ... A_m and B_1 ... B_m of the first head, each (batch, edge), and Z_0 ... Z_m of every head."""
        ahead, totals, forward = scores[..., 0], [scores[..., -1, 0]], list[Tensor]()
        for _ in range(self.plan.changes):
            forward.append(ahead[:, 0])
            totals.append((ahead + scores[:, :, -1]).logsumexp(-1))
            if len(forward) < self.plan.changes:
                ahead = (ahead[:, :, None] + scores).logsumexp(-1)
        behind, back = scores[:, 0, -1], list[Tensor]()
        turned = scores[:, 0].transpose(1, 2).contiguous()
        for _ in range(self.plan.changes):
            back.append(behind)
            if len(back) < self.plan.changes:
                behind = (behind[:, None] + turned).logsumexp(-1)
        return forward, back, torch.stack(totals, dim=-1)

    def _where(
        self, forward: list[Tensor], backward: list[Tensor], sums: Float[Tensor, "batch edge channel"]
    ) -> Float[Tensor, "batch place"]:
        """Where the i-th of j changes is: probabilities, means, and the mean of sums up to there."""
        found = []
        at = torch.linspace(-1, 1, self.cells + 1, device=sums.device, dtype=sums.dtype)
        for j in range(1, self.plan.changes + 1):
            for i in range(1, j + 1):
                share = (forward[i - 1] + backward[j - i])[:, 1:-1].softmax(-1)
                found += [4 * share, (share @ at[1:-1])[:, None], torch.einsum("be,bec->bc", share, sums[:, 1:-1])]
        return torch.cat(found, dim=1)
