"""Distributions of hidden paths, each with its approximate posterior given one series: one paper, one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.emulators.processes.bayes_steps import SeriesReader as SeriesReader
    from sciinf.emulators.processes.controlled import Controlled as Controlled
    from sciinf.emulators.processes.neural_sde import Brownian as Brownian, Fractional as Fractional
    from sciinf.emulators.processes.jump import MarkovJump as MarkovJump
    from sciinf.emulators.processes.linear_gaussian import Koopman as Koopman, LinearGaussian as LinearGaussian
    from sciinf.emulators.processes.linear_gaussian import UnitCircle as UnitCircle
    from sciinf.emulators.processes.neural_sde import NeuralSDE as NeuralSDE
    from sciinf.emulators.processes.parallel import Parallel as Parallel
    from sciinf.emulators.processes.process import Latent as Latent, LearnedProcess as LearnedProcess, Linear as Linear
    from sciinf.emulators.processes.process import Process as Process, Series as Series, Sizes as Sizes
    from sciinf.emulators.processes.sparse_gp import SparseGP as SparseGP

__getattr__, __dir__ = offered(__name__, __file__)
