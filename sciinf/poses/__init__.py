"""Symmetries of simulators: how parameters that say where, when or how turned something is act on data."""

from sciinf.poses.group import Additive, Group, Multiplicative, Periodic
from sciinf.poses.images import ImageMotion
from sciinf.poses.pose import Pose
from sciinf.poses.series import SpectrumShift, TimeShift

__all__ = ["Additive", "Group", "ImageMotion", "Multiplicative", "Periodic", "Pose", "SpectrumShift", "TimeShift"]
