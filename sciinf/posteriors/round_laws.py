r"""Distributions that rounds around an answer are simulated from, and the mixture for the rows of several rounds.

A round's distribution of z is normal, k times as wide as the newest answer. A fifth of it is twice as wide again. If
the posterior is normal and the prior flat, the effective share of the draws is (1 - k^-4)^(D / 2). The narrower the
distribution, the less a network has to learn. So k is the least that leaves `_SHARE`, but no less than `_NARROWEST`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sciinf.campaigns.block import generator_for, one_thread
from sciinf.campaigns.store import Store
from sciinf.core import Posterior, Prior, X
from sciinf.core.files import read_json, write_json
from sciinf.posteriors.around import Mixture, law_around
from sciinf.posteriors.truncated import observation_hash

_FARTHER = 0.2  # This share of a round's simulations is from a distribution twice as wide.
_SHARE, _NARROWEST = 0.6, 1.5
_AROUND = 20_000  # A distribution is fitted to this many draws.
# Index of a random stream. It exceeds the number of blocks of any campaign,
# so no block has the same random numbers.
_STREAM = 2**31 + 5


def widths(size: int) -> tuple[tuple[float, float], ...]:
    """Weight and width of each normal part of a round's distribution, for `size` continuous parameters."""
    k = max(_NARROWEST, (1 - _SHARE ** (2 / max(size, 1))) ** -0.25)
    return (1 - _FARTHER, k), (_FARTHER, 2 * k)


def mixed(laws: Sequence[Mixture], stores: Sequence[Store]) -> Mixture:
    """Distribution of the rows of several rounds together."""
    total = sum(len(store) for store in stores)
    parts = [
        (weight * len(store) / total, part)
        for law, store in zip(laws, stores, strict=True)
        for weight, part in law.parts
    ]
    return Mixture(laws[0].prior, parts, laws[0].about)


def law_in(file: Path, posterior: Posterior, x: X) -> Mixture:
    """Distribution that a round is simulated from, kept in a file so that another machine's rounding does not move it.

    Raises:
        ValueError: If the answer does not vary, or is not finite.
    """
    found = kept_law(file, posterior.prior, x)
    if found is not None and found.about.get("answer") == posterior.digest:
        return found
    with one_thread():
        theta = posterior.draw_batched(x, _AROUND, generator=generator_for(0, _STREAM))[:, 0]
        size = len(posterior.prior) - len(posterior.prior.discrete())
        laws = [(weight, law_around(posterior.prior, theta, wider)) for weight, wider in widths(size)]
    parts = [(weight, law) for weight, law in laws if law is not None]
    if len(parts) < len(laws):
        raise ValueError("the answer cannot be refined, for its draws do not vary in every parameter")
    found = Mixture(posterior.prior, parts, {"observation": observation_hash(x), "answer": posterior.digest})
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, found.to_json())
    return found


def kept_law(file: Path, prior: Prior, x: X) -> Mixture | None:
    """The distribution in a file, if it is for this observation; otherwise None."""
    try:
        data: Mapping[str, Any] = read_json(file)
        return Mixture.from_json(prior, data) if data["observation"] == observation_hash(x) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
