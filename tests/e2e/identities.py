"""What a zone issues to a proxy, fetched as its Envoy would, and held by a client that is none."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import Secret
from google.protobuf import json_format

from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from tests.e2e.living import WITHIN_SECONDS, Living
from zone_cp.ads.server import ADS_SERVICE
from zone_cp.xds.snapshot import SECRET


@asynccontextmanager
async def identity(system: Living, resource: dict[str, Any], zone: str = "east") -> AsyncIterator[ssl.SSLContext]:
    """The certificate that the zone issues to a proxy, for a client that believes every server. The zone takes the
    proxy for connected meanwhile.
    """
    name, mesh = resource["name"], resource["mesh"]
    token = system._issuer().dataplane_token(mesh, name=name, zone=zone)
    tls = grpc.ssl_channel_credentials(system.deployment.ca_file.read_bytes())
    address = f"127.0.0.1:{system.zone_ports[zone].ads}"
    request = DeltaDiscoveryRequest(
        type_url=SECRET,
        resource_names_subscribe=[f"identity/{mesh}"],
        node={"id": f"{mesh}.{name}"},
    )
    json_format.ParseDict({"dataplane.resource": json.dumps(resource)}, request.node.metadata)
    async with grpc.aio.secure_channel(address, tls) as channel:
        method = channel.stream_stream(
            f"/{ADS_SERVICE}/DeltaAggregatedResources",
            request_serializer=DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=DeltaDiscoveryResponse.FromString,
        )
        call = method(metadata=[("authorization", f"Bearer {token}")])
        async with asyncio.timeout(WITHIN_SECONDS):
            await call.write(request)
            answer: Any = await call.read()
        certificate = Secret.parse(answer.resources[0].resource.value).tls_certificate
        assert certificate is not None
        pair = (certificate.certificate_chain, certificate.private_key)
        pem = b"\n".join(one.inline_bytes or b"" for one in pair if one is not None).decode()
        context = believing()
        context.load_cert_chain(system.write(pem_of(name), pem))
        yield context


def pem_of(name: str) -> str:
    """Where `identity` leaves what it was given, among a system's manifests."""
    return f"{name}.pem"


def believing() -> ssl.SSLContext:
    """A client without a certificate that believes every server, and says that it is of a mesh."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["kuma"])
    return context


async def knock(port: int, context: ssl.SSLContext | None, host: str = "x") -> int:
    """Status of a request to a port of a proxy; 0 when it closes the connection."""
    try:
        async with asyncio.timeout(WITHIN_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(f"GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
            raw = await reader.read()
            writer.close()
    except OSError:
        return 0
    return int(raw.split()[1]) if raw else 0
