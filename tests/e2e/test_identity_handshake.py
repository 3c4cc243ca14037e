"""Workload certificates against a real Envoy: BoringSSL verifies what the zone issues, and what it must not."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.keys import ca
from tests.keys.tls import context
from zone_cp.identity.issuer import Issuer
from zone_cp.identity.svid import Svid

WAIT_SECONDS = 20.0
FILTERS = "type.googleapis.com/envoy.extensions.filters"
ENVOY = str(Path(sys.executable).parent / "envoy")


def bootstrap(port: int, svid: Svid, root: str) -> str:
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [
                {"certificate_chain": {"inline_string": svid.chain_pem}, "private_key": {"inline_string": svid.key_pem}}
            ],
            "validation_context": {
                "trusted_ca": {"inline_string": root},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"prefix": "spiffe://"}}],
            },
        },
    }
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "direct_response": {"status": 200, "body": {"inline_string": "hello"}},
                        }
                    ],
                }
            ]
        },
    }
    listener = {
        "name": "in",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {
                "filters": [{"name": "http", "typed_config": manager}],
                "transport_socket": {"name": "tls", "typed_config": tls},
            }
        ],
    }
    return json.dumps({"static_resources": {"listeners": [listener]}})


@asynccontextmanager
async def envoy(folder: Path, config: str) -> AsyncIterator[None]:
    path = folder / "envoy.json"
    path.touch(mode=0o600)
    path.write_text(config)
    process = await asyncio.create_subprocess_exec(
        ENVOY, "-c", str(path), "--disable-hot-restart", "--concurrency", "1", "-l", "info",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    reader = process.stderr
    lines: list[bytes] = []

    async def drain() -> None:
        while await reader.readline():
            continue

    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while b"starting main dispatch loop" not in (line := await reader.readline()):
                lines.append(line)
                assert line, b"".join(lines[-10:]).decode()
        draining = asyncio.create_task(drain())
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
    await draining


async def ask(port: int, side: ssl.SSLContext) -> tuple[bytes, object]:
    """(the first line of the answer, the SANs of the server). Raises ssl.SSLError or OSError when refused."""
    async with asyncio.timeout(WAIT_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=side, server_hostname="x")
        try:
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            await writer.drain()
            line = await reader.readline()
            if not line:
                raise ConnectionResetError("closed without an answer")
            return line, writer.get_extra_info("peercert")["subjectAltName"]
        finally:
            writer.close()


@pytest.mark.anyio
async def test_envoy_accepts_its_mesh_and_nobody_else(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """Envoy answers a workload of the mesh; it refuses another root's, an expired one, and another trust domain's.

    The last although the zone's own intermediate signed it: BoringSSL holds it to its name constraints.
    """
    now = datetime.now(UTC)
    root, root_key = ca.create_root("default", "ca-1", now)
    own, own_key = ca.create_intermediate(root, root_key, mesh="default", zone="east", now=now)
    issuer = Issuer(own, own_key, root)
    other_root, other_key = ca.create_root("default", "ca-1", now)
    foreign = Issuer(
        *ca.create_intermediate(other_root, other_key, mesh="default", zone="east", now=now), root_pem=other_root
    )
    port = free_port()

    def side(svid: Svid) -> ssl.SSLContext:
        return context(tmp_path, server=False, trusted=root, chain=svid.chain_pem, key=svid.key_pem)

    server = issuer.issue("spiffe://default/zone-egress", 3600, now)
    async with envoy(tmp_path, bootstrap(port, server, root)):
        line, names = await ask(port, side(issuer.issue("spiffe://default/web", 3600, now)))
        assert line.startswith(b"HTTP/1.1 200")
        assert names == (("URI", "spiffe://default/zone-egress"),)
        refused = {
            "another trust domain": issuer.issue("spiffe://other/web", 3600, now),
            "another root": foreign.issue("spiffe://default/web", 3600, now),
            "expired": issuer.issue("spiffe://default/web", 0, now),
        }
        for why, svid in refused.items():
            with pytest.raises((ssl.SSLError, OSError)):
                assert await ask(port, side(svid)) is None, why
