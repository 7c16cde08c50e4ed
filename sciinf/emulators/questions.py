r"""Questions to a law of fields: what solutions are like that fit what was seen, and how probable that is.

A `Generator` is asked about one start and one theta. What was seen is a function of frames (n, time, channel, *space):

| seen | how | which generators |
|---|---|---|
| `Measured`: numbers with Gaussian noise | twisted particles (`networks.diffusion.particles`) | `AtOnce()` with
`Joint()` |
| `Event`: a number above a level | splitting (`networks.diffusion.splitting`) | all whose draws are a function of noise
|

The answer has fields with weights, and the probability of what was seen: of measurements it is the likelihood of theta,
of an event its chance, however rare. Both are the generator's, so as right as its law is there: an event far out in the
tail asks for more than held-out solutions show, and what a `draw` is widened by is not in them.

A twist of particles for an event guesses how probable it is at each noise level from one slope. Of an event that any of
sixty frames can bring about, that was too little by a factor of e^2 to e^4, and nothing showed it; splitting has no
guesses. So an event is not asked about beside measurements: a generator that has learned `Sensors` is asked about the
event alone, given what these see.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import X
from sciinf.emulators.conditions import WORDS
from sciinf.emulators.generator import Generator
from sciinf.networks.diffusion.events import Event
from sciinf.networks.diffusion.particles import Twist, WeightedParticles, particles
from sciinf.networks.diffusion.product import Product
from sciinf.networks.diffusion.splitting import Draw, split

MISSING = 0.36  # of the variance of solutions, in waves of a frame; a spread-skill ratio of 0.8


@torch.no_grad()
def conditioned(
    law: Generator,
    theta: Float[Tensor, "1 theta"],
    given: X,
    seen: Twist,
    n: int = 1_000,
    *,
    generator: torch.Generator,
    steps: int = 200,
) -> WeightedParticles:
    """Solutions that fit what was seen.

    Args:
        law: A generator that the question can be put to.
        theta: Parameters, (1, D), in the prior's order and units.
        given: Name -> (1, channel, *space) of what solutions start from.
        seen: A function of the frames that are drawn, which leave out the one that is given.
        n: How many particles.
        generator: For noise.
        steps: From noise to fields, of particles; events need none.

    Returns:
        Particles whose x are frames, (n, time, channel, *space).

    Raises:
        TypeError: If what is asked is no generator, or what was seen neither measurements nor an event.
        ValueError: If the generator's law is another, there is more than one start, an event is asked about beside
            measurements, or nothing is left that could have been seen.

    Warns:
        UserWarning: If too few particles were left at a step, an event's probability could not be told, or held-out
            rows have shown that the law's draws are too alike: the answer is no posterior then.
    """
    if not isinstance(law, Generator):
        raise TypeError(f"a trained Generator is asked, got {type(law).__name__}: of a fit give fit.surrogate")
    if not isinstance(seen, Twist):
        raise TypeError(f"what was seen is a Measured, an Event or a Product(one, other), got {seen!r}")
    known = law.conditions.rows(given, slice(None))
    for name, rows in (("theta", theta), *known.items()):
        if len(rows) != 1:
            raise ValueError(f"one start is asked about at a time, and {name!r} has {len(rows)} rows")
    if isinstance(seen, Product) and any(isinstance(one, Event) for one in seen.parts):
        raise ValueError(
            "an Event beside measurements would come out far too improbable: let the generator learn Sensors(), give "
            "it what they see, and ask for the Event alone"
        )
    if (lacks := float(law.missing.max())) > MISSING:
        warnings.warn(
            f"{lacks:.0%} of the variance of solutions is missing in this generator's draws, in the waves and frame "
            "where most is: what it says of them is too sure, and no posterior. Train it longer, or on more solutions",
            stacklevel=2,
        )
    if isinstance(seen, Event):
        numbers = law.noise + (len(law.prior) if WORDS in known else 0)
        return split(_drawn_by(law, theta, known), seen, n, law.given_mean.new_empty(numbers), generator=generator)
    denoise, fields, schedule = law.asked(theta, given)
    like = law.target_mean.new_empty(law.block * law.code.width * len(law.code.places))
    found = particles(denoise, seen.through(fields), n, like, schedule, generator=generator, steps=steps)
    return replace(found, x=fields(found.x))


def _drawn_by(law: Generator, theta: Float[Tensor, "1 theta"], known: X) -> Draw:
    """Draws as a function of noise; where captions leave parameters open, the first numbers tell these."""
    rest = {name: value for name, value in known.items() if name != WORDS}
    said = law.reader.heard(known[WORDS])[0] if law.reader is not None and WORDS in known else None

    def draw(noise: Tensor) -> Tensor:
        here = {name: value.expand(len(noise), *value.shape[1:]) for name, value in rest.items()}
        at = theta.expand(len(noise), -1)
        if law.reader is not None and said is not None:
            even = torch.special.ndtr(noise[:, : len(law.prior)].double()).clamp(0, 1 - 1e-12)
            at = law.reader.within(said, even.cpu()).to(at)
            noise = noise[:, len(law.prior) :]
        return law.from_noise(noise, at, here)

    return draw
