"""Who a proxy is and whom it trusts, per mesh: secrets over SDS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shared.naming.spiffe import workload_id
from zone_cp.view.sources import Sources, joined
from zone_cp.view.zone_view import MeshView
from zone_cp.xds import defaults
from zone_cp.xds import secrets as sds
from zone_cp.xds.secrets import MaterialMissing, SecretSource
from zone_cp.xds.snapshot import Encoded


def credentials(mesh: MeshView, spiffe_id: str, source: SecretSource, further: Iterable[str] = ()) -> Iterator[Encoded]:
    """Identity and trust bundle. What cannot be had is left out: Envoy then refuses every handshake.

    further: other services that the proxy serves. An SVID holds one id, so that each has a certificate of its own.
    """
    try:
        svid = source.identity(mesh.name, spiffe_id)
        bundle = source.trust_bundle(mesh.name)
        others = {service: source.identity(mesh.name, workload_id(mesh.name, service)) for service in further}
    except MaterialMissing:
        return
    yield sds.identity(defaults.identity_secret(mesh.name), svid, mesh.sources)
    yield sds.trust(defaults.trust_secret(mesh.name), bundle, mesh.sources)
    for service, other in others.items():
        yield sds.identity(defaults.identity_secret(mesh.name, service), other, mesh.sources)


def all_roots(meshes: Iterable[MeshView], source: SecretSource, because: Sources) -> Iterator[Encoded]:
    """The trust bundle of who lets workloads of these meshes in (A12), which follows from `because`; a mesh whose roots
    are not here is left out.
    """
    found: list[str] = []
    sources = because
    for mesh in meshes:
        try:
            found.append(source.trust_bundle(mesh.name))
        except MaterialMissing:
            continue
        sources = joined(sources, mesh.sources)
    if found:
        pem = "".join(one if one.endswith("\n") else f"{one}\n" for one in found)
        yield sds.trust(defaults.TRUST_ALL, pem, sources)
