"""Emulators: learned simulators of fields, and of series with hidden states.

`processes` holds distributions of hidden paths, each with its approximate posterior given one series. `latent_dynamics`
adds an encoder in front of a process and a distribution of observed values behind it. `tokens` turns fields into tokens
and holds the distributions from which tokens are drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.emulators.adversarial import Adversarial as Adversarial
    from sciinf.emulators.field_code import collapsed as collapsed
    from sciinf.emulators.conditions import Field as Field, Frame as Frame, Given as Given, Members as Members
    from sciinf.emulators.conditions import (
        InPlaceOfParameters as InPlaceOfParameters,
        SensorReadings as SensorReadings,
    )
    from sciinf.emulators.decoders import Query as Query
    from sciinf.emulators.dgno import DGNO as DGNO
    from sciinf.emulators.emissions import Bernoulli as Bernoulli, Categorical as Categorical, Gaussian as Gaussian
    from sciinf.emulators.emissions import Poisson as Poisson
    from sciinf.emulators.emulator import Emulator as Emulator
    from sciinf.emulators.encoders import GridEncoder as GridEncoder, Perceiver as Perceiver
    from sciinf.emulators.field_code import FieldCode as FieldCode, LearnedCode as LearnedCode
    from sciinf.emulators.generator import Generator as Generator
    from sciinf.emulators.graph import Graph as Graph
    from sciinf.emulators.inversion import Inversion as Inversion
    from sciinf.emulators.latent_dynamics import LatentDynamics as LatentDynamics
    from sciinf.emulators.losses import RelativeL2 as RelativeL2, Sobolev as Sobolev
    from sciinf.emulators.multi_fluid import MultiFluid as MultiFluid
    from sciinf.emulators.multi_operator import MultiOperator as MultiOperator
    from sciinf.emulators.objectives import KL as KL, Importance as Importance, Mmd as Mmd, Plain as Plain
    from sciinf.emulators.objectives import Unscented as Unscented
    from sciinf.emulators.operator import Operator as Operator
    from sciinf.emulators.origin import Origin as Origin
    from sciinf.emulators.quantised import Quantised as Quantised
    from sciinf.emulators.questions import conditioned as conditioned
    from sciinf.emulators.refinement import Refinement as Refinement, refined as refined
    from sciinf.emulators.spectral_refiner import SpectralRefiner as SpectralRefiner, refine as refine
    from sciinf.emulators.stable_rollout import Stable as Stable
    from sciinf.emulators.stepwise import Stepwise as Stepwise

__getattr__, __dir__ = offered(__name__, __file__)
