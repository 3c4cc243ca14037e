"""Data sources through the API: both shapes users write, one canonical form in log and answers (decision 12)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from shared.api.app import build_api
from shared.events.event import encode_event
from tests.api.memory_store import ADMIN, MemoryStore, Tokens
from tests.e2e.handshakes import Issuer

PATH = "/meshes/default/meshexternalservices/web"
AUTHORITY = Issuer("a root")
CHAIN, KEY = AUTHORITY.issue("a client")


def inline(text: str) -> dict[str, Any]:
    return {"inline": base64.b64encode(text.encode()).decode()}


def flat(name: str) -> dict[str, Any]:
    return {"secret": name}


def typed(name: str) -> dict[str, Any]:
    return {"type": "Secret", "secretRef": {"kind": "Secret", "name": name}}


def typed_inline(text: str) -> dict[str, Any]:
    return {"type": "InsecureInline", "insecureInline": {"value": text}}


def mes(**sources: Any) -> dict[str, Any]:
    tls = {"enabled": True, "verification": sources}
    spec = {"match": {"port": 443}, "endpoints": [{"address": "example.com", "port": 443}], "tls": tls}
    return {"type": "MeshExternalService", "name": "web", "mesh": "default", "spec": spec}


def kubernetes(body: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": "web", "namespace": "kuma-system", "labels": {"kuma.io/mesh": "default"}}
    return {"apiVersion": "kuma.io/v1alpha1", "kind": "MeshExternalService", "metadata": metadata, "spec": body["spec"]}


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def api(store: MemoryStore) -> Iterator[TestClient[Litestar]]:
    with TestClient(build_api(store, authenticator=Tokens(), role="global")) as client:
        client.headers.update(ADMIN)
        secrets = [{"type": "Secret", "name": name, "data": "YQ=="} for name in ("ca", "cert", "key")]
        resources = [{"type": "Mesh", "name": "default"}, *secrets]
        assert client.post("/apply", json={"resources": resources}).status_code == 200
        yield client


def shown(api: TestClient[Litestar]) -> dict[str, Any]:
    found: dict[str, Any] = api.get(PATH).json()["spec"]["tls"]["verification"]
    return {name: found[name] for name in ("caCert", "clientCert", "clientKey") if name in found}


SECRETS = {"caCert": "ca", "clientCert": "cert", "clientKey": "key"}


@pytest.mark.parametrize("shape", [flat, typed])
@pytest.mark.parametrize("form", [lambda body: body, kubernetes], ids=["universal", "kubernetes"])
@pytest.mark.parametrize("way", ["put", "apply"])
def test_references_are_stored_in_the_flat_shape(api: TestClient[Litestar], shape: Any, form: Any, way: str) -> None:
    """`{secret: name}`, whichever shape, form and endpoint it came by."""
    body = form(mes(**{field: shape(name) for field, name in SECRETS.items()}))
    answer = api.put(PATH, json=body) if way == "put" else api.post("/apply", json={"resources": [body]})
    assert answer.status_code in (200, 201), answer.text
    assert shown(api) == {field: {"secret": name} for field, name in SECRETS.items()}


def test_the_two_shapes_are_the_same_resource(api: TestClient[Litestar], store: MemoryStore) -> None:
    """Applying the other shape of what stands there changes nothing and writes no event."""
    assert api.put(PATH, json=mes(caCert=flat("ca"))).status_code == 201
    events, tag = len(store.log.events), api.get(PATH).headers["etag"]
    for body in (mes(caCert=typed("ca")), kubernetes(mes(caCert=typed("ca")))):
        answer = api.post("/apply", json={"resources": [body]})
        assert [one["outcome"] for one in answer.json()["results"]] == ["unchanged"]
    assert (len(store.log.events), api.get(PATH).headers["etag"]) == (events, tag)


@pytest.mark.parametrize("shape", [lambda text: {"inlineString": text}, typed_inline], ids=["flat", "typed"])
def test_inline_text_is_stored_as_inline_string(api: TestClient[Litestar], shape: Any) -> None:
    """A CA in clear is shown as it was given, in the flat shape; what was read can be written back."""
    assert api.put(PATH, json=mes(caCert=shape(AUTHORITY.pem))).status_code == 201
    assert shown(api) == {"caCert": {"inlineString": AUTHORITY.pem}}
    assert api.put(PATH, json=api.get(PATH).json()).status_code == 200
    assert shown(api) == {"caCert": {"inlineString": AUTHORITY.pem}}


@pytest.mark.parametrize("shape", [inline, lambda text: {"inlineString": text}, typed_inline])
def test_a_private_key_is_sealed_from_every_shape(api: TestClient[Litestar], store: MemoryStore, shape: Any) -> None:
    """No shape of an inline clientKey puts it into the log or into an answer; the same key again is no change."""
    body = mes(clientCert=shape(CHAIN), clientKey=shape(KEY))
    assert api.put(PATH, json=body).status_code == 201
    count = len(store.log.events)
    log = b"".join(encode_event(event) for event in store.log.events).decode()
    for text in (log, api.get(PATH).text, api.get("/events").text):
        for line in KEY.splitlines()[1:-1]:
            assert line not in text
        assert base64.b64encode(KEY.encode()).decode() not in text
    assert api.put(PATH, json=body).status_code == 200
    changed = [type(event.change).__name__ for event in store.log.events[count:]]
    assert "ResourceApplied" not in changed


def gateway(*certificates: dict[str, Any]) -> dict[str, Any]:
    tls = {"mode": "TERMINATE", "certificates": list(certificates)}
    listener = {"port": 443, "protocol": "HTTPS", "hostname": "a.test", "tls": tls}
    selectors = [{"match": {"kuma.io/service": "edge"}}]
    whole = {"type": "MeshGateway", "mesh": "default", "name": "edge"}
    return whole | {"selectors": selectors, "conf": {"listeners": [listener]}}


@pytest.mark.parametrize("shape", [inline, lambda text: {"inlineString": text}, typed_inline])
def test_a_gateways_inline_certificate_is_sealed_with_its_key(
    api: TestClient[Litestar], store: MemoryStore, shape: Any
) -> None:
    """It holds both; the same again is no change, and another one beside it leaves it as it is."""
    path, body = "/meshes/default/meshgateways/edge", gateway(shape(KEY + CHAIN))
    assert api.put(path, json=body).status_code == 201
    count = len(store.log.events)
    log = b"".join(encode_event(event) for event in store.log.events).decode()
    for text in (log, api.get(path).text, api.get("/events").text):
        for line in KEY.splitlines()[1:-1]:
            assert line not in text
    assert api.put(path, json=body).status_code == 200
    assert "ResourceApplied" not in [type(event.change).__name__ for event in store.log.events[count:]]
    assert api.put(path, json=gateway(shape(KEY + CHAIN), {"secret": "cert"})).status_code == 200


@pytest.mark.parametrize(
    ("source", "field", "reason"),
    [
        ({"file": "/etc/passwd"}, "file", "must not read the control plane's host"),
        ({"sealed": {"kid": "k", "nonce": "", "ciphertext": "", "digest": ""}}, "sealed", "unknown field"),
        ({"secret": "a", "inline": "YQ=="}, "", "exactly one of"),
    ],
)
def test_what_a_gateways_certificate_cannot_be(api: TestClient[Litestar], source: Any, field: str, reason: str) -> None:
    """Told with its place in the list."""
    answer = api.put("/meshes/default/meshgateways/edge", json=gateway({"secret": "cert"}, source))
    assert answer.status_code == 400
    place = "conf.listeners[0].tls.certificates[1]" + (f".{field}" if field else "")
    assert place in answer.text
    assert reason in answer.text


@pytest.mark.parametrize(
    ("source", "field", "reason"),
    [
        ({"file": "/etc/passwd"}, "caCert.file", "must not read the control plane's host"),
        ({"envVar": "HOME"}, "caCert.envVar", "must not read the control plane's host"),
        ({"type": "File", "file": {"path": "/x"}}, "caCert.type", "must be one of: Secret, InsecureInline"),
        ({"type": "Secret"}, "caCert.secretRef", "must be defined"),
        (
            {"type": "Secret", "secretRef": {"kind": "ConfigMap", "name": "x"}},
            "caCert.secretRef.kind",
            "must be one of",
        ),
        ({"secret": "ca", "inline": "YQ=="}, "caCert", "exactly one of"),
        ({"secret": "ca", "typ": "x"}, "caCert.typ", "unknown field"),
        ({"sealed": {"kid": "k"}}, "caCert.sealed", "unknown field"),
        ({}, "caCert", "exactly one of"),
    ],
)
def test_what_is_no_data_source_is_refused_with_its_path(
    api: TestClient[Litestar], source: dict[str, Any], field: str, reason: str
) -> None:
    """Kuma's field path and words, and nothing is stored."""
    for answer, prefix in (
        (api.put(PATH, json=mes(caCert=source)), ""),
        (api.post("/apply", json={"resources": [mes(caCert=source)]}), "resources[0]."),
    ):
        assert answer.status_code == 400
        causes = {one["field"]: one["reason"] for one in answer.json()["invalid_parameters"]}
        assert reason in causes[f"{prefix}spec.tls.verification.{field}"]
    assert api.get(PATH).status_code == 404


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "fe80::1", "::1"])
def test_a_dangerous_address_is_refused_with_its_path(api: TestClient[Litestar], address: str) -> None:
    """Loopback and link-local are no external services (decision 13)."""
    body = mes()
    body["spec"]["endpoints"][0]["address"] = address
    answer = api.put(PATH, json=body)
    assert answer.status_code == 400
    assert [one["field"] for one in answer.json()["invalid_parameters"]] == ["spec.endpoints[0].address"]
