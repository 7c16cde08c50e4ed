"""Laws of hidden paths, with their way to the path of one series: one paper, one file."""

from sciinf.processes.context import Reader
from sciinf.processes.controlled import Controlled
from sciinf.processes.driving import Brownian, Fractional
from sciinf.processes.interacting import Edges, Interacting
from sciinf.processes.jump import MarkovJump
from sciinf.processes.linear_gaussian import Koopman, LinearGaussian, UnitCircle
from sciinf.processes.neural_sde import NeuralSDE
from sciinf.processes.parallel import Parallel
from sciinf.processes.predictive_coding import PredictiveCoding
from sciinf.processes.process import Latent, LearnedProcess, Linear, Process, Series, Sizes
from sciinf.processes.sparse_gp import SparseGP

__all__ = [
    "Brownian",
    "Controlled",
    "Edges",
    "Fractional",
    "Interacting",
    "Koopman",
    "Latent",
    "LearnedProcess",
    "Linear",
    "LinearGaussian",
    "MarkovJump",
    "NeuralSDE",
    "Parallel",
    "PredictiveCoding",
    "Process",
    "Reader",
    "Series",
    "Sizes",
    "SparseGP",
    "UnitCircle",
]
