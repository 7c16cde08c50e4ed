"""Web application of the service: HTTP requests in, answers of `sciinf query` out.

The application uses Starlette, because routes are all that it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from torch import distributions as td

from sciinf.core import Observable, Prior
from sciinf.core.files import finite_json
from sciinf.core.levels import Levels
from sciinf.core.records import Calibration, calibration_finding, said_of
from sciinf.interfaces.figures.prior_curves import prior_marginals
from sciinf.interfaces.serve import requests
from sciinf.interfaces.serve.downloads import KINDS, draws_file
from sciinf.interfaces.serve.engine import AnsweringEngine, Broken, Busy
from sciinf.interfaces.serve.limits import Limits, Quota, guarded, token_in
from sciinf.interfaces.serve.live import Live
from sciinf.interfaces.serve.metrics import Metrics
from sciinf.interfaces.serve.models import Model, Models, NotReady, Served, UnknownName
from sciinf.interfaces.serve.openapi import document
from sciinf.interfaces.serve.page import POLICY, page, static_file
from sciinf.interfaces.serve.reading import Body
from sciinf.interfaces.serve.replies import check_same, reply
from sciinf.interfaces.serve.requests import ObservationRequest, Questions, RequestLimits
from sciinf.interfaces.serve.shares import Shares
from sciinf.interfaces.serve.wire import MEDIA, unpack
from sciinf.networks.summaries.timed import set_names

_DRAWS, _ENDS, _POINTS = 50_000, (0.001, 0.999), 64


@dataclass(frozen=True)
class ServiceParts:
    """Parts of the service.

    Args:
        models: The runs that are served.
        engine: The engine that answers questions.
        shares: Store of earlier questions and answers, by id.
        limits: Access rules and load limits.
        bounds: Largest request that is accepted.
    """

    models: Models
    engine: AnsweringEngine
    shares: Shares
    limits: Limits
    bounds: RequestLimits


def application(parts: ServiceParts) -> Any:
    """Build the ASGI application of the service, with its limits in front."""
    service = Service(parts)
    routes = [
        Route("/", service.index),
        Route("/static/{name}", service.static),
        Route("/health", service.health),
        Route("/metrics", service.tell_metrics),
        Route("/openapi.json", service.openapi),
        Route("/models", service.list_models),
        Route("/models/{name}", service.one_model),
        Route("/models/{name}/answer", service.answer, methods=["POST"]),
        Route("/models/{name}/calibration/{fit}", service.calibration),
        Route("/models/{name}/answers/{id}", service.again),
        Route("/models/{name}/answers/{id}/draws.{kind}", service.download),
        Route("/models/{name}/simulate", service.simulate, methods=["POST"]),
        Route("/models/{name}/events", service.events),
    ]
    handlers: Mapping[Any, Any] = {
        UnknownName: _failed(404),
        NotReady: _failed(409),
        requests.Unreadable: _failed(400),
        requests.Unfit: _failed(422),
        requests.TooMuch: _failed(413),
        Busy: _failed(503),
        HTTPException: _failed(500),
        Broken: _failed(500, _WRONG),
        Exception: _failed(500, _WRONG),
    }
    inner = Starlette(routes=routes, exception_handlers=handlers, lifespan=service.lifespan)
    return guarded(inner, parts.limits, service.metrics)


@final
class Service:
    """Handlers of HTTP requests, one for each route.

    Args:
        parts: Parts of the service.
    """

    def __init__(self, parts: ServiceParts) -> None:
        self.parts, self.metrics, self._live = parts, Metrics(), Live()
        self._quota = Quota(parts.limits)
        self._described: dict[str, dict[str, Any]] = {}

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Start the engine with the service, and stop the engine when the service ends."""
        await self.parts.engine.start()
        try:
            yield
        finally:
            await self.parts.engine.stop()
            self.parts.shares.close()

    async def index(self, request: Request) -> Response:
        """Reply with the web page."""
        return HTMLResponse(page(), headers={"content-security-policy": POLICY})

    async def static(self, request: Request) -> Response:
        """Reply with a file that the page loads."""
        found = static_file(request.path_params["name"])
        if found is None:
            raise HTTPException(404, "there is no such file")
        return Response(found[0], media_type=found[1], headers={"cache-control": "no-cache"})

    async def health(self, request: Request) -> Response:
        """Reply whether questions can be answered now."""
        state = self.parts.engine.state()
        return _json({"status": "ok" if state["alive"] else "starting", **state}, 200 if state["alive"] else 503)

    async def tell_metrics(self, request: Request) -> Response:
        """Reply with the service's counters for Prometheus."""
        return Response(self.metrics.text(self.parts.engine.state()), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        """Reply with the OpenAPI description of the service."""
        return _json(document([await self._described_as(name) for name in self.parts.models.sources]))

    async def list_models(self, request: Request) -> Response:
        """Reply with the descriptions of all models."""
        return _json({"models": [await self._described_as(name) for name in self.parts.models.sources]})

    async def one_model(self, request: Request) -> Response:
        """Reply with the description of one model."""
        name = request.path_params["name"]
        self.parts.models.source(name)
        return _json(await self._described_as(name))

    async def answer(self, request: Request) -> Response:
        """Reply with the answer to one question, or the answers to several."""
        model = await self._model(request)
        asked = await self._asked(request, model)
        self._count(request, asked.each)
        if request.headers.get("accept", "") == MEDIA and not asked.several:
            _, message = await self._given(model, asked.each[0])
            check_same(unpack(message)[0], model)
            return Response(message, media_type=MEDIA)
        answers = await asyncio.gather(*(self._answered(model, one, asked.include) for one in asked.each))
        return _json({"answers": answers} if asked.several else answers[0])

    async def again(self, request: Request) -> Response:
        """Reply with an earlier answer, by its id."""
        model = await self._model(request)
        include = [part for part in request.query_params.get("include", "draws,predictive").split(",") if part]
        one, message = await self._shared(request, model)
        about = _about(request.path_params["id"], one)
        return _json(await run_in_threadpool(reply, model, message, about, include))

    async def calibration(self, request: Request) -> Response:
        """Reply with the whole calibration of a fit, by the fit's digest."""
        found = (await self._model(request)).calibration_of(request.path_params["fit"])
        if found is None:
            raise HTTPException(404, "there is no calibration of this fit")
        return _json(found.to_json())

    async def download(self, request: Request) -> Response:
        """Reply with the draws of an answer as a file."""
        model, kind = await self._model(request), request.path_params["kind"]
        if kind not in KINDS:
            raise HTTPException(404, f"draws are there as {', '.join(KINDS)}, not as {kind[:20]}")
        one, message = await self._shared(request, model)
        content = await run_in_threadpool(draws_file, message, kind, model)
        name = f"{one.wanted.name}_draws.{kind}".encode("ascii", "replace").decode().replace("?", "_")
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type=KINDS[kind], headers=headers)

    async def simulate(self, request: Request) -> Response:
        """Reply with data that the simulator makes for given parameters."""
        model = await self._model(request)
        if model.simulator is None:
            raise HTTPException(404, f"{model.name} has no simulator here ({model.source.without or 'none was given'})")
        head, arrays = unpack(await self.parts.engine.simulate(model.name, await request.body()))
        check_same(head, model)
        return _json({name: value.tolist() for name, value in arrays.items()})

    async def events(self, request: Request) -> Response:
        """Reply with the stream of a run's progress events."""
        source = self.parts.models.source(request.path_params["name"])
        if self._live.full:
            raise Busy("too many listen to running campaigns already; try again later", 30)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(
            self._live.follow(Path(source.folder)), media_type="text/event-stream", headers=headers
        )

    async def _described_as(self, name: str) -> dict[str, Any]:
        """Description of a model, made once and then kept."""
        if name not in self._described:
            try:
                model = await run_in_threadpool(self.parts.models.get, name)
            except NotReady as why:
                return unready(self.parts.models.source(name), why)
            self._described[name] = await run_in_threadpool(describe, model)
        return self._described[name]

    async def _model(self, request: Request) -> Model:
        name = request.path_params["name"]
        opened = self.parts.models.opened(name)
        return opened if opened is not None else await run_in_threadpool(self.parts.models.get, name)

    async def _asked(self, request: Request, model: Model) -> Questions:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "multipart/form-data":
            body = await request.body()
            if len(body) < _SMALL:
                return requests.from_json(body, model, self.parts.bounds)
            return await self.parts.engine.read(model.name, Body([body]), self.parts.bounds)
        try:
            async with request.form(max_files=64, max_fields=32) as form:
                items = form.multi_items()
                files = [item for _, item in items if not isinstance(item, str)]
                fields = {name: item for name, item in items if isinstance(item, str)}
                names = [file.filename or "file" for file in files]
                body = Body([await file.read() for file in files], names, fields)
        except HTTPException as error:
            raise requests.Unreadable(f"the form cannot be read: {error.detail}") from error
        return await self.parts.engine.read(model.name, body, self.parts.bounds)

    def _count(self, request: Request, asked: Sequence[ObservationRequest]) -> None:
        """Count questions against the quota of the request's token; refuse them if the quota is used up."""
        token = token_in(request.headers) if self.parts.limits.tokens else ""
        self._quota.take(token, len(asked), sum(one.wanted.draws for one in asked))

    async def _answered(self, model: Model, one: ObservationRequest, include: tuple[str, ...]) -> dict[str, Any]:
        key, message = await self._given(model, one)
        return await run_in_threadpool(reply, model, message, _about(key, one), include)

    async def _given(self, model: Model, one: ObservationRequest) -> tuple[str, bytes]:
        """Answer a question and keep the answer; return the question's id and the answer."""
        key = self.parts.shares.key(model.name, model.digest, one)
        message = await self.parts.engine.answer(model.name, one)
        self.parts.shares.keep(key, model.name, one, message)
        return key, message

    async def _shared(self, request: Request, model: Model) -> tuple[ObservationRequest, bytes]:
        """The question of the requested id, and its answer, which is made again if it is no longer in memory."""
        find = self.parts.shares.find
        one, message = await run_in_threadpool(find, request.path_params["id"], model.name, model.digest)
        if message is None:
            self._count(request, [one])
            message = await self.parts.engine.answer(model.name, one)
            self.parts.shares.keep(request.path_params["id"], model.name, one, message)
        return one, message


_SMALL = 65_536  # Size in bytes below which a JSON body is read in this process, at once.
_WRONG = "something went wrong in the service; its log says what"


def _about(key: str, one: ObservationRequest) -> dict[str, Any]:
    return {"id": key, "level": one.wanted.level, "checked": one.wanted.predicted}


def _json(value: Any, status: int = 200) -> Response:
    body = json.dumps(finite_json(value), allow_nan=False, separators=(",", ":"))
    return Response(body, status, media_type="application/json")


def _failed(status: int, words: str = "") -> Callable[[Request, Exception], Awaitable[Response]]:
    """Build the handler that reports an error to the client: by the error's own text, unless `words` are given."""

    async def told(request: Request, error: Exception) -> Response:
        said: dict[str, Any] = {"error": words or " ".join(str(error).split())}
        found, headers = status, {}
        if isinstance(error, HTTPException):
            said["error"], found = str(error.detail), error.status_code
        if isinstance(error, requests.Unfit) and error.field:
            said["field"] = error.field
        if isinstance(error, Busy):
            headers["retry-after"], found = str(error.seconds), error.status
        whole = {name: text.encode("utf-8", "replace").decode() for name, text in said.items()}
        return JSONResponse(whole, found, headers)

    return told


def unready(source: Served, why: NotReady | None = None) -> dict[str, Any]:
    """Description of a run that cannot be asked, with the reason."""
    words = str(why) if why else f"{source.name} is not trained yet"
    return {"name": source.name, "ready": False, "reason": words}


def describe(model: Model) -> dict[str, Any]:
    """Description of a model: all that the page or a program needs before it asks a question."""
    posterior, simulator = model.first.posterior, model.simulator
    store, as_set = model.fit.record["store"], set_names(model.observables)
    return {
        "name": model.name,
        "ready": True,
        "parameters": _parameters(model),
        "observables": [{**_observable(name, spec), "set": name in as_set} for name, spec in model.observables.items()],
        "calibration": _calibration(model.first.calibration),
        "posterior": posterior.name,
        "scope": posterior.scope,
        "estimator": type(model.fit.estimator).__name__,
        "simulations": int(store.get("used", 0)),
        "simulator": simulator is not None,
        "as_seen": simulator is not None and simulator.like is not None,
        "without": "" if simulator else model.source.without,
        "derived": list(simulator.derived) if simulator else [],
        "observations": list(model.known),
        "digest": model.digest,
    }


def _parameters(model: Model) -> list[dict[str, Any]]:
    prior, labels = model.prior, dict(model.simulator.labels) if model.simulator else {}
    drawn = prior.sample(_DRAWS, generator=torch.Generator().manual_seed(0)).double().numpy()
    low, high = np.nanquantile(drawn, _ENDS, axis=0)
    ranges, discrete, when = list(zip(low.tolist(), high.tolist(), strict=True)), prior.discrete(), _when(prior)
    smooth = [k for k, name in enumerate(prior.names) if name not in discrete]
    curves = prior_marginals(prior, [prior.names[k] for k in smooth], [ranges[k] for k in smooth])
    laws = {name: _law(law) for law, place in prior.places() for name in prior.names[place]}
    in_order = {name for group in prior.existence.each.values() if group.increasing for name in group.columns}
    laws |= {name: f"{laws[name]}, in increasing order" for name in in_order}
    found = []
    for k, (name, unit) in enumerate(zip(prior.names, prior.units, strict=True)):
        curve = curves.get(name)
        grid = np.linspace(*ranges[k], _POINTS)
        density = [] if curve is None else np.interp(grid, *curve).tolist()
        about = {
            "law": laws[name],
            "low": ranges[k][0],
            "high": ranges[k][1],
            "grid": grid.tolist(),
            "density": density,
        }
        found.append({"name": name, "label": labels.get(name, ""), "unit": unit, "prior": about})
        if (levels := discrete.get(name)) is not None:
            about["values"], about["probabilities"] = list(levels.labels), levels.log_probs.exp().tolist()
        if name in when:
            about["exists"] = when[name]
    return found


def _when(prior: Prior) -> dict[str, dict[str, list[str]]]:
    """Conditions for parameters that need not exist.

    Returns:
        Parameter -> discrete parameter -> labels of the values with which the parameter exists.
    """
    laws = {prior.names[place.start]: (law, prior.names[place]) for law, place in prior.places()}
    conditions = prior.existence.conditions(prior.names, {name: law for name, (law, _) in laws.items()})
    found = {}
    for head, of in conditions.items():
        labels = {
            parent: [label for label, flag in zip(prior.discrete()[parent].labels, flags, strict=True) if flag]
            for parent, flags in of.items()
        }
        found |= dict.fromkeys(laws[head][1], labels)
    return found


def _law(law: td.Distribution) -> str:
    """Text of a prior distribution, such as "LogNormal(0, 0.5)"."""
    if isinstance(law, Levels):
        return repr(law)
    numbers = []
    for name in law.arg_constraints:
        value = getattr(law, name, None)
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            numbers.append(f"{float(value):.6g}")
    inside = ", ".join(numbers)
    return f"{type(law).__name__}({inside})" if numbers else type(law).__name__


def _observable(name: str, spec: Observable) -> dict[str, Any]:
    coordinates: Mapping[str, Any] | None = None
    if spec.coords:
        coordinates = {
            axis: {"values": list(values), "unit": spec.coord_units.get(axis, "")}
            for axis, values in spec.coords.items()
        }
    about = {"shape": list(spec.shape), "unit": spec.unit, "dims": list(spec.dims), "dtype": spec.dtype}
    return {"name": name, **about, "scale": spec.scale, "label": "", "coordinates": coordinates}


def _calibration(found: Calibration | None) -> dict[str, Any]:
    said = said_of(found)
    known = {key: said[key] for key in ("state", "reasons", "fit")}
    return {**known, "sentence": calibration_finding(said).line}
