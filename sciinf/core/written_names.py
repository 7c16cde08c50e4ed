"""Names of classes and functions in stored files, which stay as first written when the code moves.

A fit made before a move can therefore be read afterwards, and digests and settings of an estimator stay the
same.
"""

from __future__ import annotations

from collections.abc import Mapping

_FIRST = {
    "sciinf.diagnostics": "sciinf.trust",
    "sciinf.emulators": "sciinf.surrogates",
    "sciinf.core.summary": "sciinf.summaries.summary",
    "sciinf.emulators.processes": "sciinf.processes",
    "sciinf.emulators.processes.neural_sde.Brownian": "sciinf.processes.driving.Brownian",
    "sciinf.emulators.processes.neural_sde.Noise": "sciinf.processes.driving.Noise",
    "sciinf.emulators.processes.neural_sde.Fractional": "sciinf.processes.driving.Fractional",
    "sciinf.emulators.token_transformer": "sciinf.nets.token_transformer",
    "sciinf.emulators.tokens": "sciinf.tokens",
    "sciinf.networks": "sciinf.nets",
    "sciinf.networks.diffusion": "sciinf.diffusion",
    "sciinf.networks.flows": "sciinf.flows",
    "sciinf.networks.ode": "sciinf.dynamics.ode",
    "sciinf.networks.summaries": "sciinf.summaries",
    "sciinf.posteriors": "sciinf.inference",
    "sciinf.simulators.dynamics": "sciinf.dynamics",
    "sciinf.simulators.poses": "sciinf.poses",
    "sciinf.simulators.samplers": "sciinf.samplers",
    "sciinf.training": "sciinf.engine",
    "sciinf.training.distillation": "sciinf.inference.distillation",
    "sciinf.training.estimators": "sciinf.estimators",
    "sciinf.lab.auxiliary": "sciinf.diffusion.auxiliary",
    "sciinf.lab.auxiliary_score": "sciinf.estimators.auxiliary_score",
    "sciinf.lab.captions": "sciinf.surrogates.captions",
    "sciinf.lab.collocation": "sciinf.surrogates.collocation",
    "sciinf.lab.equations": "sciinf.estimators.equations",
    "sciinf.lab.hybrid": "sciinf.diffusion.hybrid",
    "sciinf.lab.interacting": "sciinf.processes.interacting",
    "sciinf.lab.joint_solver": "sciinf.diffusion.joint_solver",
    "sciinf.lab.learned": "sciinf.diffusion.learned",
    "sciinf.lab.placements": "sciinf.surrogates.placements",
    "sciinf.lab.point_equation": "sciinf.dynamics.point_equation",
    "sciinf.lab.predictive_coding": "sciinf.processes.predictive_coding",
    "sciinf.lab.reader.Words": "sciinf.surrogates.conditions.Words",
    "sciinf.lab.stochastic": "sciinf.diffusion.stochastic",
    "sciinf.lab.stochastic.ReverseEulerMaruyama": "sciinf.diffusion.stochastic.EulerMaruyama",
    "sciinf.lab.trajectory": "sciinf.diffusion.trajectory",
    "sciinf.networks.diffusion.schedule.NoiseLevel": "sciinf.diffusion.schedule.Level",
    "sciinf.emulators.conditions.SensorReadings": "sciinf.surrogates.conditions.Sensors",
    "sciinf.emulators.tokens.law.JointTokens": "sciinf.tokens.law.Joint",
    "sciinf.emulators.tokens.law.MixtureTokens": "sciinf.tokens.law.Mixture",
}  # Present name of a folder, a module or an object -> its name in files. The longest matching name applies.
_PRESENT = {first: present for present, first in _FIRST.items()}


def written_name(path: str) -> str:
    """The name of a class or function in stored files.

    Args:
        path: The present name, "module.name".
    """
    return _renamed(path, _FIRST)


def present_name(path: str) -> str:
    """The present name of a class or function that a stored file names.

    Args:
        path: The name in the file, "module.name".
    """
    return _renamed(path, _PRESENT)


def _renamed(path: str, names: Mapping[str, str]) -> str:
    parts = path.split(".")
    for n in range(len(parts), 0, -1):
        if (first := ".".join(parts[:n])) in names:
            return ".".join([names[first], *parts[n:]])
    return path
