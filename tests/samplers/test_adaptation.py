"""What warm-ups learn: windows, covariances, step sizes."""

from __future__ import annotations

import torch
from samplers.targets import Gaussians, normal

from sciinf.simulators.samplers.adaptation import DualAveraging, Metric, Moments, Windows, first_metric, window_ends


def test_windows_are_stans():
    assert window_ends(1000) == (75, [100, 150, 250, 450, 950])
    assert window_ends(150) == (75, [100])
    assert window_ends(20) == (3, [18])


def test_moments_are_those_of_all_positions_and_windows_forget():
    x, windows = 5 + normal(1000, 4, 2, 3), Windows(1000, normal(4, 2, 3))
    found = [windows.update(t, one) for t, one in enumerate(x)]
    assert [t + 1 for t, covariance in enumerate(found) if covariance is not None] == [100, 150, 250, 450, 950]
    moments = Moments(x[0])
    for one in x[450:950]:
        moments.add(one)
    assert torch.equal(moments.covariance(), found[949])
    for b in range(2):
        exact = torch.cov(x[450:950, :, b].flatten(0, 1).T)
        torch.testing.assert_close(moments.scatter[b] / 1999, exact)
        torch.testing.assert_close(found[949][b].diagonal(), exact.diagonal())
        torch.testing.assert_close(found[949][b], exact, atol=1e-4, rtol=1e-4)  # shrunk by (8 / 2008)^2


def test_few_positions_give_scales_and_no_correlations():
    moments = Moments(normal(2, 1, 10))
    moments.add(normal(2, 1, 10))
    covariance = moments.covariance()[0]
    assert bool((torch.linalg.eigvalsh(covariance) > 0).all())


def test_metrics_stretch_pull_and_whiten():
    target, w = Gaussians(4), normal(5, 3, 4)
    for metric in (Metric(target.root), Metric(target.root.diagonal(dim1=1, dim2=2))):
        torch.testing.assert_close(metric.whiten(metric.stretch(w)), w)
        x = w.clone().requires_grad_()
        (pulled,) = torch.autograd.grad((metric.stretch(x) * normal(5, 3, 4, seed=1)).sum(), x)
        torch.testing.assert_close(metric.pull(normal(5, 3, 4, seed=1)), pulled)
        dense = metric.factor if metric.dense else torch.diag_embed(metric.factor)
        torch.testing.assert_close(metric.log_size(), torch.linalg.slogdet(dense).logabsdet / 4)


def test_a_covariance_that_is_none_changes_nothing_for_its_target_alone():
    target = Gaussians(2)
    broken = target.covariance.clone()
    broken[1] = -1.0
    broken[2, 0, 0] = float("nan")
    for dense in (True, False):
        before = first_metric(normal(10, 3, 2), dense=dense)
        after = before.updated(broken)
        assert torch.equal(after.factor[1:], before.factor[1:])
        exact = before.updated(target.covariance)
        assert torch.equal(after.factor[0], exact.factor[0])
        assert bool(after.factor.isfinite().all())


def test_starts_without_spread_have_scale_one():
    start = normal(4, 2, 3)
    start[:, 1] = 7.0
    assert first_metric(start, dense=False).factor[1].tolist() == [1.0] * 3
    assert first_metric(start[:1], dense=True).factor[0].tolist() == torch.eye(3).tolist()


def test_step_sizes_find_the_acceptance_wanted_from_far_away():
    best = torch.tensor([1e-4, 1.0, 300.0], dtype=torch.float64)  # where the acceptance is 0.8
    sizes = DualAveraging(torch.ones(3, dtype=torch.float64), 0.8)
    for _ in range(200):
        sizes.update(0.8 ** (sizes.step / best))
    torch.testing.assert_close(sizes.settled, best, rtol=0.15, atol=0)
