"""Smooth marginal densities of weighted draws, for figures."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_CELLS_1D = 256
_CELLS_2D = 64
_FEWEST = 8.0  # An island with fewer effective draws than this is a speck.


def limits(values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Range that holds all but a thousandth of the weight, with a little room; its width is never zero.

    Where draws pile up at an edge, as at a bound of the prior, the range ends there.
    """
    order = np.argsort(values)
    ordered, mass = values[order], np.cumsum(weights[order]) / weights.sum()
    low, high = (float(ordered[min(np.searchsorted(mass, q), len(ordered) - 1)]) for q in (5e-4, 1 - 5e-4))
    if not high > low:
        room = 0.5 * abs(low) or 0.5
        return low - room, high + room
    room = 0.03 * (high - low)
    heavy = ordered[weights[order] > 0]
    return max(low - room, float(heavy[0])), min(high + room, float(heavy[-1]))


def density_1d(
    values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"], window: tuple[float, float]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Kernel density of one parameter on a grid over the window.

    The kernel is reflected at the ends of the window, so that no mass leaks beyond a bound.

    Args:
        values: Draws of the parameter.
        weights: Weight of each draw, with any sum.
        window: Smallest and largest value drawn.

    Returns:
        Grid and density. The density integrates to the fraction of the weight inside the window.
    """
    from scipy.ndimage import gaussian_filter1d

    weights = weights / weights.sum()
    mass, edges = np.histogram(values, bins=_CELLS_1D, range=window, weights=weights)
    cell = edges[1] - edges[0]
    width = 1.06 * min(_spread(values, weights), window[1] - window[0]) * _ess(weights) ** -0.2
    smooth = gaussian_filter1d(mass, float(np.clip(width / cell, 1.0, 0.12 * _CELLS_1D)), mode="reflect")
    return 0.5 * (edges[1:] + edges[:-1]), smooth / cell


def density_2d(
    pair: Float[np.ndarray, "n two"],
    weights: Float[np.ndarray, " n"],
    windows: tuple[tuple[float, float], tuple[float, float]],
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"], Float[np.ndarray, "m m"]]:
    """Smoothed density of two parameters on a grid: x grid, y grid, mass per cell (y, x), which sums to one."""
    weights = weights / weights.sum()
    mass, x_edges, y_edges = np.histogram2d(pair[:, 0], pair[:, 1], bins=_CELLS_2D, range=windows, weights=weights)
    cells = np.array([x_edges[1] - x_edges[0], y_edges[1] - y_edges[0]])
    centred = (pair - weights @ pair) / cells
    # The kernel has the shape of the draws, so it blurs a narrow ridge along the ridge, not across it.
    covariance = 0.64 * _ess(weights) ** (-1 / 3) * (centred.T * weights) @ centred + 0.6 * np.eye(2)
    smooth = _blur(mass, covariance)
    total = smooth.sum()
    x, y = 0.5 * (x_edges[1:] + x_edges[:-1]), 0.5 * (y_edges[1:] + y_edges[:-1])
    return x, y, (smooth / total if total > 0 else smooth).T


def _blur(mass: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Convolution of a grid with a normal kernel, reflected at the edges; the covariance is in units of cells."""
    from scipy.signal import fftconvolve

    reach = min(int(np.ceil(3 * np.sqrt(covariance.diagonal().max()))), _CELLS_2D)
    offset = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), axis=-1)
    kernel = np.exp(-0.5 * np.einsum("...i,ij,...j->...", offset, np.linalg.inv(covariance), offset))
    smooth = fftconvolve(np.pad(mass, reach, mode="symmetric"), kernel / kernel.sum(), mode="valid")
    return np.maximum(smooth, 0.0)


def thresholds(mass: Float[np.ndarray, "m m"], levels: tuple[float, ...]) -> list[float]:
    """Density at the edge of the highest-density region of each level, increasing; equal edges are merged."""
    ordered = np.sort(mass.ravel())[::-1]
    inside = np.cumsum(ordered)
    edges = {float(ordered[min(np.searchsorted(inside, level), len(ordered) - 1)]) for level in levels}
    return sorted(edge for edge in edges if edge < ordered[0])


def regions(
    pair: Float[np.ndarray, "n two"],
    weights: Float[np.ndarray, " n"],
    windows: tuple[tuple[float, float], tuple[float, float]],
    levels: tuple[float, ...],
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"], Float[np.ndarray, "m m"], dict[float, float]]:
    """Grid and density as from `density_2d` but without specks, and the density at the edge of each level's region.

    Specks are islands with few effective draws. A single draw of large weight makes such an island, which says nothing
    about the posterior.
    """
    from scipy.ndimage import label

    x, y, mass = density_2d(pair, weights, windows)
    edges = {level: edge for level in levels for edge in thresholds(mass, (level,))}
    counted = [
        np.histogram2d(pair[:, 1], pair[:, 0], bins=_CELLS_2D, range=windows[::-1], weights=weights**power)[0]
        for power in (1, 2)
    ]
    for edge in sorted(edges.values(), reverse=True):
        islands, count = label(mass >= edge)
        held, squares = (np.bincount(islands.ravel(), c.ravel(), count + 1)[1:] for c in counted)
        specks = np.flatnonzero(held**2 < _FEWEST * squares) + 1 if count > 1 else []
        mass = np.where(np.isin(islands, specks), np.minimum(mass, 0.999 * edge), mass)
    return x, y, mass, edges


def _ess(weights: np.ndarray) -> float:
    return float(weights.sum() ** 2 / (weights**2).sum())


def _spread(values: np.ndarray, weights: np.ndarray) -> float:
    """Width of the draws: the smaller of their standard deviation and their (interquartile range) / 1.35.

    With this choice, tails and second modes stay sharp.
    """
    order = np.argsort(values)
    mass = np.cumsum(weights[order])
    low, high = (values[order][min(np.searchsorted(mass, q), len(values) - 1)] for q in (0.25, 0.75))
    sd = float(np.sqrt(weights @ (values - weights @ values) ** 2))
    return min(sd, float(high - low) / 1.35) or sd
