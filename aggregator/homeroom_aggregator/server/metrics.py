"""Metrics for Prometheus, and one line of JSON for each request that tells nothing about people.

A line names the route, the status, the refusal's code, milliseconds, bytes, and eight digits of the device's key: no
address, no body, no school. It goes to the logger `homeroom.aggregator`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from homeroom.system.clock import now

LOGGER = logging.getLogger("homeroom.aggregator")
BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._refused = Gauge("homeroom_refused", "Refused since the start", ["code"], registry=self.registry)
        self._facts: dict[str, Gauge] = {}
        self._received = Counter("homeroom_received_bytes", "Bytes of bodies", registry=self.registry)
        self._seconds = Histogram(
            "homeroom_request_seconds",
            "From the request's end to its answer",
            ["route", "status"],
            registry=self.registry,
            buckets=BUCKETS_S,
        )

    def answered(
        self, method: str, route: str, status: int, seconds: float, size_bytes: int, device: str, code: str = ""
    ) -> None:
        """Count and log an answered request.

        method, route, status: of the request and its answer.
        seconds: from the request's end to its answer.
        size_bytes: of the body.
        device: the key that signed, or nothing.
        code: of a refusal.
        """
        self._seconds.labels(route, str(status)).observe(seconds)
        self._received.inc(size_bytes)
        if code:
            self._refused.labels(code).inc()
        if LOGGER.isEnabledFor(logging.INFO):
            line = {"at": now().isoformat(timespec="milliseconds"), "method": method, "route": route, "status": status}
            line |= {"ms": round(seconds * 1000, 1), "bytes": size_bytes}
            line |= ({"device": device[:8]} if device else {}) | ({"code": code} if code else {})
            LOGGER.log(logging.INFO if status < 500 else logging.ERROR, json.dumps(line))

    def text(self, facts: Mapping[str, float]) -> bytes:
        """All metrics in Prometheus' format, with the rounds' facts as gauges."""
        for name, value in facts.items():
            if name not in self._facts:
                about = f"See docs/aggregator.md: {name}"
                self._facts[name] = Gauge(f"homeroom_{name}", about, registry=self.registry)
            self._facts[name].set(value)
        return bytes(generate_latest(self.registry))
