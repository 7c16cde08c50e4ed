"""Laws of hidden paths, with their way to the path of one series: one paper, one file."""

from sciinf.processes.context import Reader
from sciinf.processes.linear_gaussian import Koopman, LinearGaussian, UnitCircle
from sciinf.processes.parallel import Parallel
from sciinf.processes.process import Latent, LearnedProcess, Linear, Process, Series, Sizes

__all__ = [
    "Koopman",
    "Latent",
    "LearnedProcess",
    "Linear",
    "LinearGaussian",
    "Parallel",
    "Process",
    "Reader",
    "Series",
    "Sizes",
    "UnitCircle",
]
