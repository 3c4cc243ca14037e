"""Views and secrets for tests of the generator: a small mesh, and certificates made at run time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from immutables import Map

from shared.events.event import EventRef
from shared.events.state import Position
from shared.model.inbound import Inbound
from shared.model.resource import (
    BackendRef,
    Dataplane,
    DataplaneNetworking,
    Endpoint,
    ExternalTls,
    Outbound,
    Protocol,
    ProtocolClass,
    ResourceKey,
    TransparentProxying,
    Verification,
    ZoneEgress,
    ZoneEgressNetworking,
    protocol_class,
)
from shared.naming import sni
from zone_cp.view.zone_view import (
    EgressView,
    ExternalServiceView,
    Failure,
    MeshView,
    ProxyView,
    TlsMaterial,
    ZoneView,
)
from zone_cp.xds.secrets import MaterialMissing, Svid
from zone_cp.xds.snapshot import CLUSTER, Encoded, Snapshot

MESH_EVENT = (EventRef("global", 1),)
VIP_RANGES: Map[ProtocolClass, tuple[str, ...]] = Map([("http", ("127.16.0.0/16",)), ("tcp", ("127.17.0.0/16",))])
PROXY_EVENT = (EventRef("east", 9),)


class Authority:
    """A certificate authority that lives as long as the test."""

    def __init__(self, name: str = "ca", *, expired: bool = False) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key, expired=expired)
        builder = builder.issuer_name(self._name)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        self.pem = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, expired: bool = False
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC) - timedelta(days=3 if expired else 0)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )

    def issue(self, common_name: str, *names: x509.GeneralName, expired: bool = False) -> tuple[str, str]:
        """Certificate and key, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = self._builder(subject, key, expired=expired).issuer_name(self._name)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return _texts(builder.sign(self._key, hashes.SHA256()), key)

    def self_signed(self, common_name: str, *names: x509.GeneralName) -> tuple[str, str]:
        """The same, signed by nobody else."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = self._builder(subject, key).issuer_name(subject)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return _texts(builder.sign(key, hashes.SHA256()), key)


def _texts(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> tuple[str, str]:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


class Secrets:
    """A SecretSource with one authority per mesh and clear material, which can be withheld by name."""

    def __init__(self) -> None:
        self.authorities: dict[str, Authority] = {}
        self.withheld: set[str] = set()
        self._issued: dict[str, Svid] = {}

    def authority(self, mesh: str) -> Authority:
        """The mesh's root."""
        if mesh not in self.authorities:
            self.authorities[mesh] = Authority(mesh)
        return self.authorities[mesh]

    def text(self, material: TlsMaterial) -> bytes:
        if material.name in self.withheld or material.text is None:
            raise MaterialMissing("its data key is not here")
        return material.text.encode()

    def identity(self, mesh: str, spiffe_id: str) -> Svid:
        if spiffe_id not in self._issued:
            chain, key = self.authority(mesh).issue("workload", x509.UniformResourceIdentifier(spiffe_id))
            now = datetime.now(UTC)
            self._issued[spiffe_id] = Svid(spiffe_id, chain, key, "1", "", now, now)
        return self._issued[spiffe_id]

    def trust_bundle(self, mesh: str) -> str:
        return self.authority(mesh).pem


def material(name: str, text: str | None) -> TlsMaterial:
    """Clear material, or sealed material that nobody can open when `text` is None."""
    return TlsMaterial(name, text, None, (EventRef("global", 7),))


def service(
    name: str = "payments",
    *,
    mesh: str = "default",
    vip: str = "127.16.0.1",
    port: int = 8080,
    protocol: Protocol = "http",
    endpoints: tuple[Endpoint, ...] = (Endpoint(address="192.0.2.1", port=443),),
    tls: ExternalTls | None = None,
    ca: str | None = None,
    client: tuple[str, str] | None = None,
    failure: Failure | None = None,
    zone: str = "",
) -> ExternalServiceView:
    """A service as a zone serves it."""
    kind = protocol_class(protocol)
    name_on_wire = sni.service_sni(vip, port, mesh)
    return ExternalServiceView(
        key=ResourceKey("MeshExternalService", mesh, name, zone),
        mesh=mesh,
        name=name,
        labels=Map({"app": name}),
        protocol=protocol,
        protocol_class=kind,
        port=port,
        vip=vip,
        hostnames=(f"{name}.ext",),
        sni=name_on_wire,
        cluster=sni.cluster_name(kind, mesh, name_on_wire),
        endpoints=endpoints,
        tls=tls,
        ca_cert=None if ca is None else material(f"secret/{mesh}/{name}-ca", ca),
        client_cert=None if client is None else material(f"secret/{mesh}/{name}-cert", client[0]),
        client_key=None if client is None else material(f"secret/{mesh}/{name}-key", client[1]),
        extension=None,
        zone_pin=None,
        failure=failure,
        sources=(EventRef("global", 5), EventRef("east", 3)),
    )


def secured(server_name: str | None = None, **verification: object) -> ExternalTls:
    """TLS with a verification block."""
    return ExternalTls(enabled=True, verification=Verification(server_name=server_name, **verification))  # type: ignore[arg-type]


def mesh_view(*services: ExternalServiceView, name: str = "default", **changes: object) -> MeshView:
    """A mesh with mTLS whose traffic leaves by the egress, unless told otherwise."""
    settings: dict[str, object] = {
        "mtls": True,
        "backend": "ca-1",
        "certificate_seconds": 3600,
        "origination": "egress",
        "forbid_external": False,
        "passthrough": True,
        "sources": MESH_EVENT,
    } | changes
    return MeshView(name=name, services=Map({one.key: one for one in services}), **settings)  # type: ignore[arg-type]


def zone_view(*meshes: MeshView, egresses: tuple[EgressView, ...] = (), z: int = 1) -> ZoneView:
    """A zone with those meshes."""
    return ZoneView(
        zone="east",
        position=Position(1, z),
        meshes=Map({one.name: one for one in meshes}),
        egresses=egresses,
        vip_ranges=VIP_RANGES,
    )


def egress_view(port: int) -> EgressView:
    """An online egress on loopback."""
    return EgressView("egress-1", "127.0.0.1", port, (EventRef("east", 2),))


def sidecar(
    *features: str,
    mesh: str = "default",
    outbound: tuple[Outbound, ...] = (),
    inbound: tuple[Inbound, ...] = (),
    redirect_port: int | None = None,
    system_ca_path: str = "",
) -> ProxyView:
    """A sidecar of the workload `web`."""
    redirect = None if redirect_port is None else TransparentProxying(redirect_port_outbound=redirect_port)
    networking = DataplaneNetworking(
        address="127.0.0.1",
        inbound=inbound or (Inbound(port=1, service_port=1, tags=Map({"kuma.io/service": "web"})),),
        outbound=outbound,
        transparent_proxying=redirect,
    )
    resource = Dataplane(name="web-1", mesh=mesh, networking=networking)
    return ProxyView(f"{mesh}.web-1", resource, features, system_ca_path, PROXY_EVENT)


def egress(port: int = 10002, *features: str, system_ca_path: str = "") -> ProxyView:
    """A zone egress on loopback."""
    resource = ZoneEgress(name="egress-1", zone="east", networking=ZoneEgressNetworking(address="127.0.0.1", port=port))
    return ProxyView("egress-1", resource, features, system_ca_path, PROXY_EVENT)


def outbound_to(name: str, port: int) -> Outbound:
    """An explicit outbound by `backendRef`."""
    return Outbound(port=port, backend_ref=BackendRef(kind="MeshExternalService", name=name))


def services_of(snapshot: Snapshot) -> dict[str, Encoded]:
    """The clusters of external services that a proxy holds, without those that an egress has of its own."""
    return {name: one for name, one in snapshot.resources[CLUSTER].items() if name.startswith(f"{sni.CLUSTER_PREFIX}/")}
