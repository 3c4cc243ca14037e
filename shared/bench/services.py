"""What the measurements apply: a mesh with mTLS, and external services in any number and version."""

from __future__ import annotations

from collections.abc import Sequence

from immutables import Map

from shared.model import codec
from shared.model.resource import (
    CaBackend,
    Endpoint,
    HostnameGenerator,
    HostnameGeneratorSpec,
    HostnameSelector,
    LabelSelector,
    Match,
    Mesh,
    MeshExternalService,
    MeshExternalServiceSpec,
    Mtls,
    Resource,
)

MESH = Mesh(
    name="default",
    # The outside world of a measurement is on loopback.
    labels=Map({"zonal.io/allow-addresses": "127.0.0.0_24"}),
    mtls=Mtls(enabled_backend="ca-1", backends=(CaBackend(name="ca-1", type="builtin"),)),
)

HOSTNAMES = HostnameGenerator(
    name="bench",
    spec=HostnameGeneratorSpec(
        selector=HostnameSelector(mesh_external_service=LabelSelector(match_labels=Map({"kuma.io/origin": "global"}))),
        template="{{ .DisplayName }}.bench.mesh",
    ),
)
"""Beside Kuma's default generators, so that names are of a known form."""


PORT = 8080
"""Where applications connect to a service."""


def name(number: int) -> str:
    """Name of the service with this number."""
    return f"service-{number:05}"


def hostname(number: int) -> str:
    """The hostname that HOSTNAMES gives it."""
    return f"{name(number)}.bench.mesh"


def service(number: int, turn: int = 0, *, address: str = "", port: int = 8080) -> MeshExternalService:
    """An HTTP service; its endpoint is `address`, or one of documentation's addresses that moves with `turn`."""
    where = address or f"203.0.113.{1 + (number + turn) % 254}"
    return MeshExternalService(
        name=name(number),
        mesh="default",
        spec=MeshExternalServiceSpec(
            match=Match(port=PORT, protocol="http"), endpoints=(Endpoint(address=where, port=port),)
        ),
    )


def body(resource: Resource) -> bytes:
    """A resource as the HTTP API takes it."""
    return codec.encode(resource)


def batch(resources: Sequence[Resource]) -> bytes:
    """Resources as `POST /apply` takes them."""
    return b'{"resources":[' + b",".join(body(one) for one in resources) + b"]}"
