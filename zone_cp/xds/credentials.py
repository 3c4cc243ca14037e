"""Who a proxy is and whom it trusts, per mesh: two secrets over SDS."""

from __future__ import annotations

from collections.abc import Iterator

from zone_cp.view.zone_view import MeshView
from zone_cp.xds import defaults
from zone_cp.xds import secrets as sds
from zone_cp.xds.secrets import MaterialMissing, SecretSource
from zone_cp.xds.snapshot import Encoded


def credentials(mesh: MeshView, spiffe_id: str, source: SecretSource) -> Iterator[Encoded]:
    """Identity and trust bundle. What cannot be had is left out: Envoy then refuses every handshake."""
    try:
        svid = source.identity(mesh.name, spiffe_id)
        bundle = source.trust_bundle(mesh.name)
    except MaterialMissing:
        return
    yield sds.identity(defaults.identity_secret(mesh.name), svid, mesh.sources)
    yield sds.trust(defaults.trust_secret(mesh.name), bundle, mesh.sources)
