"""Metrics: a registry that is passed to whoever counts, never the library's global one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Gauge, Info
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector


def new_registry(component: str, version: str) -> CollectorRegistry:
    """A registry that counts the process itself (memory, processor, garbage collection) and says what runs."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    Info("zonal_build", "What runs here.", registry=registry).info({"component": component, "version": version})
    return registry


def render(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """Body and content type for a scrape; `accept` is the request's header."""
    encode, content_type = choose_encoder(accept)
    body: bytes = encode(registry)
    return body, content_type


def gauges(
    registry: CollectorRegistry, name: str, about: str, values: Sequence[tuple[Mapping[str, str], Callable[[], float]]]
) -> None:
    """Gauges of one name, each with its labels; all have the same label names."""
    made = Gauge(name, about, sorted(values[0][0]), registry=registry)
    for labels, value in values:
        (made.labels(**labels) if labels else made).set_function(value)
