"""The golden log of today's schema: two zones, every change there is, every kind of resource. For tests, and `write`.

    python -m tests.golden_logs.write

writes the logs of a new schema, or lets today's grow by what was added at the end of a log below. What stands in them
is never written again: it is what is out there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.events.checkpoint import checkpoint_text
from shared.events.compose import compose
from shared.events.event import (
    GLOBAL,
    Change,
    DataKeyWrapped,
    Event,
    EventSkipped,
    HostnameClaimed,
    HostnameQuarantined,
    HostnameReleased,
    IntermediateIssued,
    LogRestored,
    LogSigned,
    ProxyConnected,
    ProxyDisconnected,
    PushHeld,
    PushReleased,
    QuarantineEnded,
    ResourceDeleted,
    ResourceQuarantined,
    RootCaCreated,
    VipLeased,
    VipQuarantined,
    VipReleased,
    VipsYielded,
    ZoneSettingsChanged,
    decode_event,
    encode_event,
)
from shared.events.fold import fold_all
from shared.events.signing import signed
from shared.events.state import LogState
from shared.keys.signing import SigningKey
from shared.model.resource import Resource, ResourceKey, Sealed
from tests.builders import applied, at, dataplane, egress, external, generator, mes, mesh, resource, service_key

HERE = Path(__file__).parent
SEALED = Sealed(kid="k1", nonce="bm9uY2U=", ciphertext="Y2lwaGVydGV4dA==", digest="d1g3st")
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
WEB = ResourceKey("Dataplane", "default", "web-1", "east")
ALL = ResourceKey("HostnameGenerator", "", "all")


def _policy(kind: str, default: dict[str, Any], **spec: Any) -> Change:
    return applied(
        resource(
            type=kind,
            name=kind.lower(),
            mesh="default",
            spec={
                "targetRef": {"kind": "Mesh"},
                "to": [{"targetRef": {"kind": "MeshExternalService", "name": "payments"}, "default": default}],
            }
            | spec,
        )
    )


def _route(kind: str, rule: dict[str, Any]) -> Change:
    target = {"targetRef": {"kind": "MeshExternalService", "name": "payments"}, "rules": [rule]}
    return applied(
        resource(type=kind, name=kind.lower(), mesh="default", spec={"targetRef": {"kind": "Mesh"}, "to": [target]})
    )


def _policies() -> list[Change]:
    backend = {"kind": "MeshExternalService", "name": "payments"}
    exact = [{"spiffeID": {"type": "Exact", "value": "spiffe://default/web"}}]
    return [
        _policy("MeshAccessLog", {"backends": [{"type": "File", "file": {"path": "/dev/stdout"}}]}),
        _policy("MeshCircuitBreaker", {"connectionLimits": {"maxRetries": 3}}),
        _policy("MeshHealthCheck", {"interval": "10s", "timeout": "2s", "tcp": {}}),
        _route(
            "MeshHTTPRoute",
            {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "default": {"backendRefs": [backend]}},
        ),
        _policy("MeshLoadBalancingStrategy", {"loadBalancer": {"type": "RoundRobin"}}),
        applied(
            resource(
                type="MeshPassthrough",
                name="passing",
                mesh="default",
                spec={
                    "targetRef": {"kind": "Mesh"},
                    "default": {
                        "passthroughMode": "Matched",
                        "appendMatch": [{"type": "Domain", "value": "example.com", "protocol": "tls", "port": 443}],
                    },
                },
            )
        ),
        _policy("MeshRetry", {"http": {"numRetries": 2}}),
        _route("MeshTCPRoute", {"default": {"backendRefs": [backend]}}),
        _policy("MeshTimeout", {"connectionTimeout": "2s"}),
        applied(
            resource(
                type="MeshTrafficPermission",
                name="permits",
                mesh="default",
                spec={
                    "targetRef": {"kind": "MeshExternalService", "name": "payments"},
                    "rules": [{"default": {"allow": exact}}],
                },
            )
        ),
    ]


def _gateway() -> list[Resource]:
    selectors = [{"match": {"kuma.io/service": "edge"}}]
    listener = {
        "port": 8443,
        "protocol": "HTTPS",
        "hostname": "foo.example.com",
        "tls": {"mode": "TERMINATE", "certificates": [{"secret": "cert"}]},
        "tags": {"name": "foo"},
        "resources": {"connectionLimit": 10},
    }
    rule = {
        "matches": [{"path": {"match": "PREFIX", "value": "/"}}],
        "filters": [{"mirror": {"backend": {"destination": {"kuma.io/service": "copy"}}, "percentage": 12.5}}],
        "backends": [{"weight": 1, "destination": {"kuma.io/service": "backend"}}],
    }
    return [
        resource(type="MeshGateway", name="edge", mesh="default", selectors=selectors, conf={"listeners": [listener]}),
        resource(
            type="MeshGatewayRoute",
            name="edge",
            mesh="default",
            selectors=selectors,
            conf={"http": {"hostnames": ["foo.example.com"], "rules": [rule]}},
        ),
    ]


def _traffic_permission() -> Resource:
    return resource(
        type="TrafficPermission",
        name="web-outside",
        mesh="default",
        sources=[{"match": {"kuma.io/service": "web"}}],
        destinations=[{"match": {"kuma.io/service": "*"}}],
    )


def _hub() -> list[Sequence[Change]]:
    return [
        [applied(mesh()), applied(generator()), applied(resource(type="Zone", name="east"))],
        [applied(resource(type="Zone", name="west"))],
        [
            RootCaCreated(mesh="default", backend="ca-1", certificate="-----BEGIN-----", key=SEALED),
            IntermediateIssued(mesh="default", backend="ca-1", zone="east", certificate="-----BEGIN-----", key=SEALED),
            DataKeyWrapped(kid="k1", recipient="east", wrapped="d3JhcA=="),
        ],
        [applied(resource(type="Secret", name="ca", mesh="default", sealed=msgspec.to_builtins(SEALED)))],
        [applied(mes()), applied(mes("files", protocol="tcp", port=9000))],
        _policies(),
        [ResourceDeleted(service_key("files"))],
        [LogSigned(key="cHVibGlj")],
        [EventSkipped(g=3, reason="poison")],
        [LogRestored(lost_from=24, lost_to=30)],
        [applied(external())],
        [applied(one) for one in _gateway()],
        [applied(_traffic_permission())],
    ]


def _east() -> list[Sequence[Change]]:
    settings = ZoneSettingsChanged(
        cidr="242.0.0.0/8",
        quarantine_seconds=600,
        compiler="1",
        allowed_addresses=("10.0.0.0/8",),
        egress_on_demand_above=2000,
    )
    payments, files = service_key(), service_key("files")
    return [
        [settings, applied(dataplane(), "east"), applied(egress(), "east"), applied(mes("own"), "east")],
        [
            ProxyConnected(
                proxy="default.web-1", key=WEB, connection="c1", features=("redirect",), system_ca_path="/ca.pem"
            )
        ],
        [
            VipLeased(key=payments, protocol_class="http", ip="242.0.0.1"),
            VipLeased(key=files, protocol_class="tcp", ip="242.64.0.1"),
        ],
        [
            HostnameClaimed(mesh="default", hostname=f"{key.name}.ext.local", key=key, generator=ALL)
            for key in (payments, files)
        ],
        [
            HostnameQuarantined(mesh="default", hostname="files.ext.local", key=files, until=at(700)),
            VipQuarantined(key=files, ip="242.64.0.1", until=at(700)),
        ],
        [HostnameReleased(mesh="default", hostname="files.ext.local"), VipReleased(ip="242.64.0.1")],
        [PushHeld(proxies=("default.web-1", ".egress-1"), kept_g=9, kept_z=8, reason="would remove 9 of 10 clusters")],
        [PushReleased(proxies=(".egress-1",), by="operator")],
        [
            ResourceQuarantined(
                type_url=CLUSTER, name="a", version="v1", kept_g=9, kept_z=8, proxy=".egress-1", reason="no"
            ),
            ResourceQuarantined(
                type_url=CLUSTER, name="b", version="v1", kept_g=0, kept_z=0, proxy=".egress-1", reason="no"
            ),
        ],
        [QuarantineEnded(type_url=CLUSTER, name="b", version="v1", by="itself")],
        [EventSkipped(g=12, reason="of a later program"), EventSkipped(g=3, reason="not an event", origin="east")],
        [ProxyDisconnected(proxy="default.web-1", connection="c1", reason="lost")],
        [
            VipsYielded(proxy="default.web-1", to="default.web-2"),
            VipsYielded(proxy="default.api-1", to="default.web-2"),
        ],
        [VipsYielded(proxy="default.api-1", to="")],
    ]


def _west() -> list[Sequence[Change]]:
    return [
        [ZoneSettingsChanged(cidr="127.128.0.0/9", quarantine_seconds=60, compiler="1")],
        [VipLeased(key=service_key(), protocol_class="http", ip="127.128.0.1")],
    ]


def written() -> dict[str, list[Event]]:
    """Every origin's log, as its writer signs it."""
    return {
        origin: _log(origin, appends) for origin, appends in ((GLOBAL, _hub()), ("east", _east()), ("west", _west()))
    }


def _log(origin: str, appends: list[Sequence[Change]]) -> list[Event]:
    signer = SigningKey(Ed25519PrivateKey.from_private_bytes(sha256(origin.encode()).digest()))
    state, log = LogState(origin), list[Event]()
    for number, changes in enumerate(appends):
        ids = [f"{origin}-{number}-{i}" for i in range(len(changes))]
        seen = 0 if origin == GLOBAL else 9
        events = compose(state, changes, ids=ids, time=at(number), actor="ann", seen=seen, cause="why", kid=signer.kid)
        state = fold_all(state, events)
        log += signed(events, signer)
    return log


def versions() -> list[Path]:
    """A directory per schema, the oldest first."""
    return sorted(HERE.glob("v*"), key=lambda path: int(path.name[1:]))


def lines(version: Path) -> dict[str, list[bytes]]:
    """The logs of a schema as they stand, by origin."""
    return {path.stem: path.read_bytes().splitlines() for path in sorted(version.glob("*.ndjson"))}


def digest(log: Sequence[bytes]) -> str:
    """What a log amounts to."""
    events = [decode_event(line) for line in log]
    return sha256(checkpoint_text(fold_all(LogState(events[0].origin), events))).hexdigest()


def keep(version: Path) -> None:
    """Write the logs of a schema, or add to them. Raises ValueError when what is there would be another."""
    version.mkdir(exist_ok=True)
    logs = {origin: [encode_event(event) for event in events] for origin, events in written().items()}
    for origin, log in lines(version).items():
        if logs[origin][: len(log)] != log:
            raise ValueError(f"{version.name}/{origin}: today's program writes this otherwise: that is a new schema")
    for origin, log in logs.items():
        (version / f"{origin}.ndjson").write_bytes(b"".join(line + b"\n" for line in log))
    digests = {origin: digest(log) for origin, log in logs.items()}
    (version / "digests.json").write_text(json.dumps(digests, indent=2) + "\n")
