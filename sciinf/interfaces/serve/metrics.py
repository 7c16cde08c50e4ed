"""Counters of the service, and their text in Prometheus's format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, final

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@final
class Metrics:
    """Counts of requests by HTTP status, and a histogram of the seconds that answers took."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds, self._count = 0.0, 0

    def add(self, status: int, seconds: float | None) -> None:
        """Count a request.

        Args:
            status: HTTP status of the response.
            seconds: Time that the response took; None if the request asked no question.
        """
        self.statuses[status] += 1
        if seconds is not None:
            self._count += 1
            self._seconds += seconds
            for bucket in _BUCKETS:
                self._buckets[bucket] += seconds <= bucket

    def text(self, state: Mapping[str, Any]) -> str:
        """All counters, in Prometheus's text format.

        Args:
            state: State of the engine, as `AnsweringEngine.state` returns it; its numbers are listed too.
        """
        lines = ["# TYPE sciinf_requests_total counter"]
        lines += [
            f'sciinf_requests_total{{status="{status}"}} {count}' for status, count in sorted(self.statuses.items())
        ]
        lines += ["# TYPE sciinf_answer_seconds histogram"]
        lines += [f'sciinf_answer_seconds_bucket{{le="{b}"}} {self._buckets[b]}' for b in _BUCKETS]
        lines += [f'sciinf_answer_seconds_bucket{{le="+Inf"}} {self._count}']
        lines += [f"sciinf_answer_seconds_sum {self._seconds:.6f}", f"sciinf_answer_seconds_count {self._count}"]
        for name, value in state.items():
            if isinstance(value, bool | int | float):
                lines += [f"# TYPE sciinf_worker_{name} gauge", f"sciinf_worker_{name} {float(value):g}"]
        return "\n".join(lines) + "\n"
