"""`zonal migrate externalservice`."""

from __future__ import annotations

from shared.model import manifest
from shared.model.resource import HostnameGenerator, MeshExternalService
from tests.commands.api import Api
from tests.commands.conftest import Zonal

ITEM = {
    "type": "ExternalService",
    "mesh": "default",
    "name": "httpbin",
    "creationTime": "2026-01-01T00:00:00Z",
    "modificationTime": "2026-01-01T00:00:00Z",
    "labels": {"kuma.io/origin": "global"},
    "version": 3,
    "tags": {"kuma.io/service": "httpbin", "kuma.io/protocol": "http"},
    "networking": {
        "address": "httpbin.org:443",
        "tls": {"clientCert": {"inlineString": "certificate"}, "clientKey": {}},
    },
}


def test_it_prints_what_can_be_applied(api: Api, zonal: Zonal) -> None:
    """YAML with remarks; a key that the API does not show is to come from a Secret."""
    api.answers["GET /meshes/default/externalservices"] = (200, {"items": [ITEM], "total": 1})
    done = zonal("migrate", "externalservice", "httpbin")
    assert done.code == 0, done.err
    parsed = manifest.parse(done.out, "out")
    assert parsed.faults == ()
    kinds = [type(one.resource) for one in parsed.documents]
    assert kinds == [MeshExternalService, MeshExternalService, HostnameGenerator, HostnameGenerator]
    assert "# the inline clientKey of httpbin is not shown: put it into a Secret httpbin-client-key" in done.out
    assert "secret: httpbin-client-key" in done.out


def test_who_is_not_there_is_told(api: Api, zonal: Zonal) -> None:
    """Nothing is printed for a name that no ExternalService has."""
    api.answers["GET /meshes/default/externalservices"] = (200, {"items": [ITEM], "total": 1})
    done = zonal("migrate", "externalservice", "other")
    assert (done.code != 0, done.out) == (True, "")
    assert "there is no ExternalService other in mesh default" in done.err
