"""OpenAPI description of the service, with the shapes and units of each served model's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sciinf.core.files import versions
from sciinf.core.findings import Level
from sciinf.interfaces.serve.downloads import KINDS
from sciinf.interfaces.serve.requests import DRAWS, PARTS
from sciinf.interfaces.serve.requests import KINDS as FILES

_SEED = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_CHECKS = "check the answer by simulations (local check, predictions, residuals); the verdict says where it was not"
_LEVEL = {"type": "string", "enum": [str(level) for level in Level]}
_WORDS, _FLAG = {"type": "string"}, {"type": "boolean"}
_FINDING = {"name": _WORDS, "level": _LEVEL, "verdict": _WORDS, "text": _WORDS, "kind": _WORDS, "weaker": _FLAG}
_ANSWER = {
    "id": _WORDS,
    "verdict": _LEVEL,
    "sentence": _WORDS,
    "word": _WORDS,
    "findings": {"type": "array", "items": {"type": "object", "properties": _FINDING}},
    "stored": {**_FLAG, "description": "whether it is the answer in the run folder"},
    "checked": {**_FLAG, "description": "whether it was checked at this observation"},
    "parameters": {"type": "object"},
}
_ERRORS = {
    400: "it cannot be read",
    401: "a token is missing or wrong",
    404: "nothing of that name is served",
    409: "the run is not trained yet",
    413: "it is too large",
    422: "it was read, and cannot be answered",
    429: "too many questions wait, or the token has asked for all that it may on this day",
    503: "no answer now; ask again",
    504: "it took too long",
}


def document(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The whole OpenAPI document of the service.

    Args:
        models: Descriptions of the models, as `application.describe` returns them.
    """
    paths: dict[str, Any] = {
        "/models": {"get": _operation("All models", "models")},
        "/health": {"get": _operation("Whether questions can be answered now", "health", errors=(503,))},
    }
    for model in models:
        if model["ready"]:
            paths |= _paths(model)
    return {
        "openapi": "3.1.0",
        "info": {"title": "sciinf", "version": versions()["sciinf"], "description": "Posteriors, with their verdicts."},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
    }


def _paths(model: Mapping[str, Any]) -> dict[str, Any]:
    """Paths and operations of one model."""
    name, every = model["name"], tuple(_ERRORS)
    at, id, few = f"/models/{name}", _parameter("id"), (404, 409, 503, 504)
    kinds = _parameter("kind", list(KINDS))
    asked = _operation("The posterior of an observation, with its verdict", f"{name}_answer", every, reply=_ANSWER)
    drawn = _operation("Its draws", f"{name}_draws", few, [id, kinds], "*/*")
    found = {
        at: {"get": _operation("What it is asked about, and how it was checked", f"{name}_model")},
        f"{at}/answer": {"post": {**asked, "requestBody": {"required": True, "content": _question(model)}}},
        f"{at}/answers/{{id}}": {"get": _operation("An answer again", f"{name}_again", few, [id], reply=_ANSWER)},
        f"{at}/answers/{{id}}/draws.{{kind}}": {"get": drawn},
    }
    if model["simulator"]:
        schema = _theta(model["parameters"])
        if model["as_seen"]:
            schema["required"].append("x")
            schema["properties"]["x"] = _data(model["observables"])
        content = {"application/json": {"schema": schema}}
        simulated = _operation("Data for parameters", f"{name}_simulate", every)
        found[f"{at}/simulate"] = {"post": {**simulated, "requestBody": {"required": True, "content": content}}}
    return found


def _question(model: Mapping[str, Any]) -> dict[str, Any]:
    """Schemas of a question to a model, as JSON or as files."""
    data = _data(model["observables"])
    question = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "x": data,
            "observation": {"type": "string", "enum": model["observations"]},
            "observations": {"type": "array", "minItems": 1, "items": data},
            **_fields(),
        },
    }
    words = f"files that hold the observation: {', '.join(FILES)}"
    file = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": words}
    files = {"type": "object", "required": ["file"], "properties": {"file": file, **_fields()}}
    return {"application/json": {"schema": question}, "multipart/form-data": {"schema": files}}


def _theta(parameters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Schema of the parameters and the seed of a simulation."""
    theta = {
        "type": "object",
        "required": [one["name"] for one in parameters],
        "additionalProperties": False,
        "properties": {one["name"]: _value(one) for one in parameters},
    }
    return {"type": "object", "required": ["theta"], "properties": {"theta": theta, "seed": _SEED}}


def _value(one: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of one parameter: a number, one of its labels, or null if the parameter need not exist."""
    about = one["prior"]
    said: dict[str, Any] = {"type": "number", "description": one["unit"]}
    if "values" in about:
        said = {"type": "string", "enum": list(about["values"]), "description": one["unit"]}
    if "exists" not in about:
        return said
    more = {"enum": [*said["enum"], None]} if "enum" in said else {}
    return {**said, "type": [said["type"], "null"], **more}


def _fields() -> dict[str, Any]:
    """Schemas of the fields of a question beside its data."""
    return {
        "level": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "default": 0.9},
        "draws": {"type": "integer", "minimum": 1, "default": DRAWS},
        "seed": {**_SEED, "default": 0},
        "checks": {"type": "boolean", "default": False, "description": _CHECKS},
        "include": {"type": "array", "items": {"type": "string", "enum": list(PARTS)}},
        "name": {"type": "string"},
    }


def _data(observables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Schema of one observation: nested lists of each observable's shape."""
    properties = {}
    for one in observables:
        schema: dict[str, Any] = {"type": "boolean" if one["dtype"] == "bool" else "number"}
        for size in reversed(one["shape"]):
            schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
        shape = " x ".join(map(str, one["shape"])) or "a number"
        properties[one["name"]] = {**schema, "description": f"{shape}, {one['unit'] or 'dimensionless'}"}
    return {
        "type": "object",
        "required": [one["name"] for one in observables],
        "additionalProperties": False,
        "properties": properties,
    }


def _operation(
    summary: str,
    name: str,
    errors: Sequence[int] = (404, 503),
    parameters: Sequence[Mapping[str, Any]] = (),
    kind: str = "application/json",
    reply: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    schema = {"type": "object", "properties": reply or {}} if kind == "application/json" else {}
    said = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    told = {
        str(status): {"description": _ERRORS[status], "content": {"application/json": {"schema": said}}}
        for status in sorted({400, 401, *errors})
    }
    good = {"200": {"description": summary, "content": {kind: {"schema": schema}}}}
    return {"summary": summary, "operationId": name, "parameters": list(parameters), "responses": {**good, **told}}


def _parameter(name: str, values: Sequence[str] = ()) -> dict[str, Any]:
    schema = {"type": "string", **({"enum": list(values)} if values else {})}
    return {"name": name, "in": "path", "required": True, "schema": schema}
