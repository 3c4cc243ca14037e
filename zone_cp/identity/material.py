"""ZoneSecrets: the bytes behind what the compiler names, held by no log and no view."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import msgspec
from immutables import Map

from shared.events.event import EventRef
from shared.events.state import ZoneState
from shared.keys.seal import Keyring, Unreadable
from shared.model.resource import Sealed
from zone_cp.identity.issuer import Issuer, NotIssuable
from zone_cp.identity.rotation import Rotation, Workload
from zone_cp.identity.svid import Svid
from zone_cp.view.zone_view import TlsMaterial
from zone_cp.xds.secrets import MaterialMissing

CACHE_LIMIT = 8192
"""Unsealed texts kept; opening one costs about 0.05 ms (measured), and a recompile asks for all of them."""


class Refreshed(msgspec.Struct, frozen=True):
    """The meshes for which certificates are issued otherwise now than before, or no more; and those that have no usable
    authority here, with the reason.
    """

    changed: frozenset[str]
    failures: Map[str, str]


class ZoneSecrets:
    """The compiler's SecretSource: TLS material, identities and trust bundles of this zone.

    `state` gives the zone's current state; its wraps of data keys decide what can be read.
    """

    def __init__(self, keyring: Keyring, state: Callable[[], ZoneState], rotation: Rotation) -> None:
        self._keyring = keyring
        self._state = state
        self._rotation = rotation
        self._texts: dict[Sealed, bytes] = {}
        self._trusted: dict[str, tuple[EventRef, EventRef, float]] = {}

    def text(self, material: TlsMaterial) -> bytes:
        """The bytes of TLS material. Raises MaterialMissing."""
        if material.text is not None:
            return material.text.encode()
        if material.sealed is None:
            raise MaterialMissing(f"{material.name} has no content")
        try:
            return self._unseal(material.sealed)
        except Unreadable as error:
            raise MaterialMissing(error.reason) from None

    def identity(self, mesh: str, spiffe_id: str) -> Svid:
        """The workload's current certificate. Raises MaterialMissing."""
        try:
            return self._rotation.identity(mesh, spiffe_id)
        except NotIssuable as error:
            raise MaterialMissing(error.reason) from None

    def trust_bundle(self, mesh: str) -> str:
        """The roots that peers of the mesh are verified by, PEM. Raises MaterialMissing."""
        try:
            return self._rotation.trust_bundle(mesh)
        except NotIssuable as error:
            raise MaterialMissing(error.reason) from None

    def refresh(self, certificate_seconds: Mapping[str, float]) -> Refreshed:
        """Bring issuers up to date with the state: call after every fold, before compiling. Cheap when nothing changed.

        `certificate_seconds` is the lifetime of workload certificates per mesh with mTLS; other meshes are forgotten.
        """
        failures: Map[str, str] = Map()
        before = dict(self._trusted)
        for mesh in [one for one in self._trusted if one not in certificate_seconds]:
            self._forget(mesh)
        for mesh, seconds in certificate_seconds.items():
            try:
                self._trust(mesh, seconds)
            except (Unreadable, ValueError) as error:
                self._forget(mesh)
                failures = failures.set(mesh, str(error))
        meshes = {*before, *self._trusted}
        return Refreshed(frozenset(one for one in meshes if before.get(one) != self._trusted.get(one)), failures)

    def keep(self, workloads: Collection[Workload]) -> None:
        """Issue no more for workloads that are not among these."""
        self._rotation.keep(workloads)

    def _trust(self, mesh: str, seconds: float) -> None:
        state = self._state()
        root = state.hub.roots.get(mesh)
        own = state.hub.intermediates.get((mesh, state.zone))
        if root is None or own is None:
            raise Unreadable(f"zone {state.zone} has no intermediate certificate of mesh {mesh} yet")
        facts = (root.event, own.event, seconds)
        if self._trusted.get(mesh) == facts:
            return
        issuer = Issuer(own.certificate, self._unseal(own.key).decode(), root.certificate)
        self._rotation.trust(mesh, issuer, seconds)
        self._trusted[mesh] = facts

    def _forget(self, mesh: str) -> None:
        if self._trusted.pop(mesh, None) is not None:
            self._rotation.distrust(mesh)

    def _unseal(self, sealed: Sealed) -> bytes:
        state = self._state()
        # A secret's wraps may stand in either log: global wraps for zones, and a zone wraps what it seals itself.
        wraps = {**state.hub.data_keys.get(sealed.kid, {}), **state.own.data_keys.get(sealed.kid, {})}
        if not wraps:
            self._texts.pop(sealed, None)  # shredded: the copy in memory goes too
        known = self._texts.get(sealed)
        if known is not None:
            return known
        text = self._keyring.unseal(sealed, {sealed.kid: wraps})
        if len(self._texts) >= CACHE_LIMIT:
            self._texts.pop(next(iter(self._texts)))
        self._texts[sealed] = text
        return text
