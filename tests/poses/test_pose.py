"""Poses blur anew each time, and refuse what cannot be undone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td

from sciinf.core import Prior
from sciinf.core.component import from_json, to_json
from sciinf.simulators.poses import ImageMotion, Multiplicative, Periodic, Pose, TimeShift
from sciinf.simulators.poses.several import Poses

JOINT = td.MultivariateNormal(torch.zeros(2).double(), torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double())
KERNELS = {
    "normal": td.Normal(0.0, 1.0),
    "no distribution function": td.StudentT(4.0),
    "joint": JOINT,
    "one for each": [td.Normal(0.0, 1.0), td.Laplace(0.0, 1.0)],
}


def shift(x, pose):
    """An action of a module."""
    return {"x": x["x"] + pose[:, :1]}


@pytest.mark.parametrize("name", KERNELS)
def test_blurs_are_drawn_anew_by_the_generator_alone(name):
    pose = Pose(("a", "b"), shift, KERNELS[name])
    generator = torch.Generator().manual_seed(0)
    first, second = (pose.blur.sample_on_device(500, generator=generator) for _ in range(2))
    again = pose.blur.sample_on_device(500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first, again)
    assert float((first - second).abs().min()) > 0
    assert float(first.mean().abs()) < 0.3  # 4 standard errors and more
    both = torch.corrcoef(first.T)[0, 1]
    assert (float(both) > 0.3) == (name == "joint")


WRONG = {
    "angles from another end": (td.Uniform(-math.pi, math.pi), td.Normal(0.0, 0.1), Periodic()),
    "kernel wider than half a period": (td.Uniform(0.0, 1.0), td.Normal(0.0, 0.6), Periodic(0.0, 1.0)),
    "blurs that are no factors": (td.LogNormal(0.0, 1.0), td.Normal(0.0, 0.1), Multiplicative()),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_group_that_does_not_undo_the_blur_is_refused(name):
    law, kernel, group = WRONG[name]
    with pytest.raises(ValueError, match=r"does not undo its blur: values of prior and kernel must belong to it"):
        Poses([Pose("g", shift, kernel, group=group)], Prior(g=law))


def test_missing_values_move_with_their_mask_or_not_at_all():
    x = {"x": torch.zeros(2, 5), "x_mask": torch.ones(2, 5, dtype=torch.bool)}
    with pytest.raises(ValueError, match="moves 'x', of which values are missing, and not 'x_mask'"):
        Pose("t", TimeShift(1.0), td.Normal(0.0, 1.0)).standardised(x, torch.ones(2, 1))


@pytest.mark.parametrize("act", [TimeShift(0.5, ("x",), after=1.0), ImageMotion("turn"), shift])
def test_a_pose_is_rebuilt_from_what_is_written_down(act):
    pose = Pose(("a", "b"), act, JOINT, exact=False)
    again = from_json(to_json(pose), trust=(__name__,))
    assert to_json(again) == to_json(pose)
    assert (again.names, again.exact) == (("a", "b"), False)


def test_a_file_names_functions_of_trusted_modules_alone():
    data = to_json(Pose("a", shift, td.Normal(0.0, 1.0)))
    with pytest.raises(ValueError, match="outside sciinf"):
        from_json(data)
    data["arguments"]["act"] = {"$function": "sciinf.core.component.import_module"}
    with pytest.raises(ValueError, match="its module defines no function of this name"):
        from_json(data)
    data["arguments"]["act"] = {"$function": "sciinf.simulators.poses.several.chain"}  # imported there from elsewhere
    with pytest.raises(ValueError, match="its module defines no function of this name"):
        from_json(data)


def test_wrong_parts_are_refused():
    with pytest.raises(TypeError, match=r"act is a function act\(x, pose\)"):
        Pose("a", TimeShift, td.Normal(0.0, 1.0))
    with pytest.raises(TypeError, match="the kernel is a law"):
        Pose("a", shift, 0.1)
    with pytest.raises(ValueError, match="give one for each"):
        Pose(("a", "b"), shift, [td.Normal(0.0, 1.0)])
    with pytest.raises(TypeError, match="the group is an object"):
        Pose("a", shift, td.Normal(0.0, 1.0), group=Multiplicative)
