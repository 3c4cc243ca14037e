"""`zonal apply`, `get` and `delete`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands.api import Api, Request
from tests.commands.conftest import Zonal

MANIFEST = """\
type: Mesh
name: default
---
apiVersion: kuma.io/v1alpha1
kind: MeshExternalService
metadata:
  name: payments
  labels:
    kuma.io/mesh: default
spec:
  match:
    port: 8443
    protocol: http
  endpoints:
    - address: payments.example.test
      port: 443
"""
BAD = """\
type: MeshExternalService
mesh: default
name: payments
spec:
  match: {port: 99999}
  endpoints:
    - adress: payments.example.test
      port: https
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "all.yaml"
    file.write_text(MANIFEST)
    return file


def test_a_file_is_applied_as_one_request(api: Api, zonal: Zonal, manifest: Path) -> None:
    """Both YAML forms go to the server together, canonical, with the token; each outcome is printed."""
    api.answers["POST /apply"] = (
        200,
        {
            "results": [
                {"type": "Mesh", "mesh": "", "name": "default", "outcome": "unchanged"},
                {"type": "MeshExternalService", "mesh": "default", "name": "payments", "outcome": "created"},
            ],
            "warnings": ["payments: SAN is not checked"],
            "sequence": 7,
        },
    )
    done = zonal("apply", "-f", str(manifest))
    assert (done.code, done.err) == (0, "warning: payments: SAN is not checked\n")
    assert done.out == "Mesh default unchanged\nMeshExternalService default/payments created\n"
    (request,) = api.requests
    assert request.token == "abc"
    assert [one["type"] for one in request.body["resources"]] == ["Mesh", "MeshExternalService"]
    assert request.body["resources"][1]["spec"]["endpoints"] == [{"address": "payments.example.test", "port": 443}]


def test_json_is_one_document_on_stdout(api: Api, zonal: Zonal, manifest: Path) -> None:
    """-o json prints the answer alone."""
    api.answers["POST /apply"] = (200, {"results": [], "warnings": ["careful"], "sequence": 7})
    done = zonal("apply", "-f", str(manifest), "-o", "json")
    assert json.loads(done.out)["sequence"] == 7
    assert done.err == "warning: careful\n"


def test_a_manifest_comes_from_standard_input(api: Api, zonal: Zonal, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-f -` reads standard input."""
    api.answers["POST /apply"] = (200, {"results": []})
    monkeypatch.setattr("sys.stdin", io.StringIO(MANIFEST))
    assert zonal("apply", "-f", "-").code == 0
    assert len(api.requests[0].body["resources"]) == 2


def test_every_fault_is_named_and_nothing_is_applied(api: Api, zonal: Zonal, tmp_path: Path, manifest: Path) -> None:
    """Wrong field, wrong type and bad port are each refused at file:line:column, with exit code 3."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(BAD)
    done = zonal("apply", "-f", str(manifest), "-f", str(bad))
    assert (done.code, done.out, api.requests) == (3, "", [])
    lines = done.err.splitlines()
    assert lines[-1] == "nothing was applied"
    assert [line.split(": ")[:2] for line in lines[:-1]] == [
        [f"{bad}:5:17", "spec.match.port"],
        [f"{bad}:7:7", "spec.endpoints[0].adress"],
        [f"{bad}:7:7", "spec.endpoints[0].address"],
        [f"{bad}:8:13", "spec.endpoints[0].port"],
    ]


def test_what_the_server_refuses_is_told_at_its_line(api: Api, zonal: Zonal, manifest: Path) -> None:
    """A violation that only the server sees is shown where the user wrote it."""
    parameter = {"field": "resources[1].spec.match.port", "reason": "taken", "index": 1, "path": "spec.match.port"}
    api.answers["POST /apply"] = (400, {"title": "Invalid", "detail": "not valid", "invalid_parameters": [parameter]})
    done = zonal("apply", "-f", str(manifest))
    assert done.code == 3
    assert done.err == f"{manifest}:12:11: spec.match.port: taken\nnothing was applied\n"


@pytest.mark.parametrize(
    ("status", "code"), [(400, 3), (401, 1), (403, 1), (404, 1), (405, 3), (409, 4), (412, 4), (500, 1), (504, 5)]
)
def test_exit_codes_follow_the_answer(api: Api, zonal: Zonal, manifest: Path, status: int, code: int) -> None:
    """Refused input is 3, a conflict 4, a timeout 5, anything else 1; the server's reason is told."""
    problem = {"title": "No", "detail": "because", "invalid_parameters": [{"field": "name", "reason": "odd"}]}
    api.answers["POST /apply"] = (status, problem)
    done = zonal("apply", "-f", str(manifest))
    assert (done.code, done.out) == (code, "")
    assert done.err == f"{status} No: because\n  name: odd\n"


def test_a_zone_is_talked_to_by_name(api: Api, zonal: Zonal, manifest: Path, tmp_path: Path) -> None:
    """`--zone west` sends to the zone's own API."""
    (tmp_path / ".zonal").mkdir()
    (tmp_path / ".zonal" / "context.yaml").write_text(f"api: http://127.0.0.1:1\nzones: {{west: {{api: '{api.url}'}}}}")
    api.answers["POST /apply"] = (200, {"results": []})
    assert zonal("apply", "--zone", "west", "-f", str(manifest)).code == 0
    assert zonal("apply", "--zone", "north", "-f", str(manifest)).code == 2


SERVICE: dict[str, Any] = {
    "type": "MeshExternalService",
    "mesh": "default",
    "name": "payments",
    "creationTime": "2026-01-01T00:00:00Z",
    "modificationTime": "2026-01-02T00:00:00Z",
    "version": 5,
    "labels": {"kuma.io/origin": "global"},
    "spec": {"match": {"port": 8443}},
}
STATUS = {
    "zone": "east",
    "mesh": "default",
    "name": "payments",
    "origin": "global",
    "hostnames": ["payments.ext.mesh", "payments.east.mesh"],
    "vip": "127.101.0.7",
    "conditions": [
        {"type": "VipAssigned", "status": "True"},
        {"type": "Reachable", "status": "False", "reason": "TlsFailed", "message": "CERTIFICATE_VERIFY_FAILED"},
    ],
}


def with_service(api: Api) -> None:
    api.answers["GET /meshes/default/meshexternalservices"] = (200, {"items": [SERVICE], "total": 1, "next": None})
    api.answers["GET /meshes/default/meshexternalservices/payments"] = (200, SERVICE)
    other = STATUS | {"name": "other"}
    api.answers["GET /status/meshexternalservices"] = (200, {"items": [other, STATUS]})


def test_external_services_are_shown_as_each_zone_sees_them(api: Api, zonal: Zonal) -> None:
    """`get mes` shows how each zone sees a service, and in how many it is ready; without colour when piped."""
    with_service(api)
    rolled = {"mesh": "default", "name": "payments", "origin": "global", "ready": "1/2", "conditions": []}
    api.answers["GET /status/meshexternalservices/rollup"] = (200, {"items": [rolled]})
    done = zonal("get", "mes")
    assert done.code == 0
    assert done.out.splitlines() == [
        "ZONE  MESH     NAME      ORIGIN  HOSTNAMES           VIP          READY  CONDITIONS",
        "east  default  payments  global  payments.ext.mesh   127.101.0.7  1/2    VipAssigned=True",
        f"{'payments.east.mesh':>51}{'':22}Reachable=False (TlsFailed: CERTIFICATE_VERIFY_FAILED)",
    ]


def test_a_dataplane_is_shown_with_what_its_zone_says_of_it(api: Api, zonal: Zonal) -> None:
    """`get dataplanes` has its conditions beside it, with the reason where one is bad news; not another zone's."""
    labels = {"kuma.io/origin": "zone", "kuma.io/zone": "east"}
    item = {"type": "Dataplane", "mesh": "default", "name": "web", "labels": labels, "modificationTime": "now"}
    api.answers["GET /meshes/default/dataplanes"] = (200, {"items": [item], "total": 1, "next": None})
    conditions = [
        {"type": "Connected", "status": "True", "reason": "Connected"},
        {
            "type": "OutboundsServed",
            "status": "False",
            "reason": "CrossZoneUnsupported",
            "message": "zone west serves it",
        },
        {"type": "Held", "status": "True", "reason": "ShrinkGuard", "message": "would remove all"},
    ]
    row = {"type": "Dataplane", "mesh": "default", "name": "web"}
    rows = [row | {"zone": "west"}, row | {"zone": "east", "conditions": conditions}]
    api.answers["GET /status/dataplanes"] = (200, {"items": rows, "total": 2, "next": None})
    assert zonal("get", "dataplanes").out.splitlines() == [
        "MESH     NAME  ORIGIN     CHANGED  CONDITIONS",
        "default  web   zone east  now      Connected=True",
        f"{'':35}OutboundsServed=False (CrossZoneUnsupported: zone west serves it)",
        f"{'':35}Held=True (ShrinkGuard: would remove all)",
    ]
    (told,) = json.loads(zonal("get", "dp", "-o", "json").out)["status"]
    assert [one["reason"] for one in told["conditions"]] == ["Connected", "CrossZoneUnsupported", "ShrinkGuard"]


def test_a_mesh_gateway_is_shown_with_what_it_listens_for(api: Api, zonal: Zonal) -> None:
    """Ports, protocols and hostnames, in every zone what it says of it; one that no zone has heard of yet as well."""
    listeners = [
        {"port": 80, "protocol": "HTTP"},
        {"port": 443, "protocol": "HTTPS", "hostname": "*.a.test", "crossMesh": True},
    ]
    edge = {"type": "MeshGateway", "mesh": "default", "name": "edge", "labels": {"kuma.io/origin": "global"}}
    own = {"labels": {"kuma.io/origin": "zone", "kuma.io/zone": "west"}, "conf": {"listeners": listeners[:1]}}
    items = [edge | {"conf": {"listeners": listeners}}, edge | own, edge | {"name": "new"}]
    why = "MeshHTTPRoute r: no MeshExternalService gone is here (event 12)"
    said = [
        {"type": "Ready", "status": "True", "reason": "Served"},
        {"type": "Degraded", "status": "True", "reason": "BackendMissing", "message": why},
    ]
    row = {"kind": "MeshGateway", "mesh": "default", "name": "edge", "zone": "west", "origin": "global"}
    rows = [row | {"conditions": said}, row | {"zone": "east", "conditions": said[:1]}]
    rows.append(row | {"origin": "zone", "conditions": said[:1]})
    rolled = [{"mesh": "default", "name": "edge", "origin": "global", "ready": "2/2"}]
    api.answers |= {
        "GET /meshes/default/meshgateways": (200, {"items": items, "total": 3}),
        "GET /status/meshgateways": (200, {"items": rows, "total": 3}),
        "GET /status/meshgateways/rollup": (200, {"items": rolled, "total": 1}),
    }
    done = zonal("get", "meshgateways")
    assert done.code == 0, done.err
    assert [" ".join(line.split()) for line in done.out.splitlines()] == [
        "ZONE MESH NAME ORIGIN LISTENERS READY CONDITIONS",
        "default new global",
        "east default edge global 80 HTTP * 2/2 Ready=True",
        "443 HTTPS *.a.test cross-mesh",
        "west default edge global 80 HTTP * 2/2 Ready=True",
        f"443 HTTPS *.a.test cross-mesh Degraded=True (BackendMissing: {why})",
        "west default edge zone west 80 HTTP * Ready=True",
    ]


def test_one_resource_is_shown_in_every_form(api: Api, zonal: Zonal) -> None:
    """JSON is one document with status; YAML can be applied again; both alone on stdout."""
    with_service(api)
    as_json = json.loads(zonal("get", "mes", "payments", "-o", "json").out)
    assert as_json["name"] == "payments"
    assert [row["zone"] for row in as_json["status"]] == ["east"]
    as_yaml = yaml.safe_load(zonal("get", "mes", "payments", "-o", "yaml").out)
    assert as_yaml == {name: SERVICE[name] for name in ("type", "mesh", "name", "labels", "spec")}
    listed = json.loads(zonal("get", "mes", "-o", "json").out)
    assert (listed["total"], len(listed["items"])) == (1, 1)


def test_a_list_is_read_page_by_page(api: Api, zonal: Zonal) -> None:
    """All pages are shown, whatever the server's page size."""

    def page(request: Request) -> tuple[int, Any]:
        offset = int(request.path.rpartition("offset=")[2])
        item = {"type": "Mesh", "name": f"m{offset}", "labels": {"kuma.io/origin": "global"}, "modificationTime": "now"}
        return 200, {"items": [item], "total": 3, "next": "more" if offset < 2 else None}

    api.answers["GET /meshes"] = page
    done = zonal("get", "mesh")
    assert done.out.splitlines() == [
        "NAME  ORIGIN  CHANGED",
        "m0    global  now",
        "m1    global  now",
        "m2    global  now",
    ]


def test_kinds_have_short_names_and_scopes(api: Api, zonal: Zonal) -> None:
    """Aliases lead to Kuma's paths; --mesh and --all-meshes choose the list; an unknown kind is a usage error."""
    for path in ("/meshes/other/dataplanes", "/dataplanes", "/hostnamegenerators", "/zoneegresses"):
        api.answers[f"GET {path}"] = (200, {"items": []})
    assert [zonal("get", *words).code for words in (["dp", "-m", "other"], ["dp", "-A"], ["hg"], ["ze"])] == [0] * 4
    assert zonal("get", "pods").code == 2


def test_a_resource_is_deleted(api: Api, zonal: Zonal) -> None:
    """`delete` calls the resource's path; what does not exist is a failure with the server's words."""
    api.answers["DELETE /meshes/default/secrets/123"] = (200, {})
    done = zonal("delete", "secret", "123")
    assert (done.code, done.out) == (0, "Secret default/123 deleted\n")
    api.answers["DELETE /meshes/default/secrets/123"] = (200, {"warnings": ["it is used"]})
    told = zonal("delete", "secret", "123")
    assert (told.code, told.err, told.out) == (0, "warning: it is used\n", done.out)
    assert json.loads(zonal("delete", "secret", "123", "-o", "json").out)["warnings"] == ["it is used"]
    assert zonal("delete", "secret", "a/b").code == 1
    assert api.requests[-1].path == "/meshes/default/secrets/a%2Fb"


def test_nobody_there_is_a_failure(zonal: Zonal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control plane that is not running is told by its address."""
    monkeypatch.setenv("ZONAL_API", "http://127.0.0.1:1")
    done = zonal("get", "mesh")
    assert done.code == 1
    assert done.err.startswith("cannot reach http://127.0.0.1:1: ")
