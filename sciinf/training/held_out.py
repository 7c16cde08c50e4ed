"""What a network that has been trained does on rows it was not trained on: so that a training that failed says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping

import torch

from sciinf.core import Adjusting, Batch, Density, Estimator, Fit, Learned, PairedDensity, Surrogate, telling
from sciinf.core.surrogate import ALIKE, UNLIKE
from sciinf.networks.spectral import FourierNet

COARSE = 0.1  # error of a surrogate on held-out rows, relative, above which it is hardly a surrogate
ABSURD = 3.0  # sds, that the median draw may be off: of a calibrated posterior, E (draw - truth)^2 <= 2 sd^2, at most 2
_ROWS, _DRAWS, _FEWEST = 64, 8, 16


def looked_at(learned: Learned, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
    """Adjust it to held-out rows where it can be, and try what it is for on a few of them.

    Args:
        learned: Trained, with its best weights.
        batches: Each call is a pass over the held-out rows.

    Returns:
        What the fit's record is to say of it. Of a surrogate `relative_error`, the mean of |u - f| / |u|, or of one
        that draws `spread_skill`, the spread of draws over the error of their mean, and `spread_of_waves`. Of an
        estimator with quick draws `draws_not_finite`, their share, and `draws_off`, the distance of the median draw
        from the truth, in sds of the held-out parameters, of the parameter where it is largest.
    """
    learned.eval()
    told = learned.adjust(batches) if isinstance(learned, Adjusting) else {}
    rows = next(iter(batches()))
    if isinstance(learned, Estimator) and learned.normalised and len(rows) >= _FEWEST:
        told = told | _drawn(learned, rows.rows(slice(0, _ROWS)))
    return told


@torch.no_grad()
def _drawn(estimator: Estimator, rows: Batch) -> dict[str, float]:
    density = estimator.condition(rows.x)
    if not isinstance(density, Density) or isinstance(density, PairedDensity):  # draws of the latter are long chains
        return {}
    found = density.sample(_DRAWS, generator=torch.Generator().manual_seed(0)).cpu()
    bijection = estimator.prior.bijection
    true, drawn = bijection.forward(rows.theta.cpu()).double(), bijection.forward(found).double()
    good = drawn.isfinite().all(-1)
    off = (drawn - true).abs() / true.std(0).clamp_min(1e-12)
    told = {"draws_not_finite": float((~good).double().mean())}
    return told | ({"draws_off": float(off[good].median(0).values.max())} if bool(good.any()) else {})


def tell(fit: Fit) -> None:
    """Say what the record of a new fit has of it.

    Warns:
        UserWarning: If draws are not finite, or far from the truth, or the fields of a surrogate off by more than 10 %,
            or its draws too alike or unlike.
    """
    if isinstance(fit.learned, Surrogate) and "spread_skill" in fit.record:
        _tell_spread(fit.learned, fit.record["spread_skill"])
    elif isinstance(fit.learned, Surrogate) and "residual" in fit.record and "relative_error" not in fit.record:
        left = f"{fit.record['residual']:.2g} of what it left of the equation before training"
        telling.tell(f"{fit.learned.target!r} leaves {left}; no solution was there to say what it is off by")
    elif isinstance(fit.learned, Surrogate) and "bound" in fit.record:
        _tell_bound(fit.learned, fit.record)
    elif isinstance(fit.learned, Surrogate):
        _tell_error(fit.learned, fit.record.get("relative_error", 0.0))
    lost, off = fit.record.get("draws_not_finite", 0.0), fit.record.get("draws_off", 0.0)
    way_out = "look at history.csv, lower the learning rate, or leave settings of the estimator at their defaults"
    if lost > 0:
        warnings.warn(
            f"{lost:.1%} of the draws of {fit!r} are not finite for held-out simulations: {way_out}", stacklevel=3
        )
    if off > ABSURD:
        warnings.warn(
            f"the training of {fit!r} went astray: for held-out simulations the median draw is {off:.3g} standard "
            f"deviations off, and draws of the prior would be 1 off. Do not use it: {way_out}",
            stacklevel=3,
        )


def _tell_bound(surrogate: Surrogate, record: Mapping[str, float]) -> None:
    words = f"{surrogate.target!r} has a log likelihood of at least {record['bound']:.4g} nats a row"
    telling.tell(f"held-out series: {words}")


def _tell_error(surrogate: Surrogate, error: float) -> None:
    telling.tell(f"held-out fields: {surrogate.target!r} is off by {error:.1%}")
    if error > COARSE:
        warnings.warn(
            f"the surrogate's {surrogate.target!r} is off by {error:.0%} for held-out simulations, and posteriors by "
            f"it will be as wide as that makes them. Try more solutions; {_larger(surrogate)}",
            stacklevel=4,
        )


def _larger(surrogate: Surrogate) -> str:
    """What its network could have more of, and options of it that are off."""
    words, space = "a network of more width", surrogate.observables[surrogate.target].shape[2:]
    nets = [part for part in surrogate.modules() if isinstance(part, FourierNet)]
    if any(2 * m < n for net in nets for m, n in zip(net.modes, space, strict=True)):
        words += ", of more modes for fronts and jumps"
    options = {
        "coordinates=True": all(net.coordinates for net in nets),
        "padding=0.1": all(net.padding for net in nets),
    }
    if off := " and ".join(name for name, on in options.items() if not on):
        words += f", with {off} where fields have edges"
    return words


def _tell_spread(surrogate: Surrogate, ratio: float) -> None:
    words = f"spread {ratio:.2f} times as far as their mean is off (1 for the right law)"
    telling.tell(f"held-out fields: draws of {surrogate.target!r} {words}")
    if not ALIKE <= ratio <= UNLIKE:
        kind = "alike, and are widened by what is missing" if ratio < 1 else "unlike"
        warnings.warn(
            f"held-out simulations show that draws of the surrogate's {surrogate.target!r} {words}: they are too "
            f"{kind}. Try more solutions, a longer training, or another law",
            stacklevel=4,
        )
