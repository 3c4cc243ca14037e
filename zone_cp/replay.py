"""Replay: what a zone and its proxies were told at any moment, from history alone, by the production compiler.

Pure. No keys are needed: secret material is replaced by its fingerprint, so everything but the bodies of SDS
secrets is byte for byte what was served.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

from shared.events.history import History, NoSuchMoment
from shared.events.state import Position, ZoneState
from zone_cp.ads.delivery import NOTHING
from zone_cp.ads.quarantine import without
from zone_cp.kept import kept_view
from zone_cp.view.project import project, proxy_view
from zone_cp.view.zone_view import ProxyView, TlsMaterial, ZoneView
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.inspect import plain
from zone_cp.xds.secrets import Svid
from zone_cp.xds.snapshot import Snapshot
from zone_cp.yielding import without_vips

REDACTED = "redacted"
NAMED_MAX = 10
"""Proxies that are named to whoever asks for one that there is not."""
_NO_TIME = datetime.fromtimestamp(0, UTC)


class RedactedSecrets:
    """A SecretSource without secrets: fingerprints and names stand where material was."""

    def text(self, material: TlsMaterial) -> bytes:
        """Clear text as it is (a CA is public), sealed material as its fingerprint."""
        if material.text is not None:
            return material.text.encode()
        digest = material.sealed.digest if material.sealed else ""
        return f"{REDACTED} {material.name} {digest}".encode()

    def identity(self, mesh: str, spiffe_id: str) -> Svid:
        """A certificate that says whose it would be."""
        placeholder = f"{REDACTED} {mesh} {spiffe_id}"
        return Svid(
            spiffe_id=spiffe_id,
            chain_pem=placeholder,
            key_pem=REDACTED,
            serial="",
            fingerprint="",
            not_before=_NO_TIME,
            not_after=_NO_TIME,
        )

    def trust_bundle(self, mesh: str) -> str:
        """A bundle that says whose it would be."""
        return f"{REDACTED} bundle of {mesh}"


def view_at(history: History, zone: str, position: Position) -> ZoneView:
    """The ZoneView of a moment."""
    return project(history.state(zone, position))


Compile: TypeAlias = Callable[[ZoneState, ZoneView, str], Snapshot]
"""Compiles a view, which is of a state, for a proxy. Raises NoSuchMoment if it is unknown."""


def snapshot_at(
    history: History, zone: str, position: Position, proxy: str, compiled: Compile | None = None
) -> Snapshot:
    """What `proxy` should have held at a moment. Raises NoSuchMoment if it was unknown then.

    compiled: how a state is compiled, without secrets when left out.
    While a push to it was held, that is what it was given before, without what others lost since; in place of a
    resource in quarantine stands what the resource was before. Who yields its VIPs holds no listeners there.
    """
    compiled = compiled or _snapshot
    state = history.state(zone, position)
    then, view = _held(history, state, proxy)
    snapshot = compiled(then, view, proxy)
    if proxy in state.own.yields:
        snapshot = without_vips(view, snapshot)
    for key, quarantine in state.own.quarantined.items():
        kept = None if quarantine.kept is None else history.state(zone, quarantine.kept)
        before = None if kept is None else compiled(kept, project(kept), proxy)
        good = None if before is None else before.resources.get(quarantine.type_url, NOTHING).get(quarantine.name)
        snapshot = without(snapshot, key, good)
    return snapshot


def _held(history: History, state: ZoneState, proxy: str) -> tuple[ZoneState, ZoneView]:
    """What a proxy's snapshot follows from at the moment of `state`."""
    view, hold = project(state), state.own.holds.get(proxy)
    if hold is None or hold.released or hold.kept is None:
        return state, view
    then = history.state(state.zone, hold.kept)
    return then, kept_view(project(then), view, state)


def known_proxy(state: ZoneState, proxy: str) -> ProxyView:
    """What a proxy was then. Raises NoSuchMoment if it was unknown."""
    known = proxy_view(state, proxy)
    if known is None:
        names = sorted(state.own.proxies)
        told = ", ".join(names[:NAMED_MAX]) or "none yet"
        more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
        raise NoSuchMoment(f"zone {state.zone} knew no proxy {proxy!r} at {state.position}; it knew: {told}{more}")
    return known


def _snapshot(state: ZoneState, view: ZoneView, proxy: str) -> Snapshot:
    return compile_proxy(view, known_proxy(state, proxy), RedactedSecrets())


def xds_at(history: History, zone: str, position: Position, proxy: str) -> dict[str, dict[str, Any]]:
    """What `proxy` should have held, decoded, by resource type and name."""
    return plain(snapshot_at(history, zone, position, proxy))
