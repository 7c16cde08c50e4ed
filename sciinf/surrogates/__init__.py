"""Learned simulators of fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.surrogates.adversarial import Adversarial as Adversarial
    from sciinf.surrogates.collapse import collapsed as collapsed
    from sciinf.surrogates.conditions import Field as Field, Frame as Frame, Given as Given, Members as Members
    from sciinf.surrogates.conditions import (
        InPlaceOfParameters as InPlaceOfParameters,
        SensorReadings as SensorReadings,
    )
    from sciinf.surrogates.decoders import Query as Query
    from sciinf.surrogates.dgno import DGNO as DGNO
    from sciinf.surrogates.emissions import Bernoulli as Bernoulli, Categorical as Categorical, Gaussian as Gaussian
    from sciinf.surrogates.emissions import Poisson as Poisson
    from sciinf.surrogates.emulator import Emulator as Emulator
    from sciinf.surrogates.encoders import GridEncoder as GridEncoder, Perceiver as Perceiver
    from sciinf.surrogates.field_code import FieldCode as FieldCode, LearnedCode as LearnedCode
    from sciinf.surrogates.generator import Generator as Generator
    from sciinf.surrogates.graph import Graph as Graph
    from sciinf.surrogates.inversion import Inversion as Inversion
    from sciinf.surrogates.latent_dynamics import LatentDynamics as LatentDynamics
    from sciinf.surrogates.losses import RelativeL2 as RelativeL2, Sobolev as Sobolev
    from sciinf.surrogates.multi_fluid import MultiFluid as MultiFluid
    from sciinf.surrogates.multi_operator import MultiOperator as MultiOperator
    from sciinf.surrogates.objectives import KL as KL, Importance as Importance, Mmd as Mmd, Plain as Plain
    from sciinf.surrogates.objectives import Unscented as Unscented
    from sciinf.surrogates.operator import Operator as Operator
    from sciinf.surrogates.origin import Origin as Origin
    from sciinf.surrogates.quantised import Quantised as Quantised
    from sciinf.surrogates.questions import conditioned as conditioned
    from sciinf.surrogates.refinement import Refinement as Refinement, refined as refined
    from sciinf.surrogates.spectral_refiner import SpectralRefiner as SpectralRefiner, refine as refine
    from sciinf.surrogates.stable_rollout import Stable as Stable
    from sciinf.surrogates.stepwise import Stepwise as Stepwise

__getattr__, __dir__ = offered(__name__, __file__)
