r"""Questions to a distribution of fields: solutions that agree with observations, and the probability of these.

A question to a `Generator` concerns one start and one theta. The observation is a function of frames (n, time, channel,
*space):

| observation | how | which generators |
|---|---|---|
| `Measured`: noisy numbers | twisted particles (`networks.diffusion.particles`) | `AtOnce()` and `JointTokens()` |
| `Event`: above a level | splitting (`networks.diffusion.splitting`) | all whose draws are a function of noise |

The answer has weighted fields and the probability of the observation. For measurements this probability is the
likelihood of theta; for an event it is the event's chance, however rare. Both are properties of the generator, so they
are as accurate as its distribution is in that region. An event far out in the tail depends on more than held-out
solutions show. The noise that widens a `draw` has no part in the answer.

For an event, a twist of particles guesses the probability at each noise level from one gradient. For an event that any
of sixty frames can bring about, that guess was too low by a factor of e^2 to e^4. Nothing in the result showed the
fault. Splitting needs no such guess. So an event cannot be combined with measurements. Instead, a generator that has
learned `SensorReadings` is asked about the event alone, with the sensors' readings as conditioning values.
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

# Largest accepted share of the variance in the waves of a frame that draws lack; it is a spread-skill ratio of 0.8.
MISSING = 0.36


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
    """Draw solutions that agree with an observation, as weighted particles.

    Args:
        law: The trained generator.
        theta: Parameters, (1, D), in the prior's order and units.
        given: Name -> (1, channel, *space) of the fields that solutions start from.
        seen: The observation: a function of the frames that are drawn. The given frame is not among these.
        n: Number of particles.
        generator: Source of the noise.
        steps: Number of steps from noise to fields, for particles; events do not use it.

    Returns:
        Particles whose x are frames, (n, time, channel, *space).

    Raises:
        TypeError: If `law` is no generator, or the observation is neither measurements nor an event.
        ValueError: If the generator's tokens are not drawn as the question needs, or there is more than one start. Also
            if an event is combined with measurements, or no particle is compatible with the observation.

    Warns:
        UserWarning: If too few particles were left at a step, or an event's probability could not be estimated. Also if
            held-out rows have shown that draws of the generator vary too little; the answer is no posterior then.
    """
    if not isinstance(law, Generator):
        raise TypeError(
            f"a trained Generator is needed, got {type(law).__name__}: if you have a fit, give fit.surrogate"
        )
    if not isinstance(seen, Twist):
        raise TypeError(f"the observation is a Measured, an Event or a Product(one, other), got {seen!r}")
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
            "with the worst lack: its answer is too narrow, and no posterior. Train it longer, or on more solutions",
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
    """A function from noise to draws of solutions.

    Where captions leave parameters open, the first noise components determine the parameters.
    """
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
