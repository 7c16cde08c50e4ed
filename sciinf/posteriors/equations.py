r"""Which terms an equation has, exactly: the evidence of every set of terms of a library.

Of each state by itself (`simulators.wrappers.term_equations`), the rows divided by their scale are y = A c + sigma e,
with A (row, k) the terms there. With c_j ~ N(0, s_j^2) for the terms j of a set S, none else, and B = A diag(s),

    y | S, sigma ~ N(0, sigma^2 I + B_S B_S^T),

a density that `term_sums` finds for all sets. It is summed over a fine grid of log sigma under its prior, for all 2^k
sets; p(S | y) and p(y) follow. Coefficients given S and sigma are Gaussian. So draws are independent draws of the exact
posterior, but for the grid, whose cells are a quarter of an sd of log sigma at most (at a bound of its prior: as long
as the posterior falls by 0.2 nats), within which sigma is drawn evenly. The prior is of fixed sds (ridge), in
the coefficients' own units: a larger s_j speaks against term j, by about a factor of s_j.

What is *not* exact is said by checks of the draws, where data are paths of three times or more:

- *steps*: the likelihood is Euler's, off by what the rate changes within a step. Coefficients by every second time,
  whose error is about twice as large, are set beside those by all: their distance is the error, in sds.
- *noise of states*: where states are seen with noise, what one step gains the next one loses. The correlation of
  residuals that follow each other is 0 under the model, within 1 / sqrt(n); noise of states makes it negative, terms
  that are missing positive. That of *rates* is looked at in the order of rows, if that is one of time, say.

A linear regression with a normal prior, of every set of terms: what of the data each set explains.

y = B w + N(0, sigma^2), w ~ N(0, I) of the terms that are in. With B = Q R and, of its columns, R = U diag(l)^1/2 V^T,

    log p(y | S, sigma) = -n/2 log(2 pi sigma^2) - 1/2 sum_i log(1 + l_i / sigma^2)
                          - 1/(2 sigma^2) (|y - Q Q^T y|^2 + sum_i c_i^2 sigma^2 / (sigma^2 + l_i)),    c = U^T Q^T y.

Reference:
    | Bayesian Model Averaging for Linear Regression Models (Raftery, Madigan & Hoeting, 1997),
      https://doi.org/10.1080/01621459.1997.10473615

References:
    | Bayesian Model Averaging for Linear Regression Models (Raftery, Madigan & Hoeting, 1997),
      https://doi.org/10.1080/01621459.1997.10473615
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributions as td
from torch.nn import functional

from sciinf.core import Draws, Posterior, X, identity
from sciinf.core.categories import categories_of
from sciinf.core.doubts import doubt
from sciinf.core.laws import from_normal, inside
from sciinf.simulators.wrappers.term_equations import Paths, TermEquations, TermRegression

MOST = 16  # terms
_POINTS, _FINEST = 60, 400  # of the grid
_EDGE = 9.0  # of a standard normal number, beyond which sigma is not
_NATS = 40.0  # below the best, where nothing is
_CELL, _FALL = 0.25, 0.2  # of an sd of log sigma; nats by which it falls within a cell at a bound of its prior
_BIAS, _FAR = 0.5, 1.0  # sds, of caution and of alarm
_SIGMAS = 3.5  # of a correlation: by chance in 5 of 10,000 states, of rates in 9
_ROUNDED = 1e-10  # of y^T y: noise that rounding may hide


class TermSets(NamedTuple):
    """All sets of one state.

    Args:
        sets: (2^k, k), whether each term is in.
        log_sigma: The grid, (m,).
        log_weight: Log posterior of a set and a cell, (2^k, m), normalised.
        log_evidence: log p(y).
        sums: What it was made from.
    """

    sets: Tensor
    log_sigma: Tensor
    log_weight: Tensor
    log_evidence: float
    sums: TermSums


@final
class EquationPosterior(Posterior):
    """The exact posterior of which terms, their coefficients and the noise; nothing is trained.

    Args:
        simulator: What `wrappers.equations` made.

    Raises:
        TypeError: If it is another simulator.
        ValueError: If the library has more than 16 terms.

    Examples:
        >>> from sciinf import HalfNormal, wrappers
        >>> from sciinf.simulators.dynamics.term_library import polynomials
        >>> states = torch.linspace(-1.0, 1.0, 30)[:, None]
        >>> library = polynomials({"x": ""}, 2)
        >>> simulator = wrappers.equations(library, wrappers.Rates(states), sd=1.0, noise={"x": HalfNormal(0.1)})
        >>> data = torch.cat([states, 0.7 * states**2 + 0.05 * (40 * states).cos()], 1)
        >>> posterior = EquationPosterior(simulator)
        >>> round(float(posterior.probabilities({"record": data[None]}, "d(x) has x^2")[0, 1]), 3)
        1.0
    """

    def __init__(self, simulator: TermEquations) -> None:
        if not isinstance(simulator, TermEquations):
            raise TypeError(f"expected what wrappers.equations makes, got {type(simulator).__name__}")
        if len(simulator.library) > MOST:
            raise ValueError(
                f"the library has {len(simulator.library)} terms, and all sets of at most {MOST} are added up; leave "
                "some out, or train Mixed(prior, observables) on simulations"
            )
        self.simulator, self.prior, self.observables = simulator, simulator.prior, simulator.observables
        self.name = f"exact, of all {2 ** len(simulator.library):,} sets of terms"
        self.digest = hashlib.sha256(f"sets of terms {identity(simulator)} {self.prior.to_json()}".encode()).hexdigest()
        self.trained_on = frozenset[str]()
        if isinstance(simulator.record, Paths):
            self.scope = "the likelihood is that of Euler's steps between the times, given the first states"
        else:
            self.scope = "errors of rates are taken as independent, and states as free of errors"

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        """n independent draws, with the evidence, and the probability of each term without an error of drawing.

        Raises:
            ValueError: If the noise of a row is 0, or the data are impossible with every set of terms. Also
                if the data follow an equation to within rounding, so that the noise cannot be inferred.

        Warns:
            UserWarning: If steps are too long for Euler's likelihood or too few to tell, or residuals are correlated.
        """
        tables = self.tables(x)
        theta = self._drawn(tables, n, generator)
        self._doubt(self._doubts(x, tables))
        exact = {name: tuple(p.tolist()) for name, p in self._known(tables).items()}
        evidence = sum(table.log_evidence for table in tables)
        names, units, even = self.prior.names, self.prior.units, torch.zeros(n, dtype=torch.float64)
        return Draws(names, units, theta, even, evidence, 0.0, categories=categories_of(self.prior, exact))

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        each = [self._drawn(self.tables(one), n, generator) for one in _apart(x)]
        return torch.stack(each, 1)

    def log_prob_batched(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        columns = []
        for i, one in enumerate(_apart(x)):
            log_prior = self.prior.log_prob(theta[:, i])
            log_likelihood = self.simulator.log_p(theta[:, i], one)
            evidence = sum(table.log_evidence for table in self.tables(one))
            columns.append(torch.where(log_prior > -math.inf, log_prior + log_likelihood - evidence, -math.inf))
        return torch.stack(columns, 1)

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        """Coefficients with all terms in, in their sds, and the logarithm of what is left over."""
        rows = []
        for one in _apart(x):
            found = []
            for sums in sums_of(self.simulator, self.simulator.regression(one)):
                ridge = sums.gram + 1e-6 * sums.gram.diagonal().mean() * torch.eye(len(sums.gram))
                c = torch.linalg.solve(ridge, sums.along)
                left = (sums.square - c @ sums.along).clamp_min(TINY * sums.square.clamp_min(TINY)) / sums.rows
                found += [c, left.log()[None]]
            rows.append(torch.cat(found))
        return torch.stack(rows).float()

    def probabilities(self, x: X, name: str) -> Float[Tensor, "batch value"]:
        """The probability of each value of a parameter "d(x) has TERM", exactly.

        Raises:
            ValueError: If there is none of that name.
        """
        if name not in self.prior.discrete():
            raise ValueError(f"{name!r} is none of {', '.join(self.prior.discrete())}")
        return self.known(x)[name]

    def known(self, x: X) -> dict[str, Float[Tensor, "batch value"]]:
        """The same of all of them, by name: the sets are added up once for each observation."""
        each = [self._known(self.tables(one)) for one in _apart(x)]
        return {name: torch.stack([one[name] for one in each]) for name in each[0]}

    def inclusion(self, x: X) -> Float[Tensor, "batch state term"]:
        """The probability that each term is in the rate of each state."""
        return torch.stack([torch.stack([_inclusion(t) for t in self.tables(one)]) for one in _apart(x)])

    def tables(self, x: X, every: int = 1) -> list[TermSets]:
        """All sets of each state, for one observation, (1, *event); of paths also as seen at every so many times."""
        regression = self.simulator.regression(x, every)
        if not bool((regression.scale > 0).all()):
            raise ValueError("some rows have no noise, as the term that it grows by is 0 there; leave these rows out")
        laws = [law for law, place in self.prior.places() if place.start >= int(self.simulator.sigma[0])]
        return [
            _table(sums, self.simulator.include, law)
            for sums, law in zip(sums_of(self.simulator, regression), laws, strict=True)
        ]

    def doubts(self, x: X) -> dict[str, tuple[float, float]]:
        """What data say against the likelihood.

        Args:
            x: One observation, (1, *event).

        Returns:
            State -> the largest error of a coefficient by the length of steps, in posterior sds, and the correlation
            of residuals that follow each other (of rates, of rows one or two apart), in its sds; NaN of what there is
            nothing to tell from, as of rates the first, and of paths of two times both.
        """
        return self._doubts(x, self.tables(x))

    def _doubts(self, x: X, tables: list[TermSets]) -> dict[str, tuple[float, float]]:
        record = self.simulator.record
        design, response, scale = self.simulator.regression(x)
        series = record.series if isinstance(record, Paths) else 1
        steps = response.shape[1] // series
        twice = self.tables(x, 2) if isinstance(record, Paths) and steps >= 2 else None
        found = {}
        for i, state in enumerate(self.simulator.library.states):
            c, sd = _best(tables[i], tables[i])
            moved = (_best(twice[i], tables[i])[0] - c).abs() / sd if twice else torch.full((1,), math.nan)
            chosen = _most_probable(tables[i])
            fitted = design[0][:, chosen] @ (c * self.simulator.sd[chosen])
            e = ((response[0, :, i] - fitted) / scale[0, :, i]).view(series, steps)
            far = [lag for lag in (1, 2)[: 1 if isinstance(record, Paths) else 2] if lag < steps]
            follow = [_correlation(e, lag) for lag in far] or [math.nan]
            found[state] = (float(moved.max()) if len(moved) else 0.0, max(follow, key=abs))
        return found

    def _doubt(self, doubts: dict[str, tuple[float, float]]) -> None:
        paths = isinstance(self.simulator.record, Paths)
        for state, (bias, follow) in doubts.items():
            if paths and math.isnan(bias):
                words = f"of two times nothing tells whether steps are too long for the equation of {state}, or states"
                doubt(f"{words} have noise: see three times or more", alarm=False, stacklevel=4)
            if bias > _BIAS:
                words = (
                    f"steps between times are long for the equation of {state}: a coefficient moves by {bias:.1f} sds "
                    "where every second time is left out, so it is off by about that, and probabilities of terms are "
                    "too sure; take shorter steps, or a likelihood that solves the equation"
                )
                doubt(words, alarm=bias > _FAR, stacklevel=4)
            if abs(follow) > _SIGMAS:
                why = "so a term is missing, or the noise has a memory"
                if not paths:
                    why = f"{why}, as that of differences has: probabilities are too sure"
                elif follow < 0:
                    why = "as noise of the states makes them, and a decay: model it (wrappers.state_space)"
                words = f"residuals of {state} that follow each other are correlated, by {follow:.1f} sds: {why}"
                doubt(words, alarm=paths, stacklevel=4)

    def _known(self, tables: list[TermSets]) -> dict[str, Tensor]:
        names = self.prior.names
        found = {}
        for table, row in zip(tables, self.simulator.has, strict=True):
            for p, column in zip(_inclusion(table), row, strict=True):
                found[names[int(column)]] = torch.stack([1 - p, p])
        return found

    def _drawn(self, tables: list[TermSets], n: int, generator: torch.Generator) -> Tensor:
        simulator = self.simulator
        theta = torch.full((n, len(self.prior)), torch.nan, dtype=torch.float64)
        for i, table in enumerate(tables):
            sets, log_sigma = _sets_drawn(table, n, generator)
            sigma = log_sigma.exp()
            w = coefficients(table.sums, sets, sigma, generator)
            theta[:, simulator.has[i]] = sets.double()
            theta[:, simulator.coefficient[i]] = torch.where(sets, w * simulator.sd, torch.nan)
            theta[:, simulator.sigma[i]] = sigma
        return theta.to(self.prior.dtype)


def _table(sums: TermSums, include: Tensor, law: td.Distribution) -> TermSets:
    """Every set, on a grid of log sigma that is refined to where the posterior is."""
    k = len(include)
    sets = (torch.arange(2**k)[:, None] >> torch.arange(k)) & 1 == 1
    eigen, squares = spectra(sums, sets)
    log_prior = torch.where(sets, include.log(), (1 - include).log()).sum(-1)
    low, high = from_normal(law, torch.tensor([-_EDGE, _EDGE])).clamp(1e-150, 1e150).log().tolist()
    count, cell = _POINTS, _CELL / math.sqrt(2 * sums.rows)
    while True:
        grid = torch.linspace(low, high, count, dtype=torch.float64)
        density = law.log_prob(inside(law, grid.exp())) + grid
        joint = (log_evidence(sums, eigen, squares, grid) + log_prior[:, None] + density).nan_to_num(nan=-math.inf)
        best, step = joint.amax(0), float(grid[1] - grid[0])
        if not float(best.max()) > -math.inf:
            raise ValueError("no set of terms can make these data with any noise that the prior has")
        near, top = (best > best.max() - _NATS).nonzero().flatten(), int(best.argmax())
        if top in (0, count - 1):  # sigma leans on a bound of its prior, and its posterior falls as an exponential
            cell = min(cell, step * _FALL / max(_FALL, float(best[top] - best[1 if top == 0 else count - 2])))
        if step <= 1.001 * cell or (count == _FINEST and len(near) > _FINEST // 4):
            break
        low, high = max(low, float(grid[near[0]]) - step), min(high, float(grid[near[-1]]) + step)
        count = min(_FINEST, max(_POINTS, math.ceil((high - low) / cell) + 1))
    joint[:, [0, -1]] -= math.log(2)  # half a cell lies within the grid
    joint = joint + math.log(step)
    total = joint.flatten().logsumexp(0)
    variance, most = math.exp(2 * float(grid[top])), int(joint[:, top].argmax())
    left = float(sums.rest + (squares[most] * variance / (variance + eigen[most])).sum())
    if max(variance * sums.rows, left) < _ROUNDED * float(sums.square):
        raise ValueError(
            "the data follow an equation of these terms to within rounding, so that nothing tells how large the noise "
            "is; give a law of the noise with a lower bound, such as LogUniform"
        )
    return TermSets(sets, grid, joint - total, float(total - sums.log_scale), sums)


def _inclusion(table: TermSets) -> Float[Tensor, " term"]:
    return (table.log_weight.logsumexp(1).exp() @ table.sets.double()).clamp(0.0, 1.0)


def _most_probable(table: TermSets) -> Tensor:
    """The most probable set, (k,)."""
    return table.sets[int(table.log_weight.logsumexp(1).argmax())]


def _best(table: TermSets, like: TermSets) -> tuple[Tensor, Tensor]:
    """Mean and sd of coefficients, over their prior sds, of the most probable set of another table."""
    chosen = _most_probable(like)
    if not bool(chosen.any()):
        return torch.zeros(0).double(), torch.zeros(0).double()
    weight = table.log_weight.logsumexp(0).softmax(0)
    variance = float((weight * (2 * table.log_sigma).exp()).sum())
    gram = table.sums.gram[chosen][:, chosen] / variance + torch.eye(int(chosen.sum()), dtype=torch.float64)
    size = gram.diagonal().sqrt()
    covariance = torch.linalg.inv(gram / size / size[:, None]) / size / size[:, None]
    return covariance @ table.sums.along[chosen] / variance, covariance.diagonal().sqrt()


def _sets_drawn(table: TermSets, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sets (n, k), and log sigma evenly within its cell (n,)."""
    cells = table.log_sigma
    below = table.log_weight.flatten().exp().cumsum(0)
    u = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    at = torch.searchsorted(below, u[:, 0].contiguous() * below[-1]).clamp_max(len(below) - 1)
    cell, off = at % len(cells), u[:, 1] - 0.5
    off = torch.where((cell == 0) & (off < 0) | (cell == len(cells) - 1) & (off > 0), -off, off)
    return table.sets[at // len(cells)], cells[cell] + off * (cells[1] - cells[0])


def _correlation(e: Float[Tensor, "series step"], lag: int) -> float:
    """Of residuals so many rows apart, in its sds."""
    product = e[:, lag:] * e[:, :-lag]
    return float(product.sum() / e.square().mean().clamp_min(1e-300)) / math.sqrt(product.numel())


def _apart(x: X) -> list[dict[str, Tensor]]:
    """Observations one by one, each with a batch of one."""
    return [{name: value[i : i + 1] for name, value in x.items()} for i in range(len(next(iter(x.values()))))]


AT_ONCE = 4096  # sets
TINY = 1e-12  # of y^T y: what rounding leaves of it


class TermSums(NamedTuple):
    """What a state's regression comes to.

    Args:
        gram: B^T B, (k, k).
        along: B^T y, (k,).
        root: R of B = Q R, (k, k).
        seen: Q^T y, (k,).
        rest: |y - Q Q^T y|^2, what no set can explain.
        square: y^T y.
        log_scale: Sum of the logarithms of scales.
        rows: n.
    """

    gram: Tensor
    along: Tensor
    root: Tensor
    seen: Tensor
    rest: Tensor
    square: Tensor
    log_scale: Tensor
    rows: int


def sums_of(simulator: TermEquations, regression: TermRegression) -> list[TermSums]:
    """Of each state, of one observation."""
    design, response, scale = (part[0] for part in regression)
    found = []
    for i in range(response.shape[-1]):
        b, y = design / scale[:, i : i + 1] * simulator.sd, response[:, i] / scale[:, i]
        if not bool(b.isfinite().all() & y.isfinite().all()):
            raise ValueError("the data, or a term of the library at these states, are not finite")
        q, root = torch.linalg.qr(b)
        seen, short = q.T @ y, (0, b.shape[1] - len(root))
        rest = (y - q @ seen).square().sum()
        root, seen = functional.pad(root, (0, 0, *short)), functional.pad(seen, short)
        found.append(TermSums(b.T @ b, b.T @ y, root, seen, rest, y @ y, scale[:, i].log().sum(), len(y)))
    return found


def spectra(sums: TermSums, sets: Tensor) -> tuple[Tensor, Tensor]:
    """l_i of every set, and of the data along their directions c_i^2, (2^k, k); l_i is 0 of terms that are out.

    By singular values of R, not by eigenvalues of R^T R: where terms differ by many decades, these lose the small ones.
    """
    values, along = [], []
    for some in sets.split(AT_ONCE):
        left, found, _ = torch.linalg.svd(sums.root * some[:, None, :])
        values.append(found.square())
        along.append((left.mT @ sums.seen).square())
    return torch.cat(values), torch.cat(along)


def log_evidence(sums: TermSums, eigen: Tensor, squares: Tensor, log_sigma: Tensor) -> Tensor:
    """log p(y | S, sigma), (2^k, m), but for the scales."""
    found = []
    for value in log_sigma.tolist():
        variance = math.exp(2 * value)
        left = (sums.rest + (squares * variance / (variance + eigen)).sum(-1)).clamp_min(TINY * float(sums.square))
        found.append(
            -0.5 * sums.rows * (math.log(2 * math.pi) + 2 * value)
            - 0.5 * (eigen / variance).log1p().sum(-1)
            - 0.5 * left / variance
        )
    return torch.stack(found, 1)


def coefficients(sums: TermSums, sets: Tensor, sigma: Tensor, generator: torch.Generator) -> Float[Tensor, "n term"]:
    """Coefficients over their prior sds, given sets and sigma; those of terms that are out mean nothing."""
    k, found = sets.shape[1], []
    noise = torch.randn(sets.shape, generator=generator, dtype=torch.float64)
    for some, s, e in zip(sets.split(AT_ONCE), sigma.split(AT_ONCE), noise.split(AT_ONCE), strict=True):
        inside = some[:, :, None] & some[:, None, :]
        precision = sums.gram * inside / s.square()[:, None, None] + torch.eye(k, dtype=torch.float64)
        size = precision.diagonal(dim1=1, dim2=2).sqrt()  # terms may differ by many decades
        root = torch.linalg.cholesky(precision / size[:, None] / size[:, :, None])
        along = sums.along * some / s.square()[:, None] / size
        mean = torch.cholesky_solve(along[..., None], root)[..., 0]
        found.append((mean + torch.linalg.solve_triangular(root.mT, e[..., None], upper=True)[..., 0]) / size)
    return torch.cat(found)
