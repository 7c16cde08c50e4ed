"""Compiled loops for splines: they find what torch's operations find, and where there are none these are used."""

from __future__ import annotations

import subprocess

import pytest
import torch
from flows.architectures import normal
from planted_faults import compiled_with

from sciinf.networks.flows import rational_quadratic, spline_loops
from sciinf.networks.flows.rational_quadratic import numbers
from sciinf.networks.kernels import library
from sciinf.networks.kernels.library import compiled

BOUND = 3.0
SOURCE = library.FOLDER / "splines.c"

needed = pytest.mark.skipif(spline_loops._loops() is None, reason="there is no C compiler here, or it is turned off")


def splines(bins, d=3, n=400, *, more=()):
    """Points, some of them beyond the bound, and the raw numbers of a spline for each."""
    raw = 1.5 * normal(*more, d * numbers(bins), n, seed=1, dtype=torch.float32)
    return 1.6 * normal(*more, d, n, dtype=torch.float32), raw


def with_gradient(module, inputs, bins, *, inverse=False):
    """What a module's spline gives, and the gradient of a sum of it, in the precision of the inputs."""
    given = [one.detach().clone().requires_grad_() for one in inputs]
    found = (module.inverse(*given, bins, BOUND),) if inverse else module.spline(*given, bins, BOUND)
    total = sum((one * torch.cos(torch.arange(one.numel())).view_as(one)).sum() for one in found)
    return [one.detach().double() for one in (*found, *torch.autograd.grad(total, given))]


def worse(found, torchs, exact):
    """By how many times the root mean square error of loops is above that of torch's operations, at worst."""
    errors = [[float((one - truth).square().mean().sqrt()) for one, truth in zip(way, exact, strict=True)]
              for way in (found, torchs)]  # fmt: skip
    return max(ours / (theirs + 1e-7) for ours, theirs in zip(*errors, strict=True))


@needed
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("bins", "n"), [(2, 1), (10, 63), (10, 64), (7, 200), (100, 65), (500, 70)])
def test_loops_are_as_right_as_torchs_operations(bins, n, inverse):
    inputs = splines(bins, n=n)
    exact = with_gradient(rational_quadratic, [one.double() for one in inputs], bins, inverse=inverse)
    ways = [with_gradient(module, inputs, bins, inverse=inverse) for module in (spline_loops, rational_quadratic)]
    assert not torch.equal(ways[0][0], ways[1][0]) or n == 1, "they are the loops"
    assert worse(*ways, exact) < 3


@needed
@pytest.mark.parametrize("value", [-BOUND, BOUND, 0.0, 1e30, float("inf"), -float("inf")])
def test_ends_and_what_lies_beyond_are_as_torch_has_them(value):
    _, raw = splines(6, 1, 2)
    x = torch.full((1, 2), value)
    for ours, theirs in zip(
        spline_loops.spline(x, raw, 6, BOUND), rational_quadratic.spline(x, raw, 6, BOUND), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert torch.allclose(
        spline_loops.inverse(x, raw, 6, BOUND), rational_quadratic.inverse(x, raw, 6, BOUND), atol=1e-5
    )


@needed
@pytest.mark.parametrize("scale", [0.0, 100.0, 1e4, 1e20])
def test_numbers_of_any_size_are_as_torch_has_them(scale):
    """At 1e20 the slope's logarithm was off by log 2, or not finite."""
    x, raw = splines(6)
    ours, theirs = (
        torch.stack(module.spline(x, scale * raw, 6, BOUND)) for module in (spline_loops, rational_quadratic)
    )
    torch.testing.assert_close(ours, theirs, atol=0.01, rtol=1e-3, equal_nan=True)


@needed
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_hidden(broken):
    x, raw = splines(6, 2, 5)
    raw[:] = broken
    x = x.clamp(-2, 2)
    assert bool(torch.stack(spline_loops.spline(x, raw, 6, BOUND)).isnan().all())
    assert bool(spline_loops.inverse(x, raw, 6, BOUND).isnan().all())


@needed
def test_members_mapped_at_once_and_gradients_mapped_are_those_one_by_one():
    x, raw = splines(6, 2, 50, more=(3,))

    def loss(x, raw):
        y, log_slope = spline_loops.spline(x, raw, 6, BOUND)
        return (y * y + log_slope + spline_loops.inverse(x, raw, 6, BOUND)).sum()

    alone = [torch.func.grad(loss, (0, 1))(*one) for one in zip(x, raw, strict=True)]
    mapped = torch.func.vmap(torch.func.grad(loss, (0, 1)))(x, raw)
    given = [one.clone().requires_grad_() for one in (x, raw)]
    together = torch.autograd.grad(torch.func.vmap(loss)(*given).sum(), given)
    shared = torch.func.vmap(loss, in_dims=(None, 0))(x[0], raw)
    for k, one in enumerate(zip(*alone, strict=True)):
        assert torch.equal(mapped[k], torch.stack(one))
        assert torch.equal(together[k], torch.stack(one))
    torch.testing.assert_close(shared[1], loss(x[0], raw[1]))


@needed
def test_arrays_that_are_not_contiguous_are_read_right():
    x, raw = splines(6, 2, 40)
    ours = spline_loops.spline(x.T.contiguous().T, raw.T.contiguous().T, 6, BOUND)
    assert all(torch.equal(a, b) for a, b in zip(ours, spline_loops.spline(x, raw, 6, BOUND), strict=True))


@pytest.mark.parametrize("module", [spline_loops, rational_quadratic])
def test_a_second_derivative_is_refused_rather_than_wrong(module):
    """Alone, where it was refused before, and in a sum, where it was taken for that of the other summand."""
    x, raw = splines(6, 1, 5)
    y = module.spline(x.requires_grad_(), raw, 6, BOUND)[0].sum() + x.square().sum()
    (slope,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        slope.sum().backward()


def test_a_second_derivative_of_an_inverse_is_right_or_refused():
    """By y it takes the spline's first derivative alone."""
    found = []
    for dtype in (torch.float32, torch.float64):
        y, raw = (one.to(dtype) for one in splines(6, 1, 5))
        (slope,) = torch.autograd.grad(
            spline_loops.inverse(y.requires_grad_(), raw, 6, BOUND).sum(), y, create_graph=True
        )
        found.append(torch.autograd.grad(slope.sum(), y)[0].double())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_double_precision_is_torchs():
    inputs = [one.double() for one in splines(6)]
    for ours, theirs in zip(
        *(module.spline(*inputs, 6, BOUND) for module in (spline_loops, rational_quadratic)), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.fixture
def afresh(tmp_path, monkeypatch):
    """Nothing compiled yet, with a folder of one's own to keep it in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SCIINF_COMPILE", raising=False)
    for cached in (compiled, spline_loops._loops):
        cached.cache_clear()
    yield tmp_path
    for cached in (compiled, spline_loops._loops):
        cached.cache_clear()


@needed
@pytest.mark.parametrize(
    "within",
    [lambda f: torch.func.vmap(f), torch.func.grad, lambda f: torch.inference_mode()(f),
     lambda f: torch.autocast("cpu", dtype=torch.bfloat16)(f)],
    ids=["vmap", "grad", "inference_mode", "autocast"],
)  # fmt: skip
def test_they_are_first_asked_for_in_any_transform_precision_or_mode(within):
    """The first spline of a process failed within a transform, and within half precision turned the loops off."""
    spline_loops._loops.cache_clear()
    x, raw = splines(6, 2, 5, more=(3,))
    expected = rational_quadratic.inverse(x, raw, 6, BOUND).sum(1)
    f = within(lambda x, raw: spline_loops.inverse(x, raw, 6, BOUND).sum())
    if within is torch.func.grad:
        f(x[0], raw[0])
    else:
        torch.testing.assert_close(f(x, raw).sum(), expected.sum())
    assert spline_loops._loops() is not None


@pytest.mark.slow
@needed
def test_it_is_compiled_once_and_kept(afresh, monkeypatch):
    assert spline_loops._loops() is not None
    (kept,) = (afresh / "cache/sciinf").iterdir()
    for cached in (compiled, spline_loops._loops):
        cached.cache_clear()
    monkeypatch.setattr(subprocess, "run", None)
    assert spline_loops._loops() is not None
    assert list((afresh / "cache/sciinf").iterdir()) == [kept]


@pytest.mark.slow
@needed
def test_each_kind_of_processor_has_its_own(afresh, monkeypatch):
    """Machines of a cluster share a home: what one compiled for itself would end another's process."""
    assert compiled(SOURCE) is not None
    compiled.cache_clear()
    monkeypatch.setattr("sciinf.networks.kernels.library._processor", lambda: ("another",))
    assert compiled(SOURCE) is not None
    assert len(list((afresh / "cache/sciinf").iterdir())) == 2


@pytest.mark.slow
@needed
def test_a_header_that_changes_makes_another_library(afresh):
    for path in (SOURCE, *SOURCE.parent.glob("*.h")):
        (afresh / path.name).write_text(path.read_text())
    assert compiled(afresh / SOURCE.name) is not None
    (afresh / "spline_points.h").write_text("/* changed */\n" + (afresh / "spline_points.h").read_text())
    compiled.cache_clear()
    assert compiled(afresh / SOURCE.name) is not None
    assert len(list((afresh / "cache/sciinf").iterdir())) == 2


@pytest.mark.parametrize("why", ["no compiler", "turned off", "a compiler that fails", "no folder"])
def test_without_it_torchs_operations_serve(why, afresh, monkeypatch):
    if why == "no compiler":
        monkeypatch.setenv("PATH", str(afresh))
        monkeypatch.delenv("CC", raising=False)
    elif why == "turned off":
        monkeypatch.setenv("SCIINF_COMPILE", "0")
    elif why == "no folder":
        (afresh / "cache").write_text("a file")
    else:
        (afresh / "broken").write_text("#!/bin/sh\nexit 1\n")
        (afresh / "broken").chmod(0o755)
        monkeypatch.setenv("CC", str(afresh / "broken"))
    assert spline_loops._loops() is None
    inputs = splines(6)
    for ours, theirs in zip(
        *(module.spline(*inputs, 6, BOUND) for module in (spline_loops, rational_quadratic)), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
@needed
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("h * (s * r + d0 * rest) * r", "h * (s * r + d1 * rest) * r"),
     ("bin.a + r * bin.w : ys", "bin.a + r * bin.h : ys"),
     ("by_m * rest * rest - by_d * q", "by_m * rest * rest + by_d * q")],
)  # fmt: skip
def test_a_library_that_computes_something_else_is_not_used(right, wrong, afresh, monkeypatch):
    compiled_with("splines", right, wrong, afresh, monkeypatch)
    assert spline_loops._loops() is None
