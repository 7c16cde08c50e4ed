r"""The likelihood of independent items, as an exponential family whose statistics are learned.

The items y_1..y_N of an observation are the trials of a person, the galaxies of a catalogue, or the patients of a
trial. If they are independent given theta, and q is the distribution of all items in the training rows, then

    p(y_1..y_N | theta) = p(N | theta) prod_i q(y_i) exp(a(z) . phi(y_i) - A(z)),
    A(z) = log E_q[exp(a(z) . phi(y))], estimated by log mean_{m <= M} exp(a(z) . phi(b_m)),

with z the standardised parameters. The statistics phi and the natural parameters a are networks; a quadratic in z is
added to the latter. The bank b_1..b_M holds items of the training rows, drawn once. q is not needed, because it does
not depend on theta.

**Why the bank stays the same.** A training on N items per row makes the mean over rows of

    d/dz [a(z) . sum_i phi(y_i) - N A(z)] = a'(z) . (sum_i phi(y_i) - N E_bank[phi | z])

zero, whatever the bank is: `a` makes up for the items that a bank has by chance. An answer with the same bank then has
the right location. If each step and each answer drew a new bank, the logarithm of a noisy mean would be too small, by
an amount that depends on z and is multiplied by N.

A network of all items has to learn how each item counts. Here each row teaches the same distribution N times. The price
is the assumption that items are independent. Observables with the same number of items are columns of one table, whose
row is an item. Tables are independent of each other, and each has networks of its own.

**After the training** the quadratic's coefficients W are set by Newton's method, because they are the last to converge,
and errors of the bank count in them. For given phi and network the log likelihood is concave in W. With
g = (1, z, z z'), and expectations under the bank's weights exp(a(z) . phi(b_m)),

    gradient = sum_rows (sum_i phi(y_i) - N E[phi | z]) g',
    Hessian  = -sum_rows N Cov[phi | z] (x) g g'.

The training uses a part of the bank; Newton's method and answers use all of it. At a training step a row's sum is
estimated from at most 32 of its items, without bias, and each row adds the items of the other rows to its bank. Without
these, an item beyond all items of the bank would let the likelihood grow without a limit. A row's own items are no
sample of q, and would bias A(z).

**The number of items** varies if there is a mask. N is then a negative binomial number, of a mean whose logarithm is
quadratic in z, and of a log spread that is linear. It is fitted before the training. An item is present if any part of
it is. The mask itself is an input of phi, because parts of an item may be missing.

Shapes: theta, z (batch, D); items (batch, N, width); a, phi (..., statistics).

References:
    | Score matched neural exponential families for likelihood-free inference (Pacchiardi & Dutta, 2022),
      https://arxiv.org/abs/2012.10903: statistics and natural parameters as networks
    | On the convergence of Monte Carlo maximum likelihood calculations (Geyer, 1994): A(z) from one sample of q
    | Deep Sets (Zaheer et al., 2017), https://arxiv.org/abs/1703.06114
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from sciinf.campaigns.block import generator_for
from sciinf.core import Adjusting, Batch, Observable, Potential, Prior, X
from sciinf.core.checks import check_whole
from sciinf.core.observable import event_of
from sciinf.core.prior import global_seed
from sciinf.core.summary import expand_mask
from sciinf.networks.summaries.perceptron import Perceptron
from sciinf.training.estimators._elements_start import quadratic
from sciinf.training.estimators._standardised import Standardised, check_rows
from sciinf.training.estimators.elements import counted

ITEM = "item"
STATISTICS, BANK = 24, 8_192
_SOME = 2_048  # The training uses so many items of the bank.
_TOGETHER = 256  # At most so many rows add their items to each other's banks.
_TAKEN = 32  # At a training step, at most this many items of each row are used.
_SEARCHED = 100  # Steps of the search for the distribution of the number of items.
_LEAST_SPREAD = 0.02  # Least spread at the start of the number of items beyond a Poisson number's, in means.
_STEPS, _ENOUGH = 6, 1e-3  # Newton's method ends after so many steps, or at a gain of so many nats for each row.
_ROWS, _CURVED = 10_000, 500  # It uses at most this many rows, and for the Hessian this many.
_RIDGE = 1e-6  # Ridge of the Hessian, in means of its diagonal.
_PIECE = 4_194_304  # Weights of the bank that are computed at once, on a CPU.
# Index of a random stream. It exceeds the number of blocks of any campaign,
# so no block has the same random numbers.
_STREAM = 2**31 + 9


class Items(Standardised, Adjusting):
    """The likelihood p(x | theta) of independent items. `posteriors.mcmc` samples its posterior.

    Args:
        prior: Prior of the parameters.
        observables: Observables of the simulator, with or without masks.
        statistics: Number of statistics of an item.
        hidden: Width of the networks.
        bank: Number M of items from which the normalisation is computed.
        seed: Seeds the initial weights and the bank.

    Raises:
        ValueError: If the first axis of an observable is not called "item", an observable is a control, or a number is
            no int of at least 1 (the seed: of at least 0).

    Examples:
        >>> from sciinf import Normal
        >>> likelihood = Items(Prior(mu=Normal(0.0, 1.0)), {"x": Observable((300,), dims=("item",))})
        >>> likelihood.condition({"x": torch.zeros(2, 300)}).log_likelihood(torch.zeros(5, 2, 1)).shape
        torch.Size([5, 2])
    """

    normalised = False
    on_training_rows = True
    sets: Sequence[_Set]

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        statistics: int = STATISTICS,
        hidden: int = 64,
        bank: int = BANK,
        seed: int = 0,
    ) -> None:
        for name, value in {"statistics": statistics, "hidden": hidden, "bank": bank}.items():
            check_whole(name, value, 1)
        if not are_items(observables):
            raise ValueError(
                f"Items learns observables whose first axis is called {ITEM!r}, without controls, got "
                f"{event_of(observables)}; use Ratio or Flow, whose summary networks read any data"
            )
        super().__init__(prior, observables, seed)
        self.seed, size, own = seed, prior.bijection.size, self.standardise_x.specs
        counts = dict.fromkeys(spec.shape[0] for spec in own.values())
        self.columns = [[name for name, spec in own.items() if spec.shape[0] == n] for n in counts]
        with global_seed(torch.Generator().manual_seed(seed)):
            sets = list[_Set]()
            for names in self.columns:
                masked = not self.standardise_x.masks.keys().isdisjoint(names)
                sets.append(_Set([own[name] for name in names], masked, size, hidden, statistics))
        self.sets = cast(Any, nn.ModuleList(sets))
        for k, one in enumerate(self.sets):
            self.register_buffer(f"bank_{k}", torch.zeros(bank, one.width))

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Set the standardisation, draw the banks from all items, and fit the numbers of items."""
        self.standardise_both(batches)
        generator = generator_for(self.seed, _STREAM)
        for k, one in enumerate(self.sets):
            bank = self.get_buffer(f"bank_{k}")
            found, keys, numbers, z = bank[:0].cpu(), torch.empty(0), list[Tensor](), list[Tensor]()
            for batch in batches():
                items, present = self._items(k, {name: value.cpu() for name, value in batch.x.items()})
                found = torch.cat([found, items[present].cpu()])
                keys = torch.cat([keys, torch.rand(len(found) - len(keys), generator=generator)])
                keys, kept = keys.topk(min(len(bank), len(keys)))
                found = found[kept]
                numbers.append(present.sum(1))
                z.append(self.to_z(batch.theta).cpu())
            if len(found):
                bank.copy_(found[torch.arange(len(bank)) % len(found)])
            one.start(torch.cat(z), torch.cat(numbers))

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        """The items' mean statistics, and the logarithm of one more than their number."""
        parts = list[Tensor]()
        for k in range(len(self.sets)):
            total, number = self._total(k, x)
            parts += [total / number.clamp_min(1.0)[:, None], number.log1p()[:, None]]
        return torch.cat(parts, 1)

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """-log p(x | theta) + log q(x), from some of the items."""
        if len(batch) > _TOGETHER:
            parts = [slice(start, start + _TOGETHER) for start in range(0, len(batch), _TOGETHER)]
            return torch.cat([self.loss(batch.rows(part), generator=generator) for part in parts])
        z, lost = self.to_z(batch.theta), torch.zeros(len(batch), device=self.z_mean.device)
        for k, one in enumerate(self.sets):
            items, present = self._items(k, batch.x)
            number = present.sum(1).to(items.dtype)
            if items.shape[1] > _TAKEN:
                keys = torch.rand(present.shape, generator=generator, device=generator.device).to(present.device)
                taken = torch.where(present, keys, -1.0).topk(_TAKEN, dim=1).indices
                present = present.gather(1, taken)
                items = items.gather(1, taken[..., None].expand(-1, -1, items.shape[-1]))
            phi = one.phi(items)
            total, some = summed(phi, present)
            total = total * (number / some.clamp_min(1.0))[:, None]
            bank = one.phi(self.get_buffer(f"bank_{k}")[:_SOME])
            lost = lost - one.log_likelihood(z, total, number, bank, others=(phi, present))
        return lost

    @torch.no_grad()
    def adjust(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        """Set the quadratics by Newton's method on the training rows.

        Returns:
            `newton_gain`, the increase of the log likelihood per row, in nats.
        """
        gained = 0.0
        for k, one in enumerate(self.sets):
            found = list[tuple[Tensor, Tensor, Tensor]]()
            for batch in batches():
                z = self.to_z(batch.theta)
                found.append((z, *self._total(k, batch.x)))
            z, total, number = (torch.cat(part) for part in zip(*found, strict=True))
            step = math.ceil(len(z) / _ROWS)
            bank = one.phi(self.get_buffer(f"bank_{k}"))
            gained += one.newton(z[::step], total[::step], number[::step], bank)
        return {"newton_gain": gained}

    def condition(self, x: X) -> Potential:
        with torch.no_grad():
            x = {name: value.to(self.z_mean.device) for name, value in x.items()}
            observed = [self._total(k, x) for k in range(len(self.sets))]
            banks = [one.phi(self.get_buffer(f"bank_{k}")) for k, one in enumerate(self.sets)]
        return _ItemsPotential(self, observed, banks)

    def _total(self, k: int, x: X) -> tuple[Float[Tensor, "batch statistics"], Float[Tensor, " batch"]]:
        """Sum of the statistics of the items of one table, and the number of items."""
        items, present = self._items(k, x)
        return summed(self.sets[k].phi(items), present)

    def _items(self, k: int, x: X) -> tuple[Float[Tensor, "batch n width"], Bool[Tensor, "batch n"]]:
        """The standardised items of one table, with their masks behind them, and which items are present."""
        values, names = self.standardise_x(x), self.columns[k]
        masks = self.standardise_x.masks
        items = torch.cat([_by_item(values[name]) for name in names], -1)
        if masks.keys().isdisjoint(names):
            return items, torch.ones_like(items[..., 0], dtype=torch.bool)
        known = [
            expand_mask(x[masks[name]], values[name].shape) if name in masks else torch.ones_like(values[name]).bool()
            for name in names
        ]
        mask = torch.cat([_by_item(one) for one in known], -1)
        return torch.cat([items, mask.to(items.dtype)], -1), mask.any(-1)


class _Set(nn.Module):
    """The distribution of the items of one table, and of their number if it varies."""

    log_mean: Tensor | None
    log_spread: Tensor | None

    def __init__(self, specs: list[Observable], masked: bool, size: int, hidden: int, statistics: int) -> None:
        super().__init__()
        self.width = sum(math.prod(spec.shape[1:]) for spec in specs) * (1 + masked)
        self.phi = Perceptron([self.width, hidden, hidden, statistics])
        self.network = Perceptron([size, hidden, statistics])
        square = 1 + size + size * (size + 1) // 2
        self.quadratic = nn.Linear(square, statistics, bias=False)
        nn.init.normal_(self.quadratic.weight, 0.0, 0.1)
        self.register_buffer("log_mean", torch.zeros(square) if masked else None)
        self.register_buffer("log_spread", torch.zeros(1 + size) if masked else None)

    def start(self, z: Float[Tensor, "rows theta"], numbers: Int[Tensor, " rows"]) -> None:
        """Fit the distribution of the number of items. The search begins at least squares of its logarithm."""
        if self.log_mean is None or self.log_spread is None:
            return
        square, log = pad(quadratic(z), (1, 0), value=1.0).double(), (numbers + 0.5).double().log()
        spread = pad(z, (1, 0), value=1.0).double()
        log_mean = torch.linalg.lstsq(square, log[:, None]).solution[:, 0]
        variance = (log - square @ log_mean).square().mean() - (1 / (numbers + 0.5)).mean()
        log_spread = torch.zeros(spread.shape[1], dtype=torch.float64)
        log_spread[0] = 0.5 * math.log(max(float(variance), _LEAST_SPREAD**2))
        both = [log_mean.requires_grad_(), log_spread.requires_grad_()]
        search = torch.optim.LBFGS(both, max_iter=_SEARCHED, line_search_fn="strong_wolfe")

        def lost() -> Tensor:
            search.zero_grad()
            found = -counted(log, square @ log_mean, spread @ log_spread).mean()
            found.backward()
            return found

        with torch.enable_grad():
            search.step(lost)
        self.log_mean.copy_(log_mean.detach())
        self.log_spread.copy_(log_spread.detach())

    def log_likelihood(
        self,
        z: Float[Tensor, "batch theta"],
        total: Float[Tensor, "batch statistics"],
        number: Float[Tensor, " batch"],
        bank: Float[Tensor, "m statistics"],
        others: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, " batch"]:
        """log p(items | z) - log q(items), from the sum of their statistics and the statistics of the bank.

        Args:
            z: Parameters.
            total: Sum of the statistics of each row's items.
            number: Number of items.
            bank: Statistics of the bank.
            others: Statistics of items (batch, n, statistics), and which of them are present. Each row adds those of
                the other rows to its bank.
        """
        natural = self.natural(z)
        logits, count = natural @ bank.T, torch.full_like(number, len(bank))
        if others is not None:
            phi, present = others
            known = present[None] & ~torch.eye(len(z), dtype=torch.bool, device=z.device)[..., None]
            more = torch.where(known, torch.einsum("bk,cik->bci", natural, phi), -math.inf)
            logits, count = torch.cat([logits, more.flatten(1)], 1), count + known.sum((1, 2))
        found = (natural * total).sum(1) - number * (logits.logsumexp(1) - count.log())
        if self.log_mean is None or self.log_spread is None:
            return found
        log_mean, log_spread = (
            pad(quadratic(z), (1, 0), value=1.0) @ self.log_mean,
            pad(z, (1, 0), value=1.0) @ self.log_spread,
        )
        return found + counted((number + 0.5).log(), log_mean, log_spread)

    def natural(self, z: Float[Tensor, "batch theta"]) -> Float[Tensor, "batch statistics"]:
        """The natural parameters a(z)."""
        return self.network(z) + self.quadratic(pad(quadratic(z), (1, 0), value=1.0))

    def newton(self, z: Tensor, total: Tensor, number: Tensor, bank: Tensor) -> float:
        """Maximise the log likelihood of rows over the quadratic's coefficients.

        Returns:
            Increase of the log likelihood per row, in nats.
        """
        rows = [part.split(max(1, _PIECE // len(bank))) for part in (z, total, number)]

        def mean() -> float:
            parts = [self.log_likelihood(*row, bank=bank).double().sum() for row in zip(*rows, strict=True)]
            return float(torch.stack(parts).sum()) / len(z)

        first = before = mean()
        for _ in range(_STEPS):
            step, start = self._newton_step(rows, bank), self.quadratic.weight.clone()
            for _ in range(_STEPS):
                self.quadratic.weight.copy_(start + step)
                if (now := mean()) > before:
                    break
                step = step / 2
            else:
                self.quadratic.weight.copy_(start)
                break
            if now - before < _ENOUGH:
                break
            before = now
        return mean() - first

    def _newton_step(self, rows: list[tuple[Tensor, ...]], bank: Tensor) -> Tensor:
        """The Newton step -Hessian^-1 gradient of the coefficients; the Hessian is estimated from some rows."""
        count, statistics = sum(map(len, rows[0])), bank.shape[1]
        width = statistics * self.quadratic.weight.shape[1]
        gradient = bank.new_zeros(self.quadratic.weight.shape, dtype=torch.float64)
        hessian = bank.new_zeros(width, width, dtype=torch.float64)
        every, used = max(1, count // _CURVED), 0
        for z, total, number in zip(*rows, strict=True):
            square, weights = pad(quadratic(z), (1, 0), value=1.0).double(), (self.natural(z) @ bank.T).softmax(1)
            expected = weights @ bank
            gradient += (total - number[:, None] * expected).double().T @ square
            for k in range(0, len(z), every):
                own = (weights[k, :, None] * bank).T @ bank - expected[k, :, None] * expected[k]
                hessian += torch.kron(number[k] * own.double(), square[k, :, None] * square[k])
                used += 1
        hessian *= count / used
        ridge = _RIDGE * hessian.diagonal().mean().clamp_min(1e-12)
        hessian.diagonal().add_(ridge)
        return torch.linalg.solve(hessian, gradient.flatten()).view_as(gradient).to(bank.dtype)


class _ItemsPotential(Potential):
    """The likelihood of observations, from the sums of their statistics, their numbers of items, and the banks."""

    def __init__(self, estimator: Items, observed: list[tuple[Tensor, Tensor]], banks: list[Tensor]) -> None:
        self.estimator, self.observed, self.banks = estimator, observed, banks

    def log_likelihood(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        """log p(x | theta) - log q(x), float64."""
        model, rows = self.estimator, len(self.observed[0][1])
        check_rows(theta, rows, model.prior)
        z = model.to_z(theta.to(model.z_mean.device)).reshape(-1, rows, model.prior.bijection.size)
        parts = [z.new_empty(0, rows).double()]
        for part in z.split(max(1, _PIECE // (max(1, rows) * max(map(len, self.banks))))):
            some, found = part.flatten(0, 1), z.new_zeros(part.shape[:2].numel()).double()
            for one, (total, number), bank in zip(model.sets, self.observed, self.banks, strict=True):
                again = total.repeat(len(part), 1), number.repeat(len(part))
                found = found + one.log_likelihood(some, *again, bank)
            parts.append(found.view(-1, rows))
        return torch.cat(parts).reshape(theta.shape[:-1])


def summed(
    phi: Float[Tensor, "batch n statistics"], present: Bool[Tensor, "batch n"]
) -> tuple[Float[Tensor, "batch statistics"], Float[Tensor, " batch"]]:
    """Sum of the statistics of the items that are present, and their number."""
    return torch.where(present[..., None], phi, 0.0).sum(1), present.sum(1).to(phi.dtype)


def _by_item(value: Tensor) -> Float[Tensor, "batch n width"]:
    """Values (batch, n, *event) as one row of numbers for each item."""
    return value.reshape(*value.shape[:2], -1)


def are_items(observables: Mapping[str, Observable]) -> bool:
    """Whether the first axis of all observables except masks is called "item", and none of them is a control."""
    masks = {f"{name}_mask" for name in observables}
    return all(spec.dims[:1] == (ITEM,) and not spec.control for name, spec in observables.items() if name not in masks)
