"""A TLS check as the API tells it, and what a plane that can make one looks like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from shared.model.resource import ResourceKey


class CheckStep(msgspec.Struct, frozen=True, rename="camel"):
    """One step: `field` is the resource's field that would mend a failure, "" when none would."""

    name: str
    result: Literal["ok", "failed", "skipped", "told"]
    message: str
    field: str = ""
    advice: str = ""
    facts: Mapping[str, str] = {}


class EndpointCheck(msgspec.Struct, frozen=True, rename="camel"):
    """The steps towards one endpoint, in the order they were made."""

    address: str
    port: int
    steps: tuple[CheckStep, ...]


class TlsReport(msgspec.Struct, frozen=True, rename="camel"):
    """What the zone's egress met. `steps` are those before any endpoint was dialled."""

    mesh: str
    name: str
    zone: str
    egress: str
    result: Literal["ok", "failed"]
    position: str
    steps: tuple[CheckStep, ...] = ()
    endpoints: tuple[EndpointCheck, ...] = ()


class CheckImpossible(Exception):
    """No check could be made; `status` is how HTTP would say it."""

    def __init__(self, status: Literal[404, 409, 504], reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class TlsChecker(Protocol):
    """A zone, as far as it tries handshakes."""

    async def check_tls(self, key: ResourceKey) -> TlsReport:
        """Try the TLS of the MeshExternalService `key`. Raises CheckImpossible."""
        ...
