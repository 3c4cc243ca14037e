"""ScratchSecrets: the compiler's SecretSource of a scratch plane. Nothing it issues is good for anything else.

Workloads get certificates of authorities that are made for the run, so proxies of the run trust each other and nobody
of the running system. Sealed material is opened with the keys that were given, as in production. Without keys, or in a
history without ciphertexts, a stand-in certificate and key take its place: a service is closed or not as it was, but
what the outside makes of the certificate may differ.
"""

from __future__ import annotations

from datetime import datetime

from shared.events.redaction import REDACTED
from shared.events.state import ZoneState
from shared.keys import ca, pki
from shared.keys.seal import Keyring, Unreadable
from shared.model.resource import Sealed
from zone_cp.identity.issuer import Issuer
from zone_cp.identity.svid import Svid
from zone_cp.view.zone_view import TlsMaterial
from zone_cp.xds.secrets import MaterialMissing

CERTIFICATE_SECONDS = 86_400.0


class ScratchSecrets:
    """One run's secrets. `state` is the moment that is compiled; stood_in names what a stand-in took the place of."""

    def __init__(self, zone: str, keyring: Keyring | None, now: datetime) -> None:
        self.state: ZoneState | None = None
        self.stood_in: set[str] = set()
        self._zone = zone
        self._keyring = keyring
        self._now = now
        self._issuers: dict[str, Issuer] = {}
        self._issued: dict[tuple[str, str], Svid] = {}
        self._stand_in = b""

    def text(self, material: TlsMaterial) -> bytes:
        """The bytes of TLS material. Raises MaterialMissing."""
        if material.text is not None:
            return material.text.encode()
        if material.sealed is None:
            raise MaterialMissing(f"{material.name} has no content")
        if self._keyring is None or material.sealed.ciphertext == REDACTED:
            self.stood_in.add(material.name)
            return self._standing_in()
        try:
            return self._opened(self._keyring, material.sealed)
        except Unreadable as error:
            raise MaterialMissing(error.reason) from None

    def identity(self, mesh: str, spiffe_id: str) -> Svid:
        """A certificate of the run for a workload."""
        known = self._issued.get((mesh, spiffe_id))
        if known is None:
            known = self._issued[mesh, spiffe_id] = self._issuer(mesh).issue(spiffe_id, CERTIFICATE_SECONDS, self._now)
        return known

    def trust_bundle(self, mesh: str) -> str:
        """The run's root of a mesh, PEM."""
        return self._issuer(mesh).root_pem

    def _issuer(self, mesh: str) -> Issuer:
        if mesh not in self._issuers:
            root, key = ca.create_root(mesh, "scratch", self._now)
            chain, chain_key = ca.create_intermediate(root, key, mesh=mesh, zone=self._zone, now=self._now)
            self._issuers[mesh] = Issuer(chain, chain_key, root)
        return self._issuers[mesh]

    def _opened(self, keyring: Keyring, sealed: Sealed) -> bytes:
        state = self.state
        logs = () if state is None else (state.hub, state.own)
        wraps = {reader: wrap for log in logs for reader, wrap in log.data_keys.get(sealed.kid, {}).items()}
        return keyring.unseal(sealed, {sealed.kid: wraps})

    def _standing_in(self) -> bytes:
        """A key and its certificate together: each reader takes what it looks for."""
        if not self._stand_in:
            root, root_key = pki.create_authority(self._now)
            name = "zonal-stand-in.invalid"
            certificate, key = pki.issue(root, root_key, name=name, hosts=(name,), now=self._now, client=True)
            self._stand_in = (key + certificate).encode()
        return self._stand_in
