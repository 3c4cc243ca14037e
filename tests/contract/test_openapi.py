"""The OpenAPI document against a running API: what it promises must hold for whatever is sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from global_cp.authorities import Authorities
from global_cp.follow import GlobalOwner
from global_cp.progress import ZonesProgress
from shared.api.app import build_api
from shared.api.openapi import document
from shared.events.log import MemoryLog
from shared.history.order import Plane
from shared.history.plane import PlaneHistory
from shared.history.works import Works
from shared.keys.seal import Keyring, Sealer
from tests.api.memory_store import ADMIN, MemoryStore, RawMemory, Tokens
from tests.conftest import take_port

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
STARTED_SECONDS = 10
FRAMING = ("transfer-encoding", "content-length", "connection", "upgrade", "expect", "host")
"""Headers of HTTP itself: with nonsense in them a request ends before the API."""

schema = schemathesis.openapi.from_dict(document("global", "1"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API in uvicorn on loopback, with the mesh `default` and one of each kind that global may write."""
    port = take_port()
    store = MemoryStore()
    past = PlaneHistory(
        {"global": RawMemory(store.log), "east": RawMemory(MemoryLog())}, tmp_path_factory.mktemp("history")
    )
    keyring = Keyring("global", X25519PrivateKey.generate())
    authorities = Authorities(keyring, Sealer({"global": keyring.public}), lambda: datetime.now(UTC))
    api = build_api(
        store,
        authenticator=Tokens(),
        role="global",
        version="1",
        past=past,
        works=Works(Plane("", "nats://127.0.0.1:1", "", "", ""), tmp_path_factory.mktemp("tasks")),
        tracer=ZonesProgress(("east",)),
        reads=GlobalOwner(MemoryLog(), ("east",), authorities, lambda: None),
    )
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + STARTED_SECONDS
        while not server.started and time.monotonic() < deadline:
            thread.join(0.02)
        service = {"match": {"port": 80}, "endpoints": [{"address": "example.com", "port": 80}]}
        resources = [
            {"type": "Mesh", "name": "default"},
            {"type": "Zone", "name": "east"},
            {"type": "Secret", "name": "key", "data": "YQ=="},
            {"type": "MeshExternalService", "name": "web", "spec": service},
        ]
        httpx.post(f"{url}/apply", json={"resources": resources}, headers=ADMIN).raise_for_status()
        yield url
    finally:
        server.should_exit = True
        thread.join(STARTED_SECONDS)


@schema.parametrize()
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_document_holds(case: Any, address: str) -> None:
    """No call makes a 5xx, an undocumented status, another media type or another shape; wrong data is refused."""
    if str(case.query.get("waitMs", "")).isdigit():
        case.query["waitMs"] = 1  # nobody has the time to wait for news
    for name in [one for one in case.headers or () if one.lower() in FRAMING]:
        del case.headers[name]
    response = case.call(base_url=address, headers=ADMIN, timeout=10)
    # Unknown query parameters and headers are ignored, as HTTP has it; a body is held to its schema.
    body = case.meta.components.get(ParameterLocation.BODY) if case.meta else None
    wrong = body is not None and body.mode.is_negative
    case.validate_response(response, checks=[*CHECKS, negative_data_rejection] if wrong else CHECKS)


def test_every_call_but_health_needs_a_token(address: str) -> None:
    """Each documented operation answers 401 without a token, except health."""
    paths = document("global", "1")["paths"]
    for path, item in paths.items():
        for method in ("get", "put", "post", "delete"):
            if method in item:
                url = address + path.replace("{mesh}", "default").replace("{name}", "web").replace("{n}", "1")
                expected = 200 if path in ("/healthy", "/ready") else 401
                assert httpx.request(method, url).status_code == expected, (method, path)


def test_structs_of_one_name_have_schemas_of_their_own() -> None:
    """A match of a service is a port and a protocol, one of a route is a path and headers."""
    schemas = document("global", "1")["components"]["schemas"]
    assert "Match" not in schemas
    assert set(schemas["ResourceMatch"]["properties"]) >= {"port", "protocol"}
    assert set(schemas["RoutePolicyMatch"]["properties"]) >= {"path", "method", "headers"}
    assert schemas["MeshExternalServiceSpec"]["properties"]["match"] == {"$ref": "#/components/schemas/ResourceMatch"}
