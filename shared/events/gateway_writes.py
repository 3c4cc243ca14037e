"""MeshGateways and their Secrets as they are written: what is refused of certificates, and what their authors are told.

Pure. A key that does not belong to its certificate is refused whichever of the two is written last (spec A7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from shared.events.cross_mesh import is_cross_mesh
from shared.events.gateways import certificates_shown, listener_faults, listeners_of, sealed_of
from shared.model.gateway import MeshGateway
from shared.model.policy import MeshTrafficPermission, Policy
from shared.model.resource import Mesh, Resource, ResourceKey, Secret
from shared.model.source import DataSource, ServerCertificate

FindIn: TypeAlias = Callable[[ResourceKey], Resource | None]
"""What stands at a key, seen through a batch."""


def _meant(find: FindIn, gateway: ResourceKey, name: str, zone: str) -> Resource | None:
    """The Secret that a MeshGateway means: of its own origin first, then global's or that of the zone `zone`."""
    for origin in (gateway.zone, "" if gateway.zone else zone):
        found = find(ResourceKey("Secret", gateway.mesh, name, origin))
        if found is not None:
            return found
    return None


def certificate_refusals(
    key: ResourceKey,
    one: MeshGateway | Secret,
    find: FindIn,
    gateways: Iterable[tuple[ResourceKey, MeshGateway]],
    zone: str,
) -> Iterator[tuple[str, str]]:
    """(path, reason) of every certificate with another one's key that clients would be shown.

    gateways: those of the mesh; zone: which plane is written to, "" on global.
    """
    if isinstance(one, MeshGateway):
        yield from _gateway_refusals(key, one, find, zone)
    else:
        yield from _secret_refusals(key, one, gateways, find, zone)


def certificate_warnings(  # noqa: PLR0917 - as above
    key: ResourceKey,
    one: MeshGateway | Secret,
    find: FindIn,
    gateways: Iterable[tuple[ResourceKey, MeshGateway]],
    zone: str,
    now: str,
) -> Iterator[str]:
    """What an author should know of certificates that clients are shown. now: event time, "" for unknown."""
    if isinstance(one, MeshGateway):
        yield from _gateway_warnings(key, one, find, zone, now)
        return
    for gateway_key, gateway in gateways:
        if _serves(gateway_key, gateway, key, find, zone):
            yield from _gateway_warnings(gateway_key, gateway, find, zone, now, only=key.name)


def cross_mesh_warnings(gateway: MeshGateway, mesh: Mesh | None) -> Iterator[str]:
    """What an author should know of listeners for other meshes: Kuma fails the whole gateway over it, later."""
    if is_cross_mesh(gateway) and (mesh is None or mesh.mtls is None or not mesh.mtls.enabled_backend):
        yield (
            f"MeshGateway {gateway.name}: mTLS must be enabled for crossMesh-enabled MeshGateways: mesh {gateway.mesh} "
            "has none, and until it has its cross-mesh listeners are closed"
        )


def gateway_missing(policy: Policy, gateways: Iterable[tuple[ResourceKey, MeshGateway]], zone: str) -> Iterator[str]:
    """What an author should know of a policy on a MeshGateway; zone: which plane it is written to, "" on global."""
    top = policy.spec.target_ref
    if top is None or top.kind != "MeshGateway" or isinstance(policy, MeshTrafficPermission):
        return
    if not any(key.name == top.name and key.zone in ("", zone) for key, _ in gateways):
        about = f"{type(policy).__name__} {policy.name}"
        yield f"{about} has no effect yet: there is no MeshGateway {top.name} in mesh {policy.mesh}"


def _gateway_refusals(key: ResourceKey, gateway: MeshGateway, find: FindIn, zone: str) -> Iterator[tuple[str, str]]:
    """(path, reason) of every certificate of a MeshGateway that has another one's key."""
    for _, path, source in certificates_shown(gateway):
        server = _server(source, find, key, zone)
        if server is not None and server.mismatched:
            name, where = ("", path) if source.secret is None else (f"Secret {source.secret}: ", f"{path}.secret")
            yield where, f"{name}{server.fault}"


def _secret_refusals(
    key: ResourceKey, secret: Secret, gateways: Iterable[tuple[ResourceKey, MeshGateway]], find: FindIn, zone: str
) -> Iterator[tuple[str, str]]:
    """(path, reason) of every MeshGateway that would show a certificate whose key is another one's."""
    server = secret.sealed.server if secret.sealed is not None else None
    if server is None or not server.mismatched:
        return
    for one, gateway in gateways:
        if _serves(one, gateway, key, find, zone):
            yield "data", f"{server.fault}, which MeshGateway {gateway.name} shows to its clients"


def _serves(gateway: ResourceKey, one: MeshGateway, secret: ResourceKey, find: FindIn, zone: str) -> bool:
    """Whether a MeshGateway means this Secret by a name, once it stands there."""
    if gateway.mesh != secret.mesh or not any(source.secret == secret.name for _, _, source in certificates_shown(one)):
        return False
    if gateway.zone == secret.zone:
        return True
    other = find(ResourceKey("Secret", secret.mesh, secret.name, gateway.zone))
    return other is None and secret.zone in ("", zone)


def _gateway_warnings(  # noqa: PLR0917 - as above
    key: ResourceKey, gateway: MeshGateway, find: FindIn, zone: str, now: str, only: str | None = None
) -> Iterator[str]:
    """What an author should know of the certificates of a MeshGateway; only: of those in this Secret.

    now: event time, "" for unknown.
    """
    whose = f"MeshGateway {gateway.name}"
    wanted = {f"{path}.secret" for _, path, source in certificates_shown(gateway) if source.secret == only}
    for fault in listener_faults(key.mesh, gateway, lambda name: _meant(find, key, name, zone)).values():
        if only is None or fault.field in wanted:
            yet = " yet" if fault.reason == "SecretMissing" else ""
            yield f"{whose}: {fault.field}: {fault.message}{yet}; until it is mended the listener is closed"
    for index, path, source in certificates_shown(gateway):
        server = _server(source, find, key, zone)
        if server is None or server.fault or only not in (None, source.secret):
            continue
        hostname = listeners_of(gateway)[index].hostname.lower() or "*"
        for said in _doubts(server, hostname, now):
            yield f"{whose}: {path}: {said}"


def _server(source: DataSource, find: FindIn, key: ResourceKey, zone: str) -> ServerCertificate | None:
    sealed = sealed_of(source, lambda name: _meant(find, key, name, zone))
    return sealed.server if sealed is not None else None


def _doubts(server: ServerCertificate, hostname: str, now: str) -> Iterator[str]:
    if now and server.expires and server.expires <= now:
        yield f"the certificate expired at {server.expires[:19]}Z"
    if hostname != "*" and not any(_covers(one.lower(), hostname) for one in server.names):
        named = ", ".join(server.names[:5]) or "nothing"
        yield f"the certificate is for {named} and not for {hostname}: clients will refuse it"
    if server.unlinked:
        yield f"certificate {server.unlinked + 1} of the chain did not issue the one before it"


def _covers(name: str, hostname: str) -> bool:
    """Whether a name of a certificate is good for a hostname (https://www.rfc-editor.org/rfc/rfc9525#section-6.3)."""
    return name == hostname or (name.startswith("*.") and name[2:] == hostname.partition(".")[2])
