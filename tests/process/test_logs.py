"""Logs: readable by machines, free of secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from shared.model.resource import ResourceKey
from shared.process import logs

PEM = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    written = io.StringIO()
    logs.configure("info", component="zone", stream=written)
    yield written
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_entry_is_one_json_object_with_its_component(stream: io.StringIO) -> None:
    """Time, level, component and what the caller said stand in one line; lower levels are left out."""
    log = structlog.get_logger()
    log.debug("unheard")
    log.info("zone joined", zone="east", g=7)
    (entry,) = entries(stream)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {"component": "zone", "event": "zone joined", "g": 7, "level": "info", "zone": "east"}


def test_libraries_log_the_same_way(stream: io.StringIO) -> None:
    """What is written through `logging` comes out as an entry too."""
    logging.getLogger("some.library").warning("odd: %s", PEM)
    (entry,) = entries(stream)
    assert entry["event"] == "odd: [hidden]"
    assert entry["level"] == "warning"


def test_secrets_are_hidden_by_name_and_by_form(stream: io.StringIO) -> None:
    """Nothing named like a secret and nothing that looks like one is written, however deep it stands."""
    structlog.get_logger().info(
        "start",
        adminToken="abc123",
        client_key="abc123",
        nested={"private": "abc123", "list": [PEM, "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhYmMxMjMifQ.abc123"]},
        raw=PEM.encode(),
        token_file="/run/token",
        resource=ResourceKey("Mesh", "", "default"),
    )
    text = stream.getvalue()
    assert "abc123" not in text
    assert "c2VjcmV0" not in text
    (entry,) = entries(stream)
    assert entry["token_file"] == "/run/token"
    assert entry["resource"] == "Mesh/default"
    assert entry["client_key"] == "[hidden]"


def test_secrets_are_hidden_in_tracebacks(stream: io.StringIO) -> None:
    """An exception's text is cleaned like everything else."""
    try:
        raise ValueError(PEM)
    except ValueError:
        structlog.get_logger().exception("broken")
    assert "c2VjcmV0" not in stream.getvalue()
    assert "ValueError" in entries(stream)[0]["exception"]


def test_no_registry_is_global() -> None:
    """Two registries of one process do not meet."""
    from shared.process import metrics

    first, second = metrics.new_registry("global", "1"), metrics.new_registry("zone", "1")
    body, content_type = metrics.render(first)
    assert b'component="global"' in body
    assert b'component="zone"' not in body
    assert b'component="zone"' in metrics.render(second)[0]
    assert content_type.startswith("text/plain")
