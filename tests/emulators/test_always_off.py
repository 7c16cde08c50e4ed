"""Errors that are the same for all solutions, told from those that chance makes."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from sciinf import Uniform
from sciinf.core import Batch, Observable, Prior
from sciinf.emulators import Generator
from sciinf.emulators.generator import always_off, say_what_is_always_off
from sciinf.emulators.token_transformer import TokenTransformer

STANDING = torch.cos(2 * math.pi * torch.arange(16) / 16)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_share_is_right_on_average_and_chance_is_not_told():
    """Of 2,000 sets of 32 errors that are alike in space, so that chance is largest: below 0.5 % are told."""
    draw = generator()
    plain = torch.randn(2_000, 32, 1, 1, 1, generator=draw).expand(-1, -1, -1, -1, 16)
    found = torch.stack([always_off(one)[0, 0] for one in plain])
    assert float(found.mean()) == pytest.approx(0.0, abs=4 * 2**0.5 / 32 / 2_000**0.5)
    assert float((found > 6 / 32).double().mean()) < 0.01
    shifted = torch.stack([always_off(one + STANDING)[0, 0] for one in plain])
    assert float(shifted.mean()) == pytest.approx(0.5 / 1.5, abs=0.01)
    assert float(always_off(torch.zeros(40, 2, 1, 16)).abs().max()) == 0


def test_it_is_said_where_it_is_and_what_to_do():
    prior = Prior(rate=Uniform(0.0, 1.0))
    fields = {"initial": Observable((2, 16)), "u": Observable((3, 2, 16))}
    law = Generator(prior, fields, network=TokenTransformer(8, 1, heads=1))
    theta = prior.sample(100, generator=generator(1))
    off = torch.randn(100, 3, 2, 16, generator=generator())
    off[:, 0] = 0  # known
    shifted, tilted = off.clone(), off.clone()
    shifted[:, 2, 1] += STANDING
    tilted[:, 1, 0] += (4 * theta - 2) * STANDING
    bent = off.clone()
    bent[:, 1, 0] += 2 * ((4 * theta - 2).square() - 4 / 3) * STANDING
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        say_what_is_always_off(law, theta, off, placed=False)
        say_what_is_always_off(law, theta[:20], shifted[:20], placed=False)  # too few to tell
    with pytest.warns(
        UserWarning, match=r"3\d% of the squared error of draws of 'u' .* frame 2, channel 1.*coordinates"
    ):
        say_what_is_always_off(law, theta, shifted, placed=False)
    with pytest.warns(UserWarning, match="Train longer"):
        say_what_is_always_off(law, theta, shifted, placed=True)
    with pytest.warns(
        UserWarning, match=r"[34]\d% of .* goes with 'rate', in frame 1, channel 0: they are wrong at its ends"
    ):
        say_what_is_always_off(law, theta, tilted, placed=True)
    with pytest.warns(UserWarning, match="goes with 'rate', in frame 1, channel 0"):
        say_what_is_always_off(law, theta, bent, placed=True)


def test_a_law_that_does_not_know_where_it_is_says_so():
    """A wave that stands where it always does, and noise: held-out rows tell the law that has learned nothing of it."""
    prior, fields, draw = Prior.none(), {"initial": Observable((1, 16)), "u": Observable((2, 1, 16))}, generator()
    initial = torch.randn(200, 1, 16, generator=draw)
    later = initial + 2 * STANDING + torch.randn(200, 1, 16, generator=draw)
    rows = Batch(prior.sample(200, generator=draw), {"initial": initial, "u": torch.stack([initial, later], 1)})
    law = Generator(prior, fields, network=TokenTransformer(8, 1, heads=1))
    law.standardise(lambda: iter([rows]))
    with pytest.warns(
        UserWarning, match=r"the same for all held-out simulations, in frame 1, channel 0.*coordinates=True"
    ):
        law.adjust(lambda: iter([rows]))
