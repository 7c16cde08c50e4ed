"""Wavelets: a rotation of the field, whose tokens lie where they say, at the scale that they say."""

from __future__ import annotations

import math

import pytest
import torch
from emulators.test_generator import built, distance, generator, world

from sciinf import Recipe, load_fit, simulate, train
from sciinf.core import Batch
from sciinf.emulators.tokens import AtOnce, Frames, Haar, MixtureTokens, Pod, Scales, haar
from sciinf.emulators.tokens.innovations import Innovations

LAYOUTS = [(2, 4, 2, (32,)), (1, 2, 3, (8, 4)), (2, 1, 1, (4, 8, 4))]


def matrix(code):
    """Q, (number, number of a field)."""
    numbers = code.channels * math.prod(code.space)
    unit = torch.eye(numbers, dtype=torch.float64).reshape(numbers, code.channels, *code.space)
    return code.encode(unit).flatten(1).mT


def off_a_rotation(code):
    """How far rows are from orthonormal, and |det Q| from 1."""
    q = matrix(code)
    apart = (q @ q.mT - torch.eye(len(q), dtype=q.dtype)).abs().max()
    return float(apart) + abs(abs(float(torch.linalg.det(q))) - 1)


@pytest.mark.parametrize(("levels", "size", "channels", "space"), LAYOUTS)
def test_all_wavelets_are_a_rotation_and_taken_back(levels, size, channels, space, monkeypatch):
    code = Haar(levels, size=size).build(channels, space)
    assert off_a_rotation(code) < 1e-10
    fields = torch.randn(5, 3, channels, *space, generator=generator(), dtype=torch.float64)
    tokens = code.encode(fields)
    assert tokens.shape == (5, 3, len(code.places), code.width)
    assert tokens.dtype == torch.float64
    assert torch.allclose(code.decode(tokens), fields, atol=1e-12)
    assert torch.equal(code.encode(fields[2, 1]), tokens[2, 1])
    plain = haar._halved
    monkeypatch.setattr(haar, "_halved", lambda u, axes: tuple(part * 1.01 for part in plain(u, axes)))
    assert off_a_rotation(code) > 0.01  # the fault: rows that are not of length 1


@pytest.mark.parametrize(("levels", "size", "channels", "space"), LAYOUTS)
def test_tokens_lie_where_they_say(levels, size, channels, space):
    """A field that is 1 at one point has one token in each band, and that point lies in its cell."""
    code = Haar(levels, size=size).build(channels, space)
    bands = code.places[:, -1]
    for point in range(math.prod(space)):
        at = [int(i) for i in torch.unravel_index(torch.tensor(point), space)]
        field = torch.zeros(channels, math.prod(space))
        field[0, point] = 1.0
        loud = code.encode(field.reshape(channels, *space)).square().sum(-1) > 1e-12
        assert torch.equal(bands[loud].sort().values, bands.unique())
        for token in torch.nonzero(loud)[:, 0]:
            half = size * 2 ** min(levels, levels - code.scales[token] + 1) / 2
            for axis, n in enumerate(space):
                assert abs(float(code.places[token, axis]) * n - at[axis] - 0.5) < half


def test_tokens_have_scales_from_coarse_to_fine():
    """A field that changes its sign from point to point is of the finest scale alone, and so on."""
    code = Haar(3, size=1).build(1, (16, 8))
    scales = torch.tensor(code.scales)
    assert list(code.scales) == sorted(code.scales)
    assert scales.bincount().tolist() == [2, 6, 24, 96]
    along = torch.arange(16)[:, None].expand(16, 8)
    for scale, points in ((3, 1), (2, 2), (1, 4)):
        field = 1.0 - 2 * (along // points % 2)
        energy = torch.zeros(4).index_add_(0, scales, code.encode(field[None]).square().sum(-1))
        assert float(energy[scale]) == pytest.approx(128.0)
        assert float(energy.sum()) == pytest.approx(128.0)
    assert float(code.encode(torch.ones(1, 16, 8))[scales == 0].square().sum()) == pytest.approx(128.0)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_coarse_scales_are_means_over_cells(kept):
    code = Haar(2, kept=kept, size=2).build(2, (16, 8))
    fields, cell = torch.randn(5, 2, 16, 8, generator=generator()), 2 ** (2 - kept)
    means = fields.unfold(2, cell, cell).unfold(3, cell, cell).mean((-1, -2))
    again = code.decode(code.encode(fields))
    assert torch.allclose(again, means.repeat_interleave(cell, 2).repeat_interleave(cell, 3), atol=1e-5)
    assert torch.allclose(code.encode(again), code.encode(fields), atol=1e-5)
    assert code.encode(fields).flatten(1).shape[1] == 2 * 128 // cell**2
    assert max(code.scales) == kept
    assert code.counts == ((2, 1) if kept == 0 else ())  # means are pieces of one kind


def test_a_field_that_is_moved_has_its_tokens_moved_in_every_band():
    code = Haar(2, size=2).build(1, (32,))
    fields = torch.randn(3, 1, 32, generator=generator())
    one, moved = code.encode(fields), code.encode(fields.roll(8, 2))
    for band in code.places[:, -1].unique():
        here = code.places[:, -1] == band
        by = 8 * int(here.sum()) // 32
        assert torch.allclose(moved[:, here], one[:, here].roll(by, 1))
    assert not torch.allclose(code.encode(fields.roll(4, 2)).sort(1).values, one.sort(1).values)


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """Of all wavelets of a linear equation with random forcing."""
    root = tmp_path_factory.mktemp("haar")
    store = simulate(world(), root / "store", 1_000, seed=0, progress=False)
    made = built(world(), Haar(1), order=Frames(1), law=MixtureTokens())
    return train(made, store, root / "fit", recipe=Recipe(epochs=20, batch=30), progress=False)


@pytest.mark.slow
def test_draws_in_wavelets_follow_the_law_of_a_linear_equation(fit, monkeypatch):
    """Means of 800 squares in 15 directions, whose sd for the exact law is 0.013: what is allowed is for learning."""
    equation, law = world(), fit.surrogate

    def drawn(rows):
        return law.sample(rows.theta, rows.x, generator=generator(5))

    for frame in (1, 5):
        assert distance(equation, drawn, frame) == pytest.approx(1.0, abs=0.25)

    def late(rows):
        return drawn(Batch(rows.theta.flip(0), rows.x))

    assert abs(distance(equation, late, 2) - 1) > 0.35  # the faults: others' parameters
    plain = law.code.decode
    monkeypatch.setattr(law.code, "decode", lambda tokens: plain(tokens.roll(1, -2)))
    assert abs(distance(equation, drawn, 2) - 1) > 0.35  # and tokens in other places


@pytest.mark.slow
def test_a_law_in_wavelets_is_read_back(fit):
    equation, again = world(), load_fit(fit.folder).surrogate
    theta = equation.prior.sample(4, generator=generator())
    start = equation.start(theta, generator=generator(1))
    one, two = (s.draw(theta, start, generator=generator(2)) for s in (fit.surrogate, again))
    assert torch.equal(one, two)
    assert again.code.scales == fit.surrogate.code.scales


def units_of(code, *, nested):
    """Units of tokens of rough fields whose scales go together, and the tokens."""
    fields = torch.randn(3_000, 1, 32, generator=generator()).cumsum(-1)
    found, tokens = Innovations(code, nested=nested), code.encode(fields)
    found.see(tokens)
    found.settle()
    return found, tokens


def reach(units, tokens, scales, scale):
    """How much z of a scale and of coarser ones changes where finer tokens do."""
    fine = torch.tensor(scales) > scale
    other = torch.where(fine[:, None], tokens.flip(0), tokens)
    return float((units(tokens) - units(other))[:, ~fine].abs().max())


def test_scales_that_are_drawn_one_after_the_other_are_not_mixed_by_their_units():
    """Covariances of 3,000 rows: those of the very rows that units were taken from are the identity."""
    code = Haar(2).build(1, (32,))
    for nested in (True, False):
        units, tokens = units_of(code, nested=nested)
        z = units(tokens)
        assert torch.allclose(z.flatten(1).T.cov(correction=0), torch.eye(32), atol=1e-2)
        assert torch.allclose(units.inverse(z), tokens, atol=1e-3)
        mixed = max(reach(units, tokens, code.scales, scale) for scale in (0, 1))
        assert mixed < 1e-3 if nested else mixed > 0.3  # the fault: the symmetric root of the covariance
    order = AtOnce(Scales())
    equation = world()
    law = built(equation, Haar(1), order=order, law=MixtureTokens())
    assert law.plain.scales == law.first.scales == law.units.scales == law.code.scales
    assert built(equation, Haar(1), order=AtOnce(), law=MixtureTokens()).units.scales == ()
    assert built(equation, Pod(8), order=order, law=MixtureTokens()).units.scales == ()  # each scale is one token


def test_what_does_not_suit_is_refused():
    for make, says in (
        (lambda: Haar(0), "levels"),
        (lambda: Haar(2, size=0), "size"),
        (lambda: Haar(2, kept=3), "has 2 scales of differences, and cannot keep 3"),
        (lambda: Haar(2, kept=-1), "kept"),
        (lambda: Haar(2).build(1, ()), "one to three directions"),
        (lambda: Haar(1).build(1, (8,) * 4), "one to three directions"),
        (lambda: Haar(2).build(1, (24,)), r"cells of 16 points, 4 times 2\^2, do not divide a grid of \(24,\)"),
        (lambda: Haar(2).build(1, (64, 64)), r"Haar\(2, kept=2\) makes 4,096 numbers .* 2,048 at most"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    assert len(Haar(2, kept=1).build(2, (64, 64)).places) == 64  # 2,048 numbers
    assert Haar(2, kept=0).build(50, (64, 64)).counts == (4, 4)  # of one kind there may be any number
