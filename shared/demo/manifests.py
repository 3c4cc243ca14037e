"""What the demo applies: one multi-document file, in both YAML forms, written out so that users can look at it."""

from __future__ import annotations

import base64
from pathlib import Path

from shared.demo.certificates import SERVER_NAME
from shared.demo.services import ServicePorts

MESH = """\
# The mesh, with builtin mTLS. The label allows endpoints on loopback, where the demo's outside world lives.
type: Mesh
name: default
labels:
  zonal.io/allow-addresses: 127.0.0.0_24
mtls:
  enabledBackend: ca-1
  backends:
    - name: ca-1
      type: builtin
      dpCert:
        rotation:
          expiration: 1h
routing:
  defaultForbidMeshExternalServiceAccess: {forbid}
"""

_RESOURCES = """\
---
# What the external HTTPS service is verified with and what it is shown: Kubernetes form of a Kuma secret.
apiVersion: v1
kind: Secret
metadata:
  name: payments-ca
  labels:
    kuma.io/mesh: default
type: system.kuma.io/secret
data:
  value: {ca}
---
type: Secret
name: payments-client-cert
mesh: default
data: {client_certificate}
---
type: Secret
name: payments-client-key
mesh: default
data: {client_key}
---
# A name that every zone gives to what global declares.
apiVersion: kuma.io/v1alpha1
kind: HostnameGenerator
metadata:
  name: everywhere
spec:
  selector:
    meshExternalService:
      matchLabels:
        kuma.io/origin: global
  template: "{{{{ .DisplayName }}}}.ext.mesh"
---
type: MeshExternalService
name: web
mesh: default
spec:
  match:
    type: HostnameGenerator
    port: 8080
    protocol: http
  endpoints:
    - address: {host}
      port: {http}
"""

PAYMENTS = """\
---
# Plaintext for the application; verified TLS with a client certificate on the way out.
apiVersion: kuma.io/v1alpha1
kind: MeshExternalService
metadata:
  name: payments
  namespace: kuma-system
  labels:
    kuma.io/mesh: default
spec:
  match:
    type: HostnameGenerator
    port: 8443
    protocol: http
  endpoints:
    - address: {host}
      port: {port}
  tls:
    enabled: true
    verification:
      mode: Secured
      serverName: {server_name}
      caCert:
        secret: payments-ca
      clientCert:
        secret: payments-client-cert
      clientKey:
        secret: payments-client-key
"""

_LEDGER = """\
---
type: MeshExternalService
name: ledger
mesh: default
spec:
  match:
    type: HostnameGenerator
    port: 9000
    protocol: tcp
  endpoints:
    - address: {host}
      port: {tcp}
  tls:
    enabled: true
    verification:
      serverName: {server_name}
      caCert:
        inline: {ca}
"""

ZONE_GENERATOR = """\
# Made in the zone itself: the same services get a further name here that other zones do not have.
type: HostnameGenerator
name: {zone}-names
spec:
  selector:
    meshExternalService: {{}}
  template: "{{{{ .DisplayName }}}}.{zone}.mesh"
"""

ZONE_SERVICE = """\
# A service that exists in this zone only, made while the link to global is cut.
type: MeshExternalService
name: island
mesh: default
spec:
  match:
    type: HostnameGenerator
    port: 8081
    protocol: http
  endpoints:
    - address: {host}
      port: {http}
"""

CATALOG = """\
type: MeshExternalService
name: catalog
mesh: default
spec:
  match:
    type: HostnameGenerator
    port: 8082
    protocol: http
  endpoints:
    - address: {host}
      port: {http}
"""

WRONG_CA = """\
# The right server under an authority that did not sign it.
type: MeshExternalService
name: impostor
mesh: default
spec:
  match:
    type: HostnameGenerator
    port: 8444
    protocol: http
  endpoints:
    - address: {host}
      port: {https}
  tls:
    enabled: true
    verification:
      serverName: {server_name}
      caCert:
        inline: {other_ca}
"""

BAD = """\
type: MeshExternalService
name: wrong-field
mesh: default
spec:
  match:
    port: 80
    protokol: http
  endpoints:
    - address: 203.0.113.10
      port: 80
---
type: MeshExternalService
name: wrong-type
mesh: default
spec:
  match:
    port: "eighty"
  endpoints:
    - address: 203.0.113.10
      port: 80
---
type: MeshExternalService
name: bad-port
mesh: default
spec:
  match:
    port: 80
  endpoints:
    - address: 203.0.113.10
      port: 70000
"""


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def payments(port: int, host: str = "127.0.0.1") -> str:
    """The HTTPS service with its endpoint on `port`."""
    return PAYMENTS.format(host=host, port=port, server_name=SERVER_NAME)


def island(ports: ServicePorts) -> str:
    """The service of one zone."""
    return ZONE_SERVICE.format(host=ports.host, http=ports.http)


def mesh(*, forbid: bool) -> str:
    """The mesh, with external access allowed or not."""
    return MESH.format(forbid=str(forbid).lower())


def everything(certificates: Path, ports: ServicePorts) -> str:
    """The multi-document file of step 4."""
    ca = _base64(certificates / "ca.pem")
    resources = _RESOURCES.format(
        ca=ca,
        client_certificate=_base64(certificates / "client.pem"),
        client_key=_base64(certificates / "client.key"),
        host=ports.host,
        http=ports.http,
    )
    ledger = _LEDGER.format(host=ports.host, tcp=ports.tcp, server_name=SERVER_NAME, ca=ca)
    return mesh(forbid=False) + resources + payments(ports.https, ports.host) + ledger


def catalog(ports: ServicePorts) -> str:
    """One more global service, in plain HTTP."""
    return CATALOG.format(host=ports.host, http=ports.http)


def impostor(certificates: Path, ports: ServicePorts) -> str:
    """The MES with the wrong CA."""
    other_ca = _base64(certificates / "other-ca.pem")
    return WRONG_CA.format(host=ports.host, https=ports.https, server_name=SERVER_NAME, other_ca=other_ca)
