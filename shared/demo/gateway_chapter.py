"""The demo's chapter on gateways: who knows nothing of the mesh comes in by TLS, and leaves as verified TLS."""

from __future__ import annotations

import asyncio
import base64
import ssl
from functools import partial
from http import HTTPStatus
from typing import Any

from shared.demo import application
from shared.demo.looking import eventually
from shared.demo.narration import Step, StepFailed
from shared.demo.placement import ZONES
from shared.demo.system import System

HOSTNAME = "shop.example.test"

_GATEWAY = """\
# What clients from outside are shown: key and certificate, as zonal generate tls-certificate makes them.
type: Secret
name: shop-certificate
mesh: default
data: {certificate}
---
# Where gateways listen, in every zone that runs one.
type: MeshGateway
name: edge
mesh: default
selectors:
  - match:
      kuma.io/service: edge
conf:
  listeners:
    - port: {port}
      protocol: HTTPS
      hostname: {hostname}
      tls:
        mode: TERMINATE
        certificates:
          - secret: shop-certificate
---
# Where they send what comes: here to the external service that the applications call, too.
type: MeshHTTPRoute
name: shop
mesh: default
spec:
  targetRef:
    kind: MeshGateway
    name: edge
  to:
    - targetRef:
        kind: Mesh
      rules:
        - matches:
            - path:
                type: PathPrefix
                value: /pay
          default:
            backendRefs:
              - kind: MeshExternalService
                name: payments
"""


async def tell(system: System, step: Step) -> None:
    """Run a gateway in each zone, declare what it listens for, and call it. Raises StepFailed."""
    await asyncio.gather(*(system.start_gateway(zone) for zone in ZONES))
    step.check("zonal proxy gateway runs in each zone", "2 more Envoys", ok=True)
    pem = await _run(
        system,
        "generate",
        "tls-certificate",
        "--type=server",
        f"--hostname={HOSTNAME}",
        "--key-file=-",
        "--cert-file=-",
    )
    port = system.gateway_port
    text = _GATEWAY.format(certificate=base64.b64encode(pem.encode()).decode(), port=port, hostname=HOSTNAME)
    await _run(system, "apply", "-f", str(system.write("gateway.yaml", text)))
    step.check("one file declares certificate, listener and route", f"https://{HOSTNAME}:{port}/pay", ok=True)
    trust = ssl.create_default_context(cadata=pem[pem.index("-----BEGIN CERTIFICATE-----") :])
    for zone in ZONES:
        answer = await eventually(partial(_get, system, zone, "/pay", trust), _is_ok, f"200 from {zone}'s gateway")
        seen: dict[str, Any] = answer.json
        step.check(
            f"{zone}: a client outside gets its answer over TLS, and payments saw the mesh's own",
            f"instance {seen.get('instance')}, SNI {seen.get('sni')}",
            ok="zonal-demo-client" in str(seen.get("client_certificate")),
        )
        missing = await _get(system, zone, "/elsewhere", trust)
        step.check(f"{zone}: where no route leads it says so", missing.status, ok=missing.status == 404)


async def _get(system: System, zone: str, path: str, trust: ssl.SSLContext) -> application.Answer:
    make = partial(system.placement.socket, zone)
    return await application.get(system.gateway_host(zone), system.gateway_port, HOSTNAME, path, make, trust)


def _is_ok(answer: application.Answer) -> bool:
    return answer.status == HTTPStatus.OK


async def _run(system: System, *arguments: str) -> str:
    code, out, err = await system.cli(*arguments)
    if code != 0:
        raise StepFailed(f"zonal {arguments[0]} succeeds", (out + err).strip())
    return out
