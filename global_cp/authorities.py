"""What global owes the mesh, made: roots, intermediates and wraps of data keys. The only keys global holds.

A root's key is sealed for global alone; an intermediate's for global and its zone (decision 34).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import assert_never

import structlog

from global_cp.decide import Need, NeedIntermediate, NeedRoot, NeedWrap
from shared.events.event import GLOBAL, Change, IntermediateIssued, RootCaCreated
from shared.events.state import GlobalState
from shared.keys import ca
from shared.keys.seal import Keyring, Sealer

log = structlog.get_logger(__name__)


class Authorities:
    """Meets needs with real keys. `clock` is aware UTC."""

    def __init__(self, keyring: Keyring, sealer: Sealer, clock: Callable[[], datetime]) -> None:
        self._keyring = keyring
        self._sealer = sealer
        self._clock = clock
        self._unknown: set[str] = set()

    def due(self, certificate_pem: str) -> bool:
        """Whether a certificate authority is to be renewed now."""
        return ca.needs_renewal(certificate_pem, self._clock())

    def meet(self, need: Need, state: GlobalState) -> tuple[Change, ...]:
        """The changes that meet one need; none while it cannot be met: no root yet, or no seal key of the zone."""
        if isinstance(need, NeedIntermediate | NeedWrap) and need.zone not in self._sealer.recipients:
            if need.zone not in self._unknown:
                self._unknown.add(need.zone)
                log.warning("no seal key of a zone: nothing is issued to it, see `zonal init`", zone=need.zone)
            return ()
        match need:
            case NeedRoot():
                certificate, key_pem = ca.create_root(need.mesh, need.backend, self._clock())
                sealed, wraps = self._sealer.seal(key_pem.encode(), only=(GLOBAL,))
                return (
                    *wraps,
                    RootCaCreated(mesh=need.mesh, backend=need.backend, certificate=certificate, key=sealed),
                )
            case NeedIntermediate():
                return self._intermediate(need, state)
            case NeedWrap():
                public = self._sealer.recipients[need.zone]
                return (self._keyring.rewrap(need.kid, state.hub.data_keys, need.zone, public),)
            case _:
                assert_never(need)

    def _intermediate(self, need: NeedIntermediate, state: GlobalState) -> tuple[Change, ...]:
        root = state.hub.roots.get(need.mesh)
        if root is None:
            return ()
        root_key = self._keyring.unseal(root.key, state.hub.data_keys).decode()
        certificate, key_pem = ca.create_intermediate(
            root.certificate, root_key, mesh=need.mesh, zone=need.zone, now=self._clock()
        )
        sealed, wraps = self._sealer.seal(key_pem.encode(), only=(GLOBAL, need.zone))
        issued = IntermediateIssued(
            mesh=need.mesh, backend=need.backend, zone=need.zone, certificate=certificate, key=sealed
        )
        return (*wraps, issued)
