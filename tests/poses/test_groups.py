"""Groups and actions do what they say."""

from __future__ import annotations

import math

import pytest
import torch

from sciinf.simulators.poses import Additive, ImageMotion, Multiplicative, Periodic, SpectrumShift, TimeShift

GROUPS = {
    "additive": (Additive(), lambda n, g: torch.randn(n, 2, generator=g)),
    "multiplicative": (Multiplicative(), lambda n, g: torch.randn(n, 2, generator=g).exp()),
    "periodic": (Periodic(-1.0, 2.0), lambda n, g: torch.rand(n, 2, generator=g) * 2 - 1),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_blur_is_found_again_and_undone(name):
    group, draw = GROUPS[name]
    generator = torch.Generator().manual_seed(0)
    pose, blur = draw(50, generator).double(), draw(50, generator).double()
    blurred = group.compose(pose, blur)
    torch.testing.assert_close(group.between(pose, blurred), blur)
    torch.testing.assert_close(group.compose(blurred, group.inverse(blur)), pose)
    near = group.coordinates(group.compose(pose, group.inverse(pose)))
    torch.testing.assert_close(
        near, group.coordinates(group.compose(pose[:1], group.inverse(pose[:1]))).expand_as(near)
    )


@pytest.mark.parametrize("name", GROUPS)
def test_the_measure_does_not_change_under_motions(name):
    # l(g e) |d(g e) / d e| = l(e) up to a constant in e, by finite differences of autograd.
    group, draw = GROUPS[name]
    generator = torch.Generator().manual_seed(1)
    pose = draw(1, generator).double()
    for blur in draw(20, generator).double():
        jacobian = torch.autograd.functional.jacobian(lambda e: group.compose(pose, e[None])[0], blur)
        moved = group.log_measure(group.compose(pose, blur[None]))[0] + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(moved - group.log_measure(blur[None])[0], torch.zeros((), dtype=torch.float64))


def test_series_are_moved_by_whole_and_by_parts_of_steps():
    t = torch.arange(40) * 0.5
    x = {"x": torch.stack([3.0 * t + 1.0, t**0], dim=-1)[None].expand(2, -1, -1).clone(), "other": torch.ones(2, 3)}
    moved = TimeShift(0.5, ("x",), before=-7.0, after=9.0)(x, torch.tensor([[1.5], [-0.75]]))
    assert set(moved) == {"x"}
    assert moved["x"][0, :3, 0].tolist() == [-7.0] * 3
    torch.testing.assert_close(moved["x"][0, 3:], x["x"][0, :-3])
    torch.testing.assert_close(moved["x"][1, :37, 0], 3.0 * (t[:37] + 0.75) + 1.0)
    assert moved["x"][1, -1].tolist() == [9.0, 9.0]


def test_spectra_are_moved_as_their_series_are():
    t = torch.arange(64).double()
    series = (-0.5 * ((t - 20.0) / 3) ** 2).exp()
    later = (-0.5 * ((t - 26.5) / 3) ** 2).exp()
    spectrum, known = (torch.view_as_real(torch.fft.rfft(value))[None, 1:] for value in (series, later))
    moved = SpectrumShift(1 / 64, 1 / 64)({"x": spectrum}, torch.tensor([[6.5]]))["x"]
    torch.testing.assert_close(moved, known, atol=1e-6, rtol=0)


def blob(angle, column, row, size=32):
    """A long Gaussian spot along an axis."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    u, v = x - (size - 1) / 2 - column, y - (size - 1) / 2 - row
    along, across = u * math.cos(angle) + v * math.sin(angle), v * math.cos(angle) - u * math.sin(angle)
    return (-0.5 * ((along / 5) ** 2 + (across / 2) ** 2)).exp()


def test_images_are_turned_and_shifted():
    image = {"image": blob(0.4, 0.0, 0.0)[None, None]}
    turned = ImageMotion("turn")(image, torch.tensor([[0.7]]))["image"][0, 0]
    torch.testing.assert_close(turned, blob(1.1, 0.0, 0.0), atol=0.02, rtol=0)
    shifted = ImageMotion("shift")({"image": image["image"][:, 0]}, torch.tensor([[2.5, -1.0]]))["image"][0]
    torch.testing.assert_close(shifted, blob(0.4, 2.5, -1.0), atol=0.01, rtol=0)
    assert float((turned - blob(0.4 - 0.7, 0.0, 0.0)).abs().max()) > 0.1  # the other way round is told apart


@pytest.mark.parametrize("wrong", [lambda: TimeShift(0.0), lambda: Periodic(0.0, -1.0), lambda: ImageMotion("flip")])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="above 0|'turn' or 'shift'"):
        wrong()
