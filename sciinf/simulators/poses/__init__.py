"""Symmetries of simulators: how pose parameters, such as a position, an arrival time or an angle, act on data."""

from sciinf.simulators.poses.group import Additive, Group, Multiplicative, Periodic
from sciinf.simulators.poses.images import ImageMotion
from sciinf.simulators.poses.pose import Pose
from sciinf.simulators.poses.series import SpectrumShift, TimeShift

__all__ = ["Additive", "Group", "ImageMotion", "Multiplicative", "Periodic", "Pose", "SpectrumShift", "TimeShift"]
