"""Published methods that were implemented and measured, and were no better than simpler ones in sciinf.

The methods work and have tests. No other part of sciinf imports these modules, and `sciinf` itself exports
none of their names. For each method, `docs/lab.md` describes the idea, the measurements, and the cases in
which another try is worthwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.lab.auxiliary import LinearDiffusion as LinearDiffusion, critically_damped as critically_damped
    from sciinf.lab.auxiliary import variance_preserving as variance_preserving
    from sciinf.lab.auxiliary_score import AuxiliaryScore as AuxiliaryScore
    from sciinf.lab.captions import Grammar as Grammar
    from sciinf.lab.collocation import Collocation as Collocation
    from sciinf.lab.equations import Equations as Equations
    from sciinf.lab.expression_points import expressions as expressions
    from sciinf.lab.hypotheses import suppose as suppose
    from sciinf.lab.interacting import Edges as Edges, Interacting as Interacting
    from sciinf.lab.joint_solver import JointAncestral as JointAncestral, JointExponential as JointExponential
    from sciinf.lab.learned import LearnedDiffusion as LearnedDiffusion
    from sciinf.lab.placements import AdversarialPoints as AdversarialPoints, EvenPoints as EvenPoints
    from sciinf.lab.placements import FollowingPoints as FollowingPoints
    from sciinf.lab.point_equation import AtPoints as AtPoints, CollocationPoints as CollocationPoints
    from sciinf.lab.point_equation import Unsolved as Unsolved
    from sciinf.lab.predictive_coding import PredictiveCoding as PredictiveCoding
    from sciinf.lab.reader import Words as Words
    from sciinf.lab.stochastic import AdaptiveEuler as AdaptiveEuler, Ancestral as Ancestral
    from sciinf.lab.stochastic import ReverseEulerMaruyama as ReverseEulerMaruyama, ExtendedReverse as ExtendedReverse
    from sciinf.lab.stochastic import PredictorCorrector as PredictorCorrector
    from sciinf.lab.trajectory import fit_grid as fit_grid

__getattr__, __dir__ = offered(__name__, __file__)
