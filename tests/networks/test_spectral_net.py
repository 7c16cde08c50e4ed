"""Spectral convolutions against fast Fourier transforms; networks on grids of any size and in any precision."""

from __future__ import annotations

import pytest
import torch

from sciinf.networks.spectral import Fourier, SpectralConv, restored, transformed


@pytest.mark.parametrize(("space", "modes"), [((16,), (5,)), ((12, 16), (3, 5)), ((8, 10, 12), (2, 3, 4))])
def test_the_transform_is_the_fast_one_and_back(space, modes):
    torch.manual_seed(0)
    fields = torch.randn(4, 3, *space, dtype=torch.float64)
    axes = tuple(range(2, fields.ndim))
    fast = torch.fft.rfftn(fields, dim=axes, norm="forward")
    for axis, m in zip(axes[:-1], modes[:-1], strict=True):
        fast = fast.index_select(axis, torch.arange(1 - m, m) % fields.shape[axis])
    fast = fast[..., : modes[-1]]
    assert torch.allclose(transformed(fields, modes), fast, atol=1e-12)
    smooth = restored(fast, modes, space)
    assert torch.allclose(transformed(smooth, modes), fast, atol=1e-12)
    assert not torch.allclose(smooth, fields, atol=1e-2)


@pytest.mark.parametrize(("space", "modes"), [((16,), (5,)), ((12, 16), (3, 5))])
def test_the_convolution_multiplies_each_wave_by_its_matrix(space, modes):
    torch.manual_seed(0)
    layer = SpectralConv((3, 2), modes).double()
    fields = torch.randn(4, 3, *space, dtype=torch.float64)
    spectrum, weight = transformed(fields, modes), torch.view_as_complex(layer.weight.detach())
    mixed = torch.einsum("bik,kio->bok", spectrum.flatten(2), weight).unflatten(2, spectrum.shape[2:])
    found = transformed(layer(fields), modes)
    # of the last direction's wave 0, k and -k of the others belong together in a real field, so only their mean is left
    assert torch.allclose(found[..., 1:], mixed[..., 1:], atol=1e-12)
    assert not torch.allclose(found[..., 1:], mixed[..., 1:].conj(), atol=1e-3)


def test_short_waves_are_left_out():
    layer = SpectralConv((1, 1), (4,)).double()
    x = torch.arange(32, dtype=torch.float64) * 2 * torch.pi / 32
    assert float(layer((7 * x).sin()[None, None]).abs().max()) < 1e-12
    assert float(layer((3 * x).sin()[None, None]).abs().max()) > 1e-3


def test_a_finer_grid_gives_the_same_field():
    torch.manual_seed(1)
    net = Fourier(8, 5, layers=2, hidden=16).build((1, 2), (16,), 3).double()
    x, theta = torch.arange(64, dtype=torch.float64) * 2 * torch.pi / 64, torch.randn(2, 3, dtype=torch.float64)
    field = (x.sin() + 0.3 * (2 * x).cos()).expand(2, 1, 64)
    fine, coarse = net(field, theta), net(field[..., ::2], theta)
    assert torch.allclose(fine[..., ::2], coarse, atol=5e-3)


def test_a_coarse_grid_has_fewer_waves():
    torch.manual_seed(0)
    wide = SpectralConv((2, 3), (4, 6)).double()
    y, x = (torch.arange(n, dtype=torch.float64) * 2 * torch.pi / n for n in (24, 24))
    field = ((y[:, None] - x).sin() + (2 * x).cos() + (y[:, None] + 0.3).sin()).expand(1, 2, 24, 24)
    assert torch.allclose(wide(field)[..., ::4, ::4], wide(field[..., ::4, ::4]), atol=1e-12)


def test_without_coordinates_it_moves_with_its_input():
    torch.manual_seed(1)
    fields, theta = torch.randn(2, 1, 16, 16, dtype=torch.float64), torch.randn(2, 1, dtype=torch.float64)
    moved = fields.roll((3, 5), (2, 3))
    for coordinates in (False, True):
        net = Fourier(8, 4, layers=2, hidden=16, coordinates=coordinates).build((1, 1), (16, 16), 1).double()
        same = torch.allclose(net(moved, theta), net(fields, theta).roll((3, 5), (2, 3)), atol=1e-10)
        assert same is not coordinates


def test_single_and_double_precision_agree():
    torch.manual_seed(2)
    net = Fourier(8, 4, layers=2, hidden=16, padding=0.25).build((2, 1), (16, 16), 2)
    fields, theta = torch.randn(3, 2, 12, 16), torch.randn(3, 2)
    single = net(fields, theta)
    double = net.double()(fields.double(), theta.double())
    assert double.dtype == torch.float64
    assert torch.allclose(single.double(), double, atol=1e-5)


def test_parameters_matter_and_have_slopes():
    torch.manual_seed(3)
    net = Fourier(8, 4, layers=2, hidden=16).build((1, 1), (16,), 2)
    fields, theta = torch.randn(1, 1, 16).expand(2, 1, 16), torch.randn(2, 2, requires_grad=True)
    found = net(fields, theta)
    assert not torch.allclose(found[0], found[1], atol=1e-4)
    found.sum().backward()
    assert theta.grad is not None
    assert bool((theta.grad != 0).all())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 directions, the fields have 1"):
        Fourier(8, (4, 4)).build((1, 1), (16,), 1)
    with pytest.raises(ValueError, match="padding"):
        Fourier(padding=-0.1)
