"""dynesty's nested sampling, as a peer: the evidence of one model of one data set."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np


def log_evidence(
    function: Callable[[np.ndarray], float],
    transform: Callable[[np.ndarray], np.ndarray],
    size: int,
    *,
    live: int,
    seed: int,
    walks: int = 25,
    rest: float = 0.1,
) -> tuple[float, float]:
    """log Z and its error.

    Args:
        function: Log likelihood of parameters (size,).
        transform: The unit cube to parameters.
        size: How many parameters.
        live: Live points.
        seed: Seeds all.
        walks: Steps of each random walk; 25 is dynesty's own number.
        rest: It ends when no more than this can still be added to log Z.
    """
    import dynesty

    make: Any = dynesty.NestedSampler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        generator = np.random.default_rng(seed)
        sampler = make(function, transform, size, nlive=live, sample="rwalk", walks=walks, rstate=generator)
        sampler.run_nested(print_progress=False, dlogz=rest)
    return float(sampler.results.logz[-1]), float(sampler.results.logzerr[-1])
