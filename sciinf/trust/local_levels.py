r"""How the levels of a posterior depend on the observation: small networks on the counts of a calibration.

With c of L draws below the truth, w in [Phi^-1(c / (L + 1)), Phi^-1((c + 1) / (L + 1))] and

    w = m(x) + s(x) e,   e ~ N(0, 1) to learn m and s, by the probability of the cell that w lies in.

m and s are constants, or functions of the observation, as seen along the leading axes of the network's summary and of
the data itself. Each fifth of the rows is judged by the mean of six networks that have not seen it: begun at the
constants, trained on the other rows, stopped by a fifth of these. All thirty are used, as their mean, for a parameter
where they make rows that they have not seen likelier with a significance of 1e-3 over all parameters. (Means of thirty
err a little less than those of six, so levels come out cautious by some tenths of a point.)

References:
    | Calibrated predictive distributions via diagnostics for conditional coverage (Dey et al., 2022),
      https://arxiv.org/abs/2205.14568
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

_LEAST = 2_000  # rows
_PARTS, _EACH = 5, 6  # parts of the rows, networks for each
_SURE = 1e-3
_HIDDEN, _EDGE = 32, 3.0
_EPOCHS, _PATIENCE, _BATCH, _RATE, _DECAY = 200, 15, 256, 1e-2, 0.3
_FAR = 12.0  # in w, for infinity
_MOST = 1.5  # |log s| and |m| / 2 of a network, at most


def fit_local(
    counts: Int[Tensor, "rows theta"], draws: int, seen: Float[Tensor, "rows feature"], generator: torch.Generator
) -> dict[str, Tensor]:
    """How levels depend on the data, as tensors for a reference; empty where they are not seen to.

    Args:
        counts: Draws below the truth, each in 0..draws.
        draws: Draws per row.
        seen: The data of each row (`Views.coordinates`), in units of their sds.
        generator: Source of randomness.
    """
    rows, size = len(counts) // _PARTS * _PARTS, counts.shape[1]
    if rows < _LEAST or not seen.shape[1]:
        return {}
    part = torch.randperm(len(counts), generator=generator)[:rows].reshape(_PARTS, -1)
    others = torch.stack([torch.cat([p for j, p in enumerate(part) if j != k]) for k in range(_PARTS)])
    mine = others.repeat_interleave(_EACH, dim=0)
    mine = mine.gather(1, torch.rand(mine.shape, generator=generator).argsort(1))
    edges, seen = edges_of(draws), seen.clamp(-_EDGE, _EDGE).float()
    low, high = edges[:-1][counts], edges[1:][counts]
    middle, scale = constants(histogram_of(counts, draws))
    net = _fit(seen, (low.float(), high.float()), (middle, scale.log()), mine, generator)
    left_out = _forward(net, seen[part].repeat_interleave(_EACH, dim=0))
    m, log_s = (v.double().reshape(_PARTS, _EACH, -1, size).mean(1).flatten(0, 1) for v in left_out)
    low, high = low[part.flatten()], high[part.flatten()]
    gain = _cost(middle, scale.log(), low, high) - _cost(m, log_s, low, high)
    sure = -float(torch.special.ndtri(torch.tensor(_SURE / size, dtype=torch.float64)))
    which = (gain.mean(0) / gain.std(0).clamp_min(1e-12) * math.sqrt(rows) > sure).nonzero()[:, 0]
    if not len(which):
        return {}
    m, s = m[:, which], log_s[:, which].exp()
    first, last = (torch.special.ndtr((v[:, which] - m) / s) for v in (low, high))
    within = first + (last - first) * torch.rand(first.shape, generator=generator, dtype=torch.float64)
    residual = torch.special.ndtri(within.clamp(1e-12, 1 - 1e-12)).sort(0).values
    kept = {**{str(i): w for i, w in enumerate(net)}, "which": which, "residual": residual}
    return {name: value.contiguous() for name, value in kept.items()}


def edges_of(draws: int) -> Tensor:
    """Bounds of the L + 1 cells in w, the outermost far out, (L + 2,)."""
    return torch.special.ndtri(torch.linspace(0, 1, draws + 2, dtype=torch.float64)).clamp(-_FAR, _FAR)


def histogram_of(counts: Tensor, draws: int) -> Tensor:
    """How many rows have each count, (L + 1, D), float64; negative ones, of no truth, are left out."""
    return torch.stack([torch.bincount(c[c >= 0], minlength=draws + 1) for c in counts.long().T], dim=1).double()


def _cost(m: Tensor, log_s: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Minus the log probability that m + s e, e ~ N(0, 1), lies in its cell."""
    a, b = (low - m) / log_s.exp(), (high - m) / log_s.exp()
    flip = a + b > 0  # by the lower tail, where differences keep their digits
    a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
    return -(torch.special.ndtr(b) - torch.special.ndtr(a)).clamp_min(1e-30).log()


def constants(histogram: Tensor) -> tuple[Tensor, Tensor]:
    """m and s of each parameter by maximum likelihood from its counts, (D,) each."""
    edges = edges_of(len(histogram) - 1)
    low, high = edges[:-1, None], edges[1:, None]
    share = histogram / histogram.sum(0)
    at = torch.zeros(2, histogram.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([at], max_iter=100, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        optimiser.zero_grad()
        total = (share * _cost(at[0], at[1].clamp(-3, 3), low, high)).sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimiser.step(cost)
    m, log_s = at.detach()
    good = m.isfinite() & log_s.isfinite()
    return torch.where(good, m, 0.0), torch.where(good, log_s.clamp(-3, 3), 0.0).exp()


def predict(local: Mapping[str, Tensor], seen: Tensor) -> tuple[Tensor, Tensor]:
    """m and log s of data (batch, F), by the mean of the networks, (batch, D) each."""
    net = [local[str(i)] for i in range(6)]
    seen = seen.clamp(-_EDGE, _EDGE).float().expand(len(net[0]), -1, -1)
    m, log_s = (v.double().mean(0) for v in _forward(net, seen))
    return m, log_s


def _forward(net: list[Tensor], seen: Tensor) -> tuple[Tensor, Tensor]:
    """m and log s of data (networks, batch, F), (networks, batch, D) each."""
    first, one, second, two, last, three = net
    hidden = torch.baddbmm(two, torch.baddbmm(one, seen, first).tanh(), second).tanh()
    m, log_s = torch.baddbmm(three, hidden, last).chunk(2, dim=-1)
    return m.clamp(-2 * _MOST, 2 * _MOST), log_s.clamp(-_MOST, _MOST)


def _fit(
    seen: Tensor,
    cells: tuple[Tensor, Tensor],
    start: tuple[Tensor, Tensor],
    mine: Int[Tensor, "networks rows"],
    generator: torch.Generator,
) -> list[Tensor]:
    """Networks, begun at constants, trained all at once on four fifths of their rows until the rest is no likelier."""
    (low, high), number, cut = cells, len(mine), mine.shape[1] // 5
    net: list[Tensor] = []
    for width in (seen.shape[1], _HIDDEN):
        drawn = torch.randn(number, width, _HIDDEN, generator=generator) / math.sqrt(width)
        net += [drawn, torch.zeros(number, 1, _HIDDEN)]
    end = torch.cat(start).float()
    net += [torch.zeros(number, _HIDDEN, len(end)), end.repeat(number, 1, 1)]
    matrices, biases = [w.requires_grad_() for w in net[::2]], [w.requires_grad_() for w in net[1::2]]
    groups = [{"params": matrices, "weight_decay": _DECAY}, {"params": biases, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=_RATE)

    def cost(rows: Tensor) -> Tensor:
        return _cost(*_forward(net, seen[rows]), low[rows], high[rows]).sum(-1).mean(-1)

    best, since = torch.full((number,), math.inf), torch.zeros(number)
    kept = [w.detach().clone() for w in net]
    for _ in range(_EPOCHS):
        with torch.no_grad():
            now = cost(mine[:, :cut])
        better = now < best
        best, since = torch.where(better, now, best), torch.where(better, 0, since + 1)
        kept = [torch.where(better[:, None, None], w.detach(), k) for w, k in zip(net, kept, strict=True)]
        if float(since.median()) > _PATIENCE:
            break
        order = cut + torch.randperm(mine.shape[1] - cut, generator=generator)
        for batch in order.split(_BATCH):
            with torch.enable_grad():
                optimiser.zero_grad()
                cost(mine[:, batch]).sum().backward()
            optimiser.step()
    return kept
