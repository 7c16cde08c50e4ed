"""An S3 service on loopback for tests and benchmarks: moto's, behind a door that refuses, cuts and delays on request.

Puts pass one at a time, because moto looks and writes in two steps; S3 does both in one.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

REGION = "us-east-1"
SIGNS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION}


class Server:
    """A service with one bucket that keeps all versions of an object.

    `fault` is asked for each request, with method and path, and says what becomes of it: "" passes; a status, such as
    "503", refuses it; "done:500" does it and answers with an error; "cut" does it and breaks the connection; "late"
    answers after two seconds; "deaf" takes no notice of conditions.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            protocol_version = "HTTP/1.1"

            def log(self, *args: Any, **_: Any) -> None:
                pass

        self.fault: Callable[[str, str], str] = lambda method, path: ""
        self.met: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self._inner, self._one = DomainDispatcherApplication(create_backend_app), threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._door, threaded=True, request_handler=Quiet)
        self.url, self.bucket = f"http://127.0.0.1:{self._server.port}", "simulations"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What lets a process find it."""
        return {**SIGNS, "AWS_ENDPOINT_URL": self.url}

    def stop(self) -> None:
        """End it; what it holds is gone."""
        self._server.shutdown()

    def client(self) -> Any:
        """A client that is not ours."""
        import boto3

        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
        return boto3.client("s3", endpoint_url=self.url, **keys)

    def open_bucket(self) -> None:
        """Make the bucket."""
        client = self.client()
        client.create_bucket(Bucket=self.bucket)
        client.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})

    def versions(self, prefix: str) -> Counter[str]:
        """How often each object below a prefix was written; marks of removal count as well."""
        pages = self.client().get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=prefix)
        found = Counter[str]()
        for page in pages:
            found.update(each["Key"] for kind in ("Versions", "DeleteMarkers") for each in page.get(kind, ()))
        return found

    @contextlib.contextmanager
    def failing(self, fault: Callable[[str, str], str]) -> Iterator[None]:
        """Let requests meet a fault; `met` then counts them."""
        self.fault, before = fault, self.fault
        self.met.clear()
        try:
            yield
        finally:
            self.fault = before

    def _door(self, environ: Any, start: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        fault = self.fault(method, path)
        self.met[fault] += 1
        self.asked[method] += 1
        if fault == "late":
            time.sleep(2)
        if fault == "deaf":
            for name in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"):
                environ.pop(name, None)
        if fault in ("", "late", "deaf"):
            return self._passed(environ, start)
        if fault == "cut" or fault.startswith("done:"):
            b"".join(self._passed(environ, lambda *_: None))
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if fault == "cut":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        start(f"{'500' if fault == 'cut' else fault.removeprefix('done:')} Refused", [("Content-Length", "0")])
        return [b""]

    def _passed(self, environ: Any, start: Any) -> Any:
        if environ["REQUEST_METHOD"] != "PUT":
            return self._inner(environ, start)
        with self._one:
            return list(self._inner(environ, start))


def at_random(seed: int, share: float, faults: tuple[str, ...], methods: tuple[str, ...] = ("PUT",)) -> Any:
    """A share of the requests meets one of some faults."""
    draws, one = random.Random(seed), threading.Lock()

    def fault(method: str, path: str) -> str:
        with one:
            return draws.choice(faults) if method in methods and draws.random() < share else ""

    return fault


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A service, to which the environment of this process points."""
    server = Server()
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
    try:
        server.open_bucket()
        yield server
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def main() -> None:
    """Serve until the standard input ends; the address is the first line."""
    server = Server()
    server.open_bucket()
    print(server.url, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
