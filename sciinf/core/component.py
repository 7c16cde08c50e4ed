"""Components remember the constructor call that made them, so that a fit is rebuilt from JSON, never from a pickle."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from abc import ABC
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar

from torch import distributions as td

from sciinf.core.called import check_keywords
from sciinf.core.law_json import law_from_json, law_to_json
from sciinf.core.loading import at_hand, file_of, is_local
from sciinf.core.observable import Observable
from sciinf.core.prior import Prior
from sciinf.core.written_names import present_name, written_name


class Component(ABC):
    """Base of everything a fit is built from (estimators, flows, summaries).

    Arguments must be plain values (None, bool, int, float, str, lists and mappings of them), laws, priors, observables,
    other components or functions of a module; that is checked when the fit is saved.

    Attributes:
        earlier: Arguments that were added since the first version -> the value that older files are rebuilt with.
        unwritten: Those of them that are not written where they have that value, as older versions wrote none: what was
            made with it is known again.
    """

    earlier: ClassVar[Mapping[str, Any]] = {}
    unwritten: ClassVar[frozenset[str]] = frozenset()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        try:
            call = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
        except TypeError:
            check_keywords(cls.__init__, cls.__name__, kwargs)
            return self  # a copy (its state follows), or another wrong call, which __init__ reports itself
        call.apply_defaults()
        object.__setattr__(self, "_call", dict(list(call.arguments.items())[1:]))
        return self


def rebuilt(component: Any, **arguments: Any) -> Any:
    """A component as its constructor call made it, whatever has become of it since.

    Args:
        component: Which.
        **arguments: Of its constructor that are to be others; what it has not is left out.
    """
    call = _named_alone(getattr(component, "_call"))  # noqa: B009  (set by __new__, as above)
    return type(component)(**{name: arguments.get(name, value) for name, value in call.items()})


def called_with(component: Any, **arguments: Any) -> None:
    """Make a component remember other arguments than it was built with: those that it chose since, from the data.

    Args:
        component: Which.
        **arguments: Of its constructor.
    """
    getattr(component, "_call").update(arguments)  # noqa: B009  (set by __new__, as above)


def called_without(component: Any, *names: str) -> None:
    """Make a component forget arguments that it was left without, as if there were none: so it is saved as it was
    before there were any, and what was trained with it is known again.

    Args:
        component: Which.
        *names: Of arguments of its constructor that have defaults, and have them now.
    """
    for name in names:
        getattr(component, "_call").pop(name, None)  # noqa: B009  (set by __new__, as above)


def to_json(value: Any) -> Any:
    """Components, priors, observables and plain values as plain JSON values.

    Raises:
        TypeError: If a value has no plain description; the message says where it stands.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{value} cannot be saved, for JSON has finite numbers only; pass None for no bound")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Prior):
        return {"$prior": value.to_json()}
    if isinstance(value, Observable):
        return {"$observable": value.to_json()}
    if isinstance(value, td.Distribution):
        return {"$law": law_to_json(value)}
    if isinstance(value, FunctionType):
        path = f"{value.__module__}.{value.__qualname__}"
        own = sys.modules.get(value.__module__)
        if value.__module__ == "__main__" or getattr(own, value.__qualname__, None) is not value:
            raise TypeError(f"the function {path} cannot be saved; define it by its name in a module")
        return {"$function": written_name(path)}
    if isinstance(value, Component):
        kind = type(value)
        call = getattr(value, "_call")  # noqa: B009  (set by __new__, invisible to type checkers)
        try:
            arguments = {n: to_json(one) for n, one in call.items() if not _as_earlier(kind, n, one)}
        except TypeError as error:
            raise TypeError(f"in {kind.__name__}: {error}") from error
        return {"$class": written_name(f"{kind.__module__}.{kind.__qualname__}"), "arguments": arguments}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [to_json(v) for v in value]
    raise TypeError(
        f"{value!r} cannot be saved; pass numbers, strings, lists, laws, priors, observables, components or functions "
        "of a module"
    )


def from_json(data: Any, *, trust: Sequence[str | Path] = ()) -> Any:
    """The value that `to_json` wrote.

    Args:
        data: Plain JSON values.
        trust: What outside sciinf may be built: the components of a module, by its name, and those of a user's file or
            folder and of what lies beside it, by its path. A file found elsewhere than when the JSON was written is
            known by its name.

    Raises:
        ValueError: If a class outside sciinf and the trusted modules is named, or one that is no component.
    """
    if isinstance(data, list):
        return [from_json(v, trust=trust) for v in data]
    if not isinstance(data, dict):
        return data
    if set(data) == {"$prior"}:
        return Prior.from_json(data["$prior"])
    if set(data) == {"$observable"}:
        return Observable.from_json(data["$observable"])
    if set(data) == {"$law"}:
        return law_from_json(data["$law"])
    if set(data) == {"$function"}:
        path, found = _named(present_name(str(data["$function"])), trust)
        if not isinstance(found, FunctionType) or f"{found.__module__}.{found.__qualname__}" != path:
            raise ValueError(f"the file names {path!r}, and there is no function of that module with this name")
        return found
    if "$class" in data:
        kind = _component_class(present_name(str(data["$class"])), trust)
        given = {str(k): from_json(v, trust=trust) for k, v in _named_alone(data["arguments"]).items()}
        return kind(**{**kind.earlier, **given})
    return {k: from_json(v, trust=trust) for k, v in data.items()}


def _as_earlier(kind: type[Component], name: str, value: Any) -> bool:
    """Whether an argument is not written, for files without it are rebuilt with its value."""
    return name in kind.unwritten and type(value) is type(kind.earlier[name]) and value == kind.earlier[name]


def _named_alone(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments without the empty "args" and "kwargs" of a class that has no constructor, and may have one since."""
    empty = all(not arguments.get(name, True) for name in ("args", "kwargs"))
    return {} if empty and len(arguments) == 2 else arguments


def _component_class(path: str, trust: Sequence[str | Path]) -> type[Component]:
    path, kind = _named(path, trust)
    if not (isinstance(kind, type) and issubclass(kind, Component)):
        raise ValueError(f"the file names {path!r}, which is not a component of sciinf")
    return kind


def _named(path: str, trust: Sequence[str | Path]) -> tuple[str, object]:
    """What a path is called here and names, in sciinf or what is trusted; None where there is nothing of the name."""
    module, _, name = path.rpartition(".")
    for file in trust:
        if isinstance(file, Path) and (here := at_hand(module, file)):
            return f"{here}.{name}", _in_module(here, name, path)
    if is_local(module) and module not in trust:
        raise ValueError(
            f"the file names {path!r}, which is defined in a file of yours, {file_of(module)!r}, or beside it; say "
            "that you trust it: --simulator FILE on the command line, load_fit(..., trust=(Path(FILE),)) in Python"
        )
    if module.split(".")[0] != "sciinf" and module not in trust:
        raise ValueError(
            f"the file names {path!r}, which is outside sciinf; if you trust the module {module!r}, load it with "
            f"trust=({module!r},)"
        )
    return path, _in_module(module, name, path)


def _in_module(module: str, name: str, path: str) -> object:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise ValueError(f"the file names {path!r}, whose module does not exist here: {error}") from error
