"""Components: objects with a record of their constructor call, from which JSON can rebuild them.

A fit is therefore stored as JSON, never as a pickle, which could run code when it is loaded.
"""

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
    """The base class of everything that a fit is built from (estimators, flows, summaries).

    Constructor arguments must be plain values (None, bool, int, float, str, lists and mappings of them),
    distributions, priors, observables, other components or functions of a module. This is checked when the
    fit is saved.

    Attributes:
        earlier: Arguments added since the first version -> the value for rebuilding older files without them.
        unwritten: Arguments of `earlier` that are not written if they have that value. Older versions did not
            write them, so digests and settings of the same component stay the same.
    """

    earlier: ClassVar[Mapping[str, Any]] = {}
    unwritten: ClassVar[frozenset[str]] = frozenset()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        try:
            call = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
        except TypeError:
            check_keywords(cls.__init__, cls.__name__, kwargs)
            return self  # This is a copy, whose state follows, or a wrong call, which __init__ reports.
        call.apply_defaults()
        object.__setattr__(self, "_call", dict(list(call.arguments.items())[1:]))
        return self


def rebuilt(component: Any, **arguments: Any) -> Any:
    """A new component from the constructor call of another one, without changes made since that call.

    Args:
        component: The component to rebuild.
        **arguments: Constructor arguments to replace. Names that the constructor call does not have are
            ignored.
    """
    call = _named_alone(getattr(component, "_call"))  # noqa: B009  (set by __new__, as above)
    return type(component)(**{name: arguments.get(name, value) for name, value in call.items()})


def called_with(component: Any, **arguments: Any) -> None:
    """Replace constructor arguments in a component's record, by values that it chose from the data since.

    Args:
        component: The component.
        **arguments: Constructor arguments and their new values.
    """
    getattr(component, "_call").update(arguments)  # noqa: B009  (set by __new__, as above)


def called_without(component: Any, *names: str) -> None:
    """Remove arguments with default values from a component's record.

    The component is then saved as before these arguments existed, and fits trained with it are recognised
    again.

    Args:
        component: The component.
        *names: Names of constructor arguments that now have their default values.
    """
    for name in names:
        getattr(component, "_call").pop(name, None)  # noqa: B009  (set by __new__, as above)


def to_json(value: Any) -> Any:
    """Components, priors, observables, distributions, functions and plain values as plain JSON values.

    Raises:
        TypeError: If a value cannot be described in JSON. The message says in which component the value is.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{value} cannot be saved, because JSON has finite numbers only; pass None for no bound")
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
        f"{value!r} cannot be saved; pass numbers, strings, lists, distributions, priors, observables, components or "
        "functions of a module"
    )


def from_json(data: Any, *, trust: Sequence[str | Path] = ()) -> Any:
    """The value whose JSON `to_json` wrote.

    Args:
        data: Plain JSON values.
        trust: Code outside sciinf that may be used: modules, by name, and a user's files or folders (with the
            files beside them), by path. A file that has moved since the JSON was written is recognised by its
            name.

    Raises:
        ValueError: If the JSON names a class or function outside sciinf and the trusted code, or one that
            does not exist or is not a component.
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
            raise ValueError(
                f"the file names {path!r}, but its module defines no function of this name; load the file with the "
                "code that wrote it"
            )
        return found
    if "$class" in data:
        kind = _component_class(present_name(str(data["$class"])), trust)
        given = {str(k): from_json(v, trust=trust) for k, v in _named_alone(data["arguments"]).items()}
        return kind(**{**kind.earlier, **given})
    return {k: from_json(v, trust=trust) for k, v in data.items()}


def _as_earlier(kind: type[Component], name: str, value: Any) -> bool:
    """Whether an argument need not be written, because files without it are rebuilt with the same value."""
    return name in kind.unwritten and type(value) is type(kind.earlier[name]) and value == kind.earlier[name]


def _named_alone(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments without empty "args" and "kwargs", which a class without a constructor has recorded.

    The class may have got a constructor since, which does not take these two.
    """
    empty = all(not arguments.get(name, True) for name in ("args", "kwargs"))
    return {} if empty and len(arguments) == 2 else arguments


def _component_class(path: str, trust: Sequence[str | Path]) -> type[Component]:
    path, kind = _named(path, trust)
    if not (isinstance(kind, type) and issubclass(kind, Component)):
        raise ValueError(
            f"the file asks to build {path!r}, which is not a component: "
            "no subclass of sciinf.core.component.Component has this name"
        )
    return kind


def _named(path: str, trust: Sequence[str | Path]) -> tuple[str, object]:
    """The present path of a class or function, and the object, or None; sciinf and trusted code only."""
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
