"""Innovations: white where the equation is linear, local, and taken back exactly."""

from __future__ import annotations

import pytest
import torch

from sciinf.emulators.tokens import Patches, Pod
from sciinf.emulators.tokens.innovations import Innovations

POINTS = 16


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smoothed(noise, power):
    """Noise on a ring whose wave k is k^-power as large; the mean stays."""
    k = torch.arange(POINTS // 2 + 1).clamp_min(1)
    return torch.fft.irfft(torch.fft.rfft(noise) * k.double() ** -power, n=POINTS)


def rows(n, seed=0):
    """u' = G u + smooth noise + 2 after a smooth u, both (n, 1, points), float64."""
    noise = torch.randn(2, n, 1, POINTS, generator=generator(seed), dtype=torch.float64)
    before = smoothed(noise[0], 1.5) + 1
    return before, 0.7 * before.roll(1, -1) + 0.2 * smoothed(noise[1], 2.0) + 2


@pytest.mark.parametrize("kind", [Patches(4), Patches(1), Patches(16)])
def test_of_a_linear_equation_they_are_white_and_owe_nothing_to_what_was(kind):
    """Of 4,000 fresh pairs every correlation is below 0.08, five standard errors; by chance once in 10,000."""
    code = kind.build(1, (POINTS,))
    before, after = (code.encode(fields) for fields in rows(8_000))
    units = Innovations(code, code.width)
    units.see(after[:3_000], before[:3_000])
    units.see(after[3_000:], before[3_000:])
    units.settle()
    before, after = (code.encode(fields) for fields in rows(4_000, seed=1))
    z, known = units(after, before).flatten(1), (before - before.mean(0)).flatten(1)
    assert torch.allclose(torch.cov(z.T), torch.eye(POINTS, dtype=z.dtype), atol=0.1)
    assert float(torch.corrcoef(torch.cat([z, known], 1).T)[:POINTS, POINTS:].abs().max()) < 0.08
    assert float(z.mean(0).abs().max()) < 0.08
    alone = units(after, before.flip(0)).flatten(1)  # the fault: after another frame
    assert float(torch.corrcoef(torch.cat([alone, known], 1).T)[:POINTS, POINTS:].abs().max()) > 0.2


def test_they_are_taken_back_and_move_with_the_field():
    code = Patches(4).build(1, (POINTS,))
    units = Innovations(code, code.width)
    before, after = (code.encode(fields) for fields in rows(500))
    assert torch.allclose(units(after, before), after)  # nothing was seen
    units.see(after, before)
    units.settle()
    z = units(after, before)
    assert torch.allclose(units.inverse(z, before), after, atol=1e-5)
    assert torch.allclose(units(after.roll(1, 1), before.roll(1, 1)), z.roll(1, 1), atol=1e-5)
    own = Innovations(code)
    own.see(after)
    own.settle()
    assert torch.allclose(own.inverse(own(after)), after, atol=1e-5)
    assert torch.allclose(
        torch.cov(own(after).flatten(1).T).diagonal().mean(), torch.ones((), dtype=z.dtype), atol=0.05
    )


def test_of_two_directions_and_two_channels_they_are_white_too():
    code = Patches(2).build(2, (8, 4))
    noise = torch.randn(6_000, 2, 8, 4, generator=generator(), dtype=torch.float64)
    fields = noise + noise.roll(1, 2) + 0.5 * noise.roll(1, 3) + noise.flip(1).roll(1, 2)
    units = Innovations(code)
    units.see(code.encode(fields[:4_000]))
    units.settle()
    z = units(code.encode(fields[4_000:])).flatten(1)
    assert torch.allclose(torch.cov(z.T), torch.eye(64, dtype=z.dtype), atol=0.15)


def test_modes_are_taken_together():
    code = Pod(8, width=4).build(1, (POINTS,))
    before, after = rows(4_000)
    code.look(lambda: iter([before, after]))
    before, after = code.encode(before), code.encode(after)
    units = Innovations(code, code.width)
    units.see(after, before)
    units.settle()
    z = units(after, before)
    assert torch.allclose(torch.cov(z.flatten(1).T), torch.eye(8, dtype=z.dtype), atol=0.01)
    assert float((z.flatten(1).mT @ (before - before.mean(0)).flatten(1) / 4_000).abs().max()) < 0.01
    assert torch.allclose(units.inverse(z, before), after, atol=1e-5)


def test_what_never_varies_stays_what_it_is():
    code = Patches(4).build(1, (POINTS,))
    fields = torch.ones(100, 1, POINTS)
    fields[:, :, 0] += torch.randn(100, 1, generator=generator())
    units = Innovations(code)
    units.see(code.encode(torch.ones(100, 1, POINTS)))
    units.settle()
    assert torch.allclose(units.inverse(units(code.encode(fields))), code.encode(fields), atol=1e-3)


@pytest.mark.parametrize("n", [30, 100, 2_000])
def test_few_fields_do_not_make_fresh_ones_strange(n):
    """z of fresh fields has the sd of those it was made from: least squares on few fields would make it 2 and more."""
    code = Pod(16, width=4).build(1, (POINTS,))
    before, after = rows(n)
    code.look(lambda: iter([before, after]))
    units = Innovations(code, code.width, follows=True)
    units.see(code.encode(after), code.encode(before))
    units.settle()
    fresh = [code.encode(fields) for fields in rows(500, seed=1)]
    own, other = (units(a, b).square().mean() for a, b in ((code.encode(after), code.encode(before)), fresh[::-1]))
    assert float((other / own).sqrt()) < (1.1 if n > 1_000 else 1.9)


def test_of_few_fields_the_one_before_is_the_guess():
    code = Pod(16, width=4).build(1, (POINTS,))
    before, _ = rows(30)
    after = before + 0.01 * torch.randn(before.shape, generator=generator(4), dtype=torch.float64)
    code.look(lambda: iter([before, after]))
    units = Innovations(code, code.width, follows=True)
    units.see(code.encode(after), code.encode(before))
    units.settle()
    found = code.decode(units.inverse(torch.zeros(30, 4, 4, dtype=torch.float64), code.encode(before)))
    assert float((found - before).abs().max()) < 0.05
