"""Laws of hidden paths, with their way to the path of one series: one paper, one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.processes.context import SeriesReader as SeriesReader
    from sciinf.processes.controlled import Controlled as Controlled
    from sciinf.processes.driving import Brownian as Brownian, Fractional as Fractional
    from sciinf.processes.jump import MarkovJump as MarkovJump
    from sciinf.processes.linear_gaussian import Koopman as Koopman, LinearGaussian as LinearGaussian
    from sciinf.processes.linear_gaussian import UnitCircle as UnitCircle
    from sciinf.processes.neural_sde import NeuralSDE as NeuralSDE
    from sciinf.processes.parallel import Parallel as Parallel
    from sciinf.processes.process import Latent as Latent, LearnedProcess as LearnedProcess, Linear as Linear
    from sciinf.processes.process import Process as Process, Series as Series, Sizes as Sizes
    from sciinf.processes.sparse_gp import SparseGP as SparseGP

__getattr__, __dir__ = offered(__name__, __file__)
