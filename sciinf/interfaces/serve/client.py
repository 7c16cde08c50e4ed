"""Python client of a service: answers of another machine, in the form that `sciinf.query` returns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final
from urllib.parse import quote

from sciinf.core import Answer, Calibration, Observable, as_observation
from sciinf.interfaces.serve.wire import MEDIA, answer_in, unpack


def connect(url: str, token: str | None = None, *, timeout: float = 300.0) -> ServiceClient:
    """Connect to a service that `sciinf serve` runs.

    Args:
        url: Address of the service, such as "http://localhost:8000".
        token: Access token, if the service needs one.
        timeout: Longest time to wait for an answer, in seconds.

    Returns:
        The client of the service, which answers `service.query(x)`.

    Raises:
        ImportError: If httpx is not installed.
        ConnectionError: If nothing answers at the address, or if what answers is no service of sciinf.
        PermissionError: If the token is missing or wrong.

    Examples:
        >>> service = connect("http://localhost:8000")  # doctest: +SKIP
        >>> service.query("cell8.csv")  # doctest: +SKIP
    """
    return ServiceClient(url, token, timeout)


@final
class ServiceClient:
    """Client of a service; `connect` makes one.

    Args:
        url: Address of the service.
        token: Access token; None if the service needs none.
        timeout: Longest time to wait for an answer, in seconds.
    """

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        try:
            import httpx
        except ImportError as error:
            raise ImportError(f"to ask a service, packages are missing ({error}): pip install -e '.[serve]'") from error

        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._failures, self.url = (httpx.TransportError, httpx.InvalidURL), url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)
        self._calibrations: dict[tuple[str, str, str], Calibration] = {}
        self.models: dict[str, Mapping[str, Any]] = {one["name"]: one for one in self._get("/models")["models"]}

    def __repr__(self) -> str:
        return f"service at {self.url} of {', '.join(self.models)}"

    def query(
        self,
        x: Any,
        model: str | None = None,
        *,
        level: float = 0.9,
        draws: int = 10_000,
        seed: int = 0,
        checks: bool = False,
        name: str | None = None,
    ) -> Answer:
        """Ask the service for the parameters behind one observation, as `sciinf.query` does on this machine.

        If the run has answered this observation, the service may return the stored answer, with all its checks. For
        that, the level must be that of the stored answer. Draws and seed must be those of the stored answer, or the
        defaults. With `checks`, the stored answer must have the local check. Otherwise a new answer is made, and takes
        over the findings of the stored one.

        Args:
            x: One observation: observable name -> array or astropy quantity of its event shape. With one observable, an
                array or quantity without a name will do. Or the path of the observation's file.
            model: Name of the run that answers; it may be left out if the service has only one.
            level: Credible level of the central intervals.
            draws: Number of posterior draws.
            seed: Seed of the draws.
            checks: Whether the service's simulator checks the answer at this observation, which takes seconds. Without
                that check, the verdict says so, and is at best "rely with care".
            name: Name of the observation; by default the name of its file.

        Returns:
            The answer, with draws, calibration and verdict.

        Raises:
            ValueError: If the question has no answer, or x does not fit the observables.
            FileNotFoundError: If there is no such file.
            ConnectionError: If the service cannot be reached, or cannot answer now.
            PermissionError: If the token is missing or wrong.
        """
        name_of = self._named(model)
        said: dict[str, Any] = {"level": level, "draws": draws, "seed": seed, "checks": checks}
        said |= {} if name is None else {"name": name}
        how: dict[str, Any]
        if isinstance(x, str | Path):
            file = Path(x)
            form = {key: value if isinstance(value, str) else _plain(value) for key, value in said.items()}
            how = {"files": {"file": (file.name, file.read_bytes())}, "data": form}
        else:
            how = {"json": {**said, "x": _lists(self.models[name_of], x)}}
        at = f"/models/{quote(name_of, safe='')}"
        content = self._send("POST", f"{at}/answer", headers={"accept": MEDIA}, **how).content
        head, arrays = unpack(content)
        return answer_in(head, arrays, self._calibration(at, head["answer"]["calibration"]["fit"], head["digest"]))

    def _named(self, model: str | None) -> str:
        there = ", ".join(self.models)
        if model is None and len(self.models) == 1:
            return next(iter(self.models))
        if model is None:
            raise ValueError(f"the service has several models; name one of them: model= {there}")
        if model not in self.models:
            raise ValueError(f"the service has no model {model!r}; it has {there}")
        return model

    def _calibration(self, at: str, fit: str | None, digest: str) -> Calibration | None:
        """Calibration of a fit, requested from the service only once for each digest of the run."""
        if fit is None:
            return None
        key = (at, fit, digest)
        if key not in self._calibrations:
            self._calibrations[key] = Calibration.from_json(self._get(f"{at}/calibration/{fit}"))
        return self._calibrations[key]

    def _get(self, path: str) -> Any:
        return self._send("GET", path).json()

    def _send(self, method: str, path: str, **how: Any) -> Any:
        try:
            response = self._http.request(method, path, **how)
        except self._failures as error:
            raise ConnectionError(f"the service at {self.url} cannot be reached: {error}") from error
        if response.status_code == 200:
            return response
        try:
            words = str(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            words = f"{self.url} answers with status {response.status_code}; it may be no service of sciinf"
        if response.status_code in (401, 403):
            raise PermissionError(words)
        raise (ValueError if response.status_code in (400, 404, 409, 413, 422) else ConnectionError)(words)


def _lists(model: Mapping[str, Any], x: Any) -> dict[str, Any]:
    """Values of an observation as nested lists, checked and converted to the observables' units."""
    if not model["ready"]:
        raise ValueError(model["reason"])
    specs = {one["name"]: Observable.from_json(one) for one in model["observables"]}
    return {name: value[0].tolist() for name, value in as_observation(specs, x).items()}


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
