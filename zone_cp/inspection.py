"""Inspection: what a proxy was sent, what it accepted, and what its Envoy says it has."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any
from uuid import uuid4

import msgspec

from shared.api.xds import InspectionImpossible, XdsDifference, XdsReport, XdsResource
from shared.events.state import Position
from zone_cp.ads.agents import Agents, NotAttached
from zone_cp.ads.delivery import ResourceState
from zone_cp.ads.hub import Hub
from zone_cp.xds.actual import differences, parse_dump
from zone_cp.xds.inspect import plain_resource, short_type
from zone_cp.xds.snapshot import Encoded

ANSWER_SECONDS = 20.0
DUMP_MAX_BYTES = 512 * 1024 * 1024
"""Of a config dump, unpacked."""


class ZoneInspector:
    """A `shared.api.xds.XdsInspector`."""

    def __init__(
        self,
        zone: str,
        hub: Hub,
        agents: Agents,
        waits: Callable[[str], str],
        *,
        timeout_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._zone = zone
        self._hub = hub
        self._agents = agents
        self._waits = waits
        self._timeout_seconds = timeout_seconds

    async def xds(self, proxy: str, *, actual: bool) -> XdsReport:
        """See XdsInspector."""
        delivery = self._hub.delivery(proxy)
        if not delivery.connection and delivery.offered is None:
            raise InspectionImpossible(404, f'proxy "{proxy}" is not known here')
        if not delivery.connection:
            raise InspectionImpossible(409, f"{proxy} is not connected")
        states = [state for stream in self._hub.streams_of(proxy) for state in stream.xds.states()]
        found = await self._differences(proxy, states) if actual else None
        return XdsReport(
            proxy=proxy,
            zone=self._zone,
            connection=delivery.connection,
            offered=_text(delivery.offered),
            delivered=_text(delivery.delivered),
            resources=tuple(_resource(state) for state in states),
            differences=found,
            waits=self._waits(proxy),
        )

    async def _differences(self, proxy: str, states: Sequence[ResourceState]) -> tuple[XdsDifference, ...]:
        try:
            dumped = await self._agents.config_dump(proxy, uuid4().hex, self._timeout_seconds)
        except NotAttached:
            raise InspectionImpossible(409, f"the agent of {proxy} is not connected") from None
        except TimeoutError:
            raise InspectionImpossible(504, f"the agent of {proxy} did not answer") from None
        if dumped.error:
            raise InspectionImpossible(502, dumped.error)
        return await asyncio.to_thread(_compared, states, dumped.gzip_json)


def _compared(states: Sequence[ResourceState], packed: bytes) -> tuple[XdsDifference, ...]:
    intended: dict[str, dict[str, Any]] = {}
    for state in states:
        if state.body:
            encoded = Encoded(state.name, state.type_url, state.version, state.body, b"")
            intended.setdefault(short_type(state.type_url), {})[state.name] = plain_resource(encoded)
    with gzip.open(BytesIO(packed)) as unpacked:
        raw = unpacked.read(DUMP_MAX_BYTES)
    found = differences(intended, parse_dump(msgspec.json.decode(raw)))
    return tuple(XdsDifference(one.type, one.name, one.path, one.intended, one.actual) for one in found)


def _resource(state: ResourceState) -> XdsResource:
    return XdsResource(
        type=short_type(state.type_url),
        name=state.name,
        version=state.version,
        state=state.state,
        refused=state.refused,
        refused_version=state.refused_version,
    )


def _text(position: Position | None) -> str:
    return "" if position is None else str(position)
