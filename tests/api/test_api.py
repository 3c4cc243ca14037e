from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from shared.api.app import build_api
from shared.events.log import LogUnavailable
from shared.events.state import LogState
from tests.api.memory_store import ADMIN, PROXY, READER, MemoryStore, Tokens

MES = {"spec": {"match": {"port": 80, "protocol": "http"}, "endpoints": [{"address": "example.com", "port": 80}]}}
WEB = "/meshes/default/meshexternalservices/web"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def api(store: MemoryStore) -> Iterator[TestClient[Litestar]]:
    """Global's API with the mesh `default` in it, called as an administrator."""
    with TestClient(build_api(store, authenticator=Tokens(), role="global", version="1.2.3")) as client:
        client.headers.update(ADMIN)
        assert client.put("/meshes/default", json={"type": "Mesh", "name": "default"}).status_code == 201
        yield client


def causes(response):
    return {p["field"]: p["reason"] for p in response.json().get("invalid_parameters", [])}


def test_put_creates_then_updates(api, store):
    """201 with the first write, 200 after; an unchanged resource makes no event."""
    assert api.put(WEB, json=MES).status_code == 201
    length = len(store.log.events)
    assert api.put(WEB, json=MES).status_code == 200
    assert len(store.log.events) == length
    changed = {"spec": {**MES["spec"], "match": {"port": 81}}}
    assert api.put(WEB, json=changed).json() == {}
    assert len(store.log.events) == length + 1


def test_get_shows_kumas_form(api):
    """Metadata stands beside `spec`, defaults of present parents are shown, computed labels are there."""
    api.put(WEB, json={"spec": {"match": {"port": 80}, "endpoints": [{"address": "a.b", "port": 1}], "tls": {}}})
    response = api.get(WEB)
    body = response.json()
    assert response.headers["etag"] == '"2"'
    assert body["version"] == 2
    assert body["type"] == "MeshExternalService"
    assert (body["mesh"], body["name"]) == ("default", "web")
    assert body["labels"]["kuma.io/origin"] == "global"
    assert body["spec"]["match"] == {"type": "HostnameGenerator", "protocol": "tcp", "port": 80}
    assert body["spec"]["tls"] == {"enabled": False, "allowRenegotiation": False}
    assert body["creationTime"] == body["modificationTime"]
    assert api.put(WEB, json=body).status_code == 200, "what was read can be written back"


def test_the_actor_is_the_tokens_subject(api, store):
    """Events name who wrote them."""
    assert store.log.events[-1].actor == "alice"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", WEB), ("PUT", WEB), ("POST", "/apply"), ("GET", "/metrics")]
)
def test_nothing_without_a_token(api, method, path):
    """401 without an accepted token, from loopback too; the challenge says Bearer."""
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic YQ=="}):
        api.headers.pop("authorization", None)
        response = api.request(method, path, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["title"] == "Invalid authentication data"


def test_rights(api, store):
    """A reader reads and does not write (403); a proxy's token opens nothing."""
    length = len(store.log.events)
    assert api.get("/meshes", headers=READER).status_code == 200
    assert api.put(WEB, json=MES, headers=READER).status_code == 403
    assert api.delete("/meshes/default", headers=READER).status_code == 403
    assert api.post("/apply", json={"resources": [MES]}, headers=READER).status_code == 403
    assert api.get("/meshes", headers=PROXY).status_code == 403
    assert len(store.log.events) == length


def test_health_is_open(api):
    """Only health and readiness are for everybody."""
    api.headers.pop("authorization")
    assert api.get("/healthy").status_code == 200
    assert api.get("/ready").status_code == 200


def test_not_ready():
    """Readiness is 503 until the plane says so."""
    with TestClient(build_api(MemoryStore(), authenticator=Tokens(), role="global", ready=lambda: False)) as client:
        assert client.get("/ready").status_code == 503


def test_all_faults_at_their_fields(api, store):
    """A refused body names each field and reason, in both spellings, and writes nothing."""
    length = len(store.log.events)
    body = {"spec": {"match": {"port": 0, "protocol": "udp"}, "endpoints": [{"address": "a"}], "nope": 1}}
    response = api.put(WEB, json=body)
    assert response.status_code == 400
    assert response.headers["content-type"].startswith("application/problem+json")
    problem = response.json()
    assert problem["type"] == "/std-errors"
    assert problem["title"] == "Could not process a resource"
    assert set(causes(response)) == {"spec.match.port", "spec.match.protocol", "spec.nope"}
    assert problem["causes"][0].keys() == {"field", "message"}
    assert causes(api.put(WEB, json={"spec": {**MES["spec"], "endpoints": []}})) == {
        "spec.endpoints": "must not be empty unless extension is set"
    }
    assert len(store.log.events) == length


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "other"}, "name"),
        ({"mesh": "other"}, "mesh"),
        ({"type": "Mesh"}, "type"),
        ({"type": "Zoo"}, "type"),
        ({"labels": {"a": 1}}, 'labels["a"]'),
        ({"labels": {"kuma.io/origin": "zone"}}, 'labels["kuma.io/origin"]'),
    ],
)
def test_body_must_agree_with_the_url(api, body, field):
    """name, mesh and type of the body are those of the URL; labels are checked."""
    response = api.put(WEB, json={**MES, **body})
    assert response.status_code == 400
    assert field in causes(response)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"[" * 5000, b"\xff\xfe", b'{"type": ' + b'{"a":' * 900 + b"1" + b"}" * 901]
)
def test_bodies_that_are_no_resource(api, content):
    """Whatever comes as a body is answered with 400, never with a failure."""
    assert api.put(WEB, content=content).status_code == 400
    assert api.post("/apply", content=content).status_code == 400


def test_large_bodies_are_refused(api):
    """A body above the limit is 413."""
    assert api.put(WEB, content=b" " * (17 * 1024 * 1024)).status_code == 413


def test_repeated_keys_are_refused(api, store):
    """A key that stands twice is told with path, line and column, in resources and in batches; nothing is written."""
    length = len(store.log.events)
    one = '{"spec": {"match": {"port": 80, "port": 81},\n "endpoints": [{"address": "example.com", "port": 80}]}}'
    twice = 'the key "{}" is given twice, first in line {} (line {}, column {})'
    assert causes(api.put(WEB, content=one)) == {"spec.match.port": twice.format("port", 1, 1, 33)}
    batch = '{"resources": [{"type": "Zone", "name": "a"},\n{"type": "Zone", "name": "b",\n"name": "c"}]}'
    answer = api.post("/apply", content=batch)
    assert (answer.status_code, causes(answer)) == (400, {"resources[1].name": twice.format("name", 2, 3, 1)})
    assert len(store.log.events) == length


def test_limits_name_the_field(api, store):
    """What is too large is refused at its field, in one resource and in a batch; nothing is written."""
    length = len(store.log.events)
    spec = {**MES["spec"], "endpoints": [{"address": "example.com", "port": 80}] * 1001}
    reason = "has 1001 entries, at most 1000 are possible"
    assert causes(api.put(WEB, json={"spec": spec})) == {"spec.endpoints": reason}
    good = {"type": "MeshExternalService", "name": "good", "mesh": "default", **MES}
    batch = {"resources": [good, {**good, "name": "bad", "spec": spec}]}
    assert causes(api.post("/apply", json=batch)) == {"resources[1].spec.endpoints": reason}
    wrong = {"resources": [{**good, "name": f"n{n}", "spec": {"match": {"port": n}}} for n in (0, -1)] * 501}
    problem = api.post("/apply", json=wrong).json()
    assert len(problem["invalid_parameters"]) == len(problem["causes"]) == 1000
    assert problem["detail"].endswith("2 more faults are not told")
    assert len(store.log.events) == length


def test_missing_mesh_is_404(api):
    """The mesh of the path must exist, for writes and lists."""
    for response in (
        api.put("/meshes/nope/meshexternalservices/web", json=MES),
        api.get("/meshes/nope/meshexternalservices"),
    ):
        assert response.status_code == 404
        assert response.json()["title"] == "Failed to retrieve Mesh"


def test_stale_writes_are_409(api, store):
    """If-Match with another version: 409 and nothing is written; with the right one it passes."""
    api.put(WEB, json=MES)
    tag = api.get(WEB).headers["etag"]
    changed = {"spec": {**MES["spec"], "match": {"port": 81}}}
    assert api.put(WEB, json=changed, headers={"If-Match": tag}).status_code == 200
    length = len(store.log.events)
    assert api.put(WEB, json=MES, headers={"If-Match": tag}).status_code == 409
    assert api.delete(WEB, headers={"If-Match": tag}).status_code == 409
    assert api.put(WEB, json=MES, headers={"If-None-Match": "*"}).status_code == 409
    assert api.put(WEB, json=MES, headers={"If-Match": '"x"'}).status_code == 400
    assert len(store.log.events) == length


def test_delete(api):
    """200 with an empty object, 404 for what is not there."""
    api.put(WEB, json=MES)
    assert api.delete(WEB).json() == {}
    assert api.get(WEB).status_code == 404
    response = api.delete(WEB)
    assert (response.status_code, response.json()["title"]) == (404, "Could not delete a resource")


def test_lists_are_paged(api):
    """size, offset, next and total are Kuma's; items are sorted by name."""
    resources = [{"type": "MeshExternalService", "name": f"s{i}", **MES} for i in (3, 1, 2, 0)]
    assert api.post("/apply", json={"resources": resources}).status_code == 200
    first = api.get("/meshes/default/meshexternalservices?size=3").json()
    assert [item["name"] for item in first["items"]] == ["s0", "s1", "s2"]
    assert first["total"] == 4
    rest = api.get(first["next"]).json()
    assert [item["name"] for item in rest["items"]] == ["s3"]
    assert rest["next"] is None
    assert api.get("/meshexternalservices?name=s1").json()["total"] == 1
    assert api.get("/meshexternalservices?filter[labels.kuma.io/display-name]=s2").json()["total"] == 1
    assert api.get("/meshexternalservices?zone=east").json()["total"] == 0


@pytest.mark.parametrize("query", ["size=0", "size=1001", "size=x", "offset=-1", "offset=1e3", "size=٣"])
def test_bad_pages_are_400(api, query):
    """Bad paging names its field."""
    response = api.get(f"/meshexternalservices?{query}")
    assert response.status_code == 400
    assert query.partition("=")[0] in causes(response)


def test_apply_is_atomic(api, store):
    """One bad resource of a batch and nothing is written; fields carry the position."""
    length = len(store.log.events)
    good = {"type": "MeshExternalService", "name": "good", **MES}
    bad = {"type": "MeshExternalService", "name": "bad", "spec": {"match": {"port": 80}}}
    response = api.post("/apply", json={"resources": [good, bad]})
    assert response.status_code == 400
    (parameter,) = response.json()["invalid_parameters"]
    assert parameter["field"] == "resources[1].spec.endpoints"
    assert (parameter["index"], parameter["path"]) == (1, "spec.endpoints")
    assert len(store.log.events) == length


def test_apply_reports_each_resource(api):
    """A mesh declared earlier in the batch counts; each resource says what became of it, and at which version."""
    resources = [
        {"type": "Mesh", "name": "shop"},
        {"type": "Mesh", "name": "default"},
        {"apiVersion": "kuma.io/v1alpha1", "kind": "MeshExternalService",
         "metadata": {"name": "web", "labels": {"kuma.io/mesh": "shop"}}, **MES},
    ]  # fmt: skip
    body = api.post("/apply", json={"resources": resources}).json()
    assert [(r["name"], r["outcome"], r["version"]) for r in body["results"]] == [
        ("shop", "created", 2),
        ("default", "unchanged", 1),
        ("web", "created", 3),
    ]
    assert body["sequence"] == 3


def test_secrets_never_come_out(api, store):
    """No output holds a secret, in clear or sealed: item, list, events; neither does the log in clear."""
    clear = base64.b64encode(b"very secret").decode()
    assert api.put("/meshes/default/secrets/s", json={"data": clear}).status_code == 201
    tls = {
        "enabled": True,
        "verification": {"clientCert": {"secret": "s"}, "clientKey": {"inlineString": "very secret"}},
    }
    api.put(WEB, json={"spec": {**MES["spec"], "tls": tls}})
    secret = store.log.events[-1].change
    ciphertexts = [event.change.resource.sealed.ciphertext for event in store.log.events
                   if getattr(getattr(event.change, "resource", None), "sealed", None)]  # fmt: skip
    assert ciphertexts
    outputs = [
        api.get(path).text
        for path in ("/meshes/default/secrets/s", "/secrets", WEB, "/meshexternalservices", "/events?limit=1000")
    ]
    for output in outputs:
        assert clear not in output
        assert "very secret" not in output
        assert "ciphertext" not in output
        assert not any(ciphertext in output for ciphertext in ciphertexts)
    assert "very secret" not in repr(secret)
    again = len(store.log.events)
    assert api.put("/meshes/default/secrets/s", json={"data": clear}).status_code == 200
    assert len(store.log.events) == again, "the same secret again is unchanged"


def test_read_only_kinds(api):
    """Dataplanes cannot be written on global: 405 with Kuma's sentence."""
    response = api.put("/meshes/default/dataplanes/d", json={})
    assert response.status_code == 405
    assert response.json()["detail"].startswith("On global control plane you can not modify dataplane resources")


def test_warnings_of_direct_mode(api):
    """A Mesh whose TLS is originated at the sidecars says so (decision 2); SkipCA says what it does not check."""
    assert "originated at the sidecars" in api.put("/meshes/plain", json={}).json()["warnings"][0]
    tls = {"enabled": True, "verification": {"mode": "SkipCA", "caCert": {"inline": "dGVzdA=="}}}
    warnings = api.put(WEB, json={"spec": {**MES["spec"], "tls": tls}}).json()["warnings"]
    assert any("SAN is not checked" in warning for warning in warnings)
    assert any("caCert: the inline material is not PEM" in warning for warning in warnings)


def test_events_are_pages(api):
    """Events are shown as they stand in the log, by range, with the log's last number."""
    api.put(WEB, json=MES)
    body = api.get("/events?after=1&limit=1").json()
    assert body["last"] == 2
    assert [event["n"] for event in body["items"]] == [2]
    assert api.get("/events?origin=nowhere").status_code == 404
    assert api.get("/events/follow?origin=nowhere").status_code == 404


def test_unavailable_log_is_503(api, store):
    """A write that the log did not take is 503, saying whether it may have happened."""
    store.available = False
    response = api.put(WEB, json=MES)
    assert response.status_code == 503
    assert "may have happened" in response.json()["detail"]


def test_failures_say_nothing_of_the_inside(api, store, monkeypatch):
    """A fault of ours is a 500 problem without its message; a log that is away is 503 for reads too."""
    monkeypatch.setattr(store, "statuses", lambda: 1 / 0)
    api.raise_server_exceptions = False
    response = api.get("/status/meshexternalservices")
    assert response.status_code == 500
    assert response.json()["title"] == "Internal Server Error"
    assert "zero" not in response.text

    def away():
        raise LogUnavailable("away")

    monkeypatch.setattr(store, "proxies", away)
    assert api.get("/proxies").status_code == 503


def test_index_status_and_schema(api):
    """The index says what runs; statuses, proxies and the OpenAPI document are served."""
    assert api.get("/").json() == {"product": "Zonal", "version": "1.2.3", "role": "global", "zone": ""}
    assert api.get("/who-am-i").json() == {"name": "alice", "groups": ["admin"]}
    (row,) = api.get("/status/meshexternalservices").json()["items"]
    assert row["vip"] == "242.0.0.1"
    assert api.get("/proxies").json()["total"] == 1
    assert api.get("/proxies/app/inspect").json() == {"proxy": "app"}
    assert api.get("/proxies/nope/inspect").status_code == 404
    assert api.get("/schema/openapi.json").json()["openapi"].startswith("3.1")
    assert "cdn" not in json.dumps(api.get("/schema/openapi.json").json())
    assert api.get("/nope").status_code == 404
    assert api.patch("/meshes").status_code == 405


def test_zone_api():
    """A zone shows global's resources and its own, writes only its own, and keeps the two apart."""
    hub = MemoryStore()
    with TestClient(build_api(hub, authenticator=Tokens(), role="global")) as client:
        client.headers.update(ADMIN)
        client.put("/meshes/default", json={})
        client.put(WEB, json=MES)
    zone = MemoryStore("east", hub.writer.state)
    assert isinstance(zone.hub, LogState)
    with TestClient(build_api(zone, authenticator=Tokens(), role="zone", zone="east")) as client:
        client.headers.update(ADMIN)
        assert client.get(WEB).json()["labels"]["kuma.io/origin"] == "global"
        assert causes(client.delete(WEB)) == {'labels["kuma.io/origin"]': "the origin label must be set to 'zone'"}
        assert client.put("/meshes/other", json={}).status_code == 405
        assert client.put(WEB, json=MES).status_code == 201
        assert client.get(WEB).json()["labels"]["kuma.io/zone"] == "east"
        assert client.get(f"{WEB}?zone=").json()["labels"]["kuma.io/origin"] == "global"
        assert client.get("/meshexternalservices").json()["total"] == 2
        dataplane = {"networking": {"address": "127.0.0.1"}}
        assert client.put("/meshes/default/dataplanes/d", json=dataplane).status_code == 201
