"""Discovery of all diagnostics: instances of the classes in this folder, in the order of display."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from sciinf import diagnostics
from sciinf.core.diagnostic import Case, Diagnostic
from sciinf.core.findings import Finding

ORDER = (
    "weights",
    "surrogate",
    "added scores",
    "failures",
    "prior bounds",
    "information",
    "stray draws",
    "few draws",
    "tails",
    "ensemble",
    "model comparison",
    "preparation",
    "noise",
    "predictive",
    "likelihood",
    "density",
    "likelihood score",
    "evidence",
    "intervals",
    "limits",
    "residuals",
    "listed models",
    "strange data",
    "local check",
)
"""How they are asked and shown; one that is not named here comes last."""


@cache
def every_diagnostic() -> tuple[Diagnostic, ...]:
    """One instance of each diagnostic class, in the order of `ORDER`."""
    names = sorted(each.name for each in pkgutil.iter_modules(diagnostics.__path__, "sciinf.diagnostics."))
    own = ((name, vars(importlib.import_module(name)).values()) for name in names)
    kinds = [one for name, values in own for one in values if isinstance(one, type) and one.__module__ == name]
    found = [one() for one in kinds if issubclass(one, Diagnostic)]
    place = {name: k for k, name in enumerate(ORDER)}
    return tuple(sorted(found, key=lambda one: (place.get(one.name, len(place)), one.name)))


def diagnose(case: Case) -> tuple[Finding, ...]:
    """Run all diagnostics whose needs an answer meets; return their findings."""
    for one in every_diagnostic():
        if one.needs <= case.has:
            try:
                case.found.extend(one.findings(case))
            # These errors come from the check's code, not from the answer.
            except (TypeError, AttributeError, NameError, LookupError) as error:
                what = f"{type(error).__name__}: {error}"
                raise RuntimeError(f"the check {one.name!r} ({type(one).__module__}) failed: {what}") from error
    return tuple(case.found)
