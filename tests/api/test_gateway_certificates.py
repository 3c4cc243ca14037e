"""Certificates of MeshGateways at apply: a wrong key is refused whatever is written last, the rest is warned of."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from cryptography import x509
from litestar import Litestar
from litestar.testing import TestClient

from shared.api.app import build_api
from shared.events.event import ResourceApplied
from shared.keys.self_signed import KeyType, self_signed
from shared.model.pem import server_certificate
from tests.api.memory_store import ADMIN, MemoryStore, Tokens
from tests.e2e.handshakes import Issuer

PATH = "/meshes/default/meshgateways/edge"
WRONG_KEY = "server key does not belong to the server certificate"


@cache
def pair(host: str = "a.test", key_type: KeyType = "ecdsa", days_ago: int = 0) -> tuple[str, str]:
    """Key and certificate."""
    return self_signed([host], datetime.now(UTC) - timedelta(days=days_ago), "server", key_type)


def right(host: str = "a.test", key_type: KeyType = "ecdsa", days_ago: int = 0) -> str:
    return "".join(pair(host, key_type, days_ago))


def wrong() -> str:
    """The key of another certificate."""
    return pair("b.test")[0] + pair()[1]


def secret(text: str, name: str = "one") -> dict[str, Any]:
    return {"type": "Secret", "mesh": "default", "name": name, "data": base64.b64encode(text.encode()).decode()}


def gateway(*certificates: dict[str, Any], hostname: str = "a.test", name: str = "edge") -> dict[str, Any]:
    tls = {"mode": "TERMINATE", "certificates": list(certificates)}
    listener = {"port": 443, "protocol": "HTTPS", "hostname": hostname, "tls": tls}
    selectors = [{"match": {"kuma.io/service": "edge"}}]
    whole = {"type": "MeshGateway", "mesh": "default", "name": name}
    return whole | {"selectors": selectors, "conf": {"listeners": [listener]}}


NAMED = {"secret": "one"}


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def api(store: MemoryStore) -> Iterator[TestClient[Litestar]]:
    with TestClient(build_api(store, authenticator=Tokens(), role="global")) as client:
        client.headers.update(ADMIN)
        assert client.put("/meshes/default", json={"type": "Mesh", "name": "default"}).status_code == 201
        yield client


def applied(api: TestClient[Litestar], *resources: dict[str, Any]) -> list[str]:
    """Warnings of what is accepted."""
    answer = api.post("/apply", json={"resources": resources})
    assert answer.status_code == 200, answer.text
    found: list[str] = answer.json()["warnings"]
    return found


def refused(api: TestClient[Litestar], *resources: dict[str, Any]) -> dict[str, str]:
    """What is wrong, by field."""
    answer = api.post("/apply", json={"resources": resources})
    assert answer.status_code == 400, answer.text
    assert "PRIVATE" not in answer.text
    return {one["field"]: one["reason"] for one in answer.json()["invalid_parameters"]}


FIELD = "conf.listeners[0].tls.certificates[0]"


def test_a_gateway_that_names_a_secret_with_a_wrong_key_is_refused(api: TestClient[Litestar]) -> None:
    assert applied(api, secret(wrong())) == []
    assert refused(api, gateway(NAMED)) == {f"resources[0].{FIELD}.secret": f"Secret one: {WRONG_KEY}"}
    assert api.get(PATH).status_code == 404


def test_a_secret_with_a_wrong_key_that_a_gateway_names_is_refused(api: TestClient[Litestar]) -> None:
    """Also for a Secret that was right before."""
    said = {"resources[0].data": f"{WRONG_KEY}, which MeshGateway edge shows to its clients"}
    missing = f"MeshGateway edge: {FIELD}.secret: mesh default has no Secret one yet"
    assert applied(api, gateway(NAMED)) == [f"{missing}; until it is mended the listener is closed"]
    assert refused(api, secret(wrong())) == said
    assert applied(api, secret(right())) == []
    assert refused(api, secret(wrong())) == said
    assert applied(api, secret(wrong(), "two")) == []


@pytest.mark.parametrize("order", [1, -1])
def test_both_at_once_are_refused_in_either_order(api: TestClient[Litestar], order: int) -> None:
    (reason,) = refused(api, *[secret(wrong()), gateway(NAMED)][::order]).values()
    assert WRONG_KEY in reason
    assert api.get("/meshes/default/secrets/one").status_code == 404


@pytest.mark.parametrize("shape", ["inlineString", "inline"])
def test_an_inline_certificate_with_a_wrong_key_is_refused(api: TestClient[Litestar], shape: str) -> None:
    def given(text: str) -> dict[str, str]:
        return {shape: base64.b64encode(text.encode()).decode() if shape == "inline" else text}

    assert refused(api, gateway(given(wrong()))) == {f"resources[0].{FIELD}": WRONG_KEY}
    assert applied(api, gateway(given(right()))) == []


def test_a_gateway_of_a_zone_is_asked_as_well(store: MemoryStore) -> None:
    """Secrets are global's, and global knows what its zones declare."""
    local = MemoryStore("east", store.writer.state)
    with TestClient(build_api(store, authenticator=Tokens(), role="global")) as client:
        client.headers.update(ADMIN)
        applied(client, {"type": "Mesh", "name": "default"})
        local.hub = store.writer.state
        with TestClient(build_api(local, authenticator=Tokens(), role="zone", zone="east")) as east:
            east.headers.update(ADMIN)
            east.post("/apply", json={"resources": [gateway(NAMED)]})
            assert [key.zone for key in local.writer.state.kinds["MeshGateway"]] == ["east"]
            store.zones["east"] = local.writer.state
            assert list(refused(client, secret(wrong()))) == ["resources[0].data"]


def test_what_is_doubtful_is_told_and_accepted(api: TestClient[Litestar]) -> None:
    """Told with the gateway, and again with a Secret that it names."""
    old = right("b.test", days_ago=4000)
    assert applied(api, secret(old)) == []
    told = applied(api, gateway(NAMED))
    expired, name = told
    assert re.fullmatch(
        rf"MeshGateway edge: {re.escape(FIELD)}: the certificate expired at 20..-..-..T..:..:..Z", expired
    )
    assert name == (
        f"MeshGateway edge: {FIELD}: the certificate is for b.test and not for a.test: clients will refuse it"
    )
    assert applied(api, secret(old)) == told
    assert applied(api, secret(right())) == []


@pytest.mark.parametrize(
    ("certificate", "hostname", "fits"),
    [
        ("a.test", "A.test", True),
        ("*.test", "a.test", True),
        ("*.test", "*.test", True),
        ("*.test", "a.b.test", False),
        ("a.test", "*.test", False),
        ("b.test", "*", True),
        ("b.test", "", True),
    ],
)
def test_a_certificate_is_for_its_listener(
    api: TestClient[Litestar], certificate: str, hostname: str, fits: bool
) -> None:
    told = applied(api, secret(right(certificate)), gateway(NAMED, hostname=hostname))
    assert told == [] if fits else len(told) == 1


def test_a_chain_links() -> None:
    """Each certificate is issued by the one behind it; which is not is told by its number."""
    issuer, stranger = Issuer("root"), Issuer("stranger")
    chain, key = issuer.issue("leaf", x509.DNSName("a.test"))
    linked, torn = (server_certificate((key + chain + end.pem).encode()) for end in (issuer, stranger))
    assert linked is not None
    assert torn is not None
    assert (linked.fault, linked.unlinked) == ("", 0)
    assert (torn.fault, torn.unlinked) == ("", 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (pair()[1], "missing private key"),
        (pair()[0], "missing server certificate"),
        (pair()[0] + right(), "secret contains multiple private keys"),
    ],
)
def test_what_cannot_be_used_closes_its_listener_and_is_told(api: TestClient[Litestar], text: str, said: str) -> None:
    closed = f"MeshGateway edge: {FIELD}.secret: Secret one: {said}; until it is mended the listener is closed"
    assert applied(api, secret(text), gateway(NAMED)) == [closed]


def test_two_certificates_have_keys_of_two_types(api: TestClient[Litestar]) -> None:
    secrets = (secret(right()), secret(right(key_type="rsa"), "two"), secret(right("*.test"), "three"))
    assert applied(api, *secrets, gateway(NAMED, {"secret": "two"})) == []
    (told,) = applied(api, gateway(NAMED, {"secret": "three"}))
    assert "certificates[1].secret: Secret three: duplicate TLS certificate: " in told
    assert "has an ECDSA key as well" in told


@pytest.mark.parametrize("order", [1, -1])
def test_key_and_certificate_stand_in_any_order(order: int) -> None:
    for key_type in ("rsa", "ecdsa"):
        found = server_certificate("".join(pair(key_type=key_type)[::order]).encode())
        assert found is not None
        assert (found.key_type, found.fault, found.names) == (key_type.upper(), "", ("a.test",))


def test_the_log_holds_what_is_public_of_a_pair_and_answers_do_not(
    api: TestClient[Litestar], store: MemoryStore
) -> None:
    applied(api, secret(right()))
    stored = [one.change.resource for one in store.log.events if isinstance(one.change, ResourceApplied)][-1]
    sealed = getattr(stored, "sealed", None)
    assert sealed is not None
    assert sealed.server.names == ("a.test",)
    assert "a.test" not in api.get("/meshes/default/secrets/one").text
