"""The bootstrap: what it says, and that a real Envoy takes it."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shared.keys.pki import create_authority
from shared.model import codec
from shared.model.resource import Dataplane, Resource, ZoneEgress
from zone_cp.agent.bootstrap import (
    InvalidControlPlane,
    Proxy,
    bootstrap,
    control_plane,
    envoy_arguments,
    node_id,
    token_secret,
)
from zone_cp.agent.envoy import find_envoy

APP: Dataplane = codec.convert(
    {
        "type": "Dataplane",
        "name": "app.v1",
        "mesh": "shop",
        "networking": {"address": "10.0.0.1", "inbound": [{"port": 80, "tags": {"kuma.io/service": "web"}}]},
    },
    Resource,
)
EGRESS: ZoneEgress = codec.convert(
    {"type": "ZoneEgress", "name": "egress", "networking": {"address": "10.0.0.2", "port": 10002}}, Resource
)


def proxy(resource: Dataplane | ZoneEgress = APP, admin: str = "127.0.0.1:9901") -> Proxy:
    return Proxy(resource, ("redirect",), "/ca.pem", admin, "/work", "0.1", 15053)


def test_node() -> None:
    """Kuma's node ids and metadata keys; the resource travels as JSON that reads back the same."""
    node: dict[str, Any] = json.loads(bootstrap(proxy(), control_plane("https://cp:5678", "/cp.pem"), None))["node"]
    assert (node["id"], node["cluster"]) == ("shop.app.v1", "web")
    metadata = node["metadata"]
    assert codec.decode(metadata["dataplane.resource"], Resource) == APP
    assert metadata["dataplane.proxyType"] == "dataplane"
    assert metadata["features"] == ["redirect"]
    assert metadata["dataplane.admin.port"] == "9901"
    assert metadata["dataplane.dns.port"] == "15053"
    assert metadata["systemCaPath"] == "/ca.pem"
    assert node_id(EGRESS) == ".egress"


def test_control_plane_is_verified_by_its_own_name() -> None:
    """The certificate must name the host that was dialled: a DNS name with SNI, an address without."""
    for address, san_type, host, sni in (
        ("https://cp.example:5678", "DNS", "cp.example", "cp.example"),
        ("https://127.0.0.1:5678", "IP_ADDRESS", "127.0.0.1", None),
        ("https://[::1]:5678", "IP_ADDRESS", "::1", None),
    ):
        whole = json.loads(bootstrap(proxy(), control_plane(address, "/cp.pem"), None))
        context = whole["static_resources"]["clusters"][0]["transport_socket"]["typed_config"]
        (san,) = context["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
        assert san == {"san_type": san_type, "matcher": {"exact": host}}
        assert context.get("sni") == sni


@pytest.mark.parametrize("address", ["http://cp:5678", "cp:5678", "https://cp", "https://cp:5678/x", "https://cp:x"])
def test_other_addresses_are_refused(address: str) -> None:
    """The control plane is `https://host:port` and nothing else."""
    with pytest.raises(InvalidControlPlane, match="https://host:port"):
        control_plane(address, "/cp.pem")


def test_concurrency() -> None:
    """Zero workers means that Envoy counts the cores."""
    said = [envoy_arguments("b", admin_address_path="a", concurrency=n, log_level="info") for n in (0, 3)]
    assert ["--concurrency" in arguments for arguments in said] == [False, True]


@pytest.mark.e2e
@pytest.mark.parametrize("address", ["https://cp.example:5678", "https://127.0.0.1:5678"])
@pytest.mark.parametrize("resource, admin", [(APP, "127.0.0.1:0"), (EGRESS, "/pipe")])
def test_envoy_accepts_it(tmp_path: Path, address: str, resource: Dataplane | ZoneEgress, admin: str) -> None:
    """A real Envoy validates every variant, with the token's secret beside it."""
    authority, _ = create_authority(datetime.now(UTC))
    (tmp_path / "ca.pem").write_text(authority)
    (tmp_path / "token.json").write_bytes(token_secret("x.y.z"))
    path = tmp_path / "bootstrap.json"
    where = f"{tmp_path}{admin}" if admin.startswith("/") else admin
    plane = control_plane(address, str(tmp_path / "ca.pem"))
    path.write_bytes(bootstrap(proxy(resource, where), plane, str(tmp_path / "token.json")))
    done = subprocess.run(
        [find_envoy(), "--mode", "validate", "-c", path, "--disable-hot-restart"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
