"""TLS checks on demand: reads what to try from the newest view, has an egress's agent try it, tells what it met."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from shared.api.tls_check import CheckImpossible, CheckStep, EndpointCheck, TlsReport
from shared.events.state import ZoneState
from shared.model.resource import ResourceKey, ZoneEgress
from shared.pb.agent_pb2 import CheckTls, TlsStep
from zone_cp.ads.agents import Agents, NotAttached
from zone_cp.view.project import proxy_view
from zone_cp.view.zone_view import ExternalServiceView, ProxyView, ZoneView
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.tls_check import tls_checks
from zone_cp.xds.ways import through_egress

ANSWER_SECONDS = 60.0
ENDPOINTS_MAX = 16
"""Endpoints of one service that a check dials."""


class ZoneChecker:
    """A `shared.api.tls_check.TlsChecker`. `present` is the newest state and view, None before the first."""

    def __init__(
        self,
        agents: Agents,
        secrets: SecretSource,
        present: Callable[[], tuple[ZoneState, ZoneView] | None],
        *,
        timeout_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._agents = agents
        self._secrets = secrets
        self._present = present
        self._timeout_seconds = timeout_seconds

    async def check_tls(self, key: ResourceKey) -> TlsReport:
        """See TlsChecker."""
        present = self._present()
        if present is None:
            raise CheckImpossible(409, "the zone has no state yet")
        state, view = present
        service = self._service(view, key)
        proxy = self._egress(state)
        asked = tls_checks(service, proxy.system_ca_path, self._secrets, uuid4().hex)
        about: dict[str, Any] = {"mesh": key.mesh, "name": key.name, "zone": view.zone, "egress": proxy.proxy}
        about["position"] = str(view.position)
        if not isinstance(asked, tuple):
            closed = CheckStep("configuration", "failed", f"{asked.reason}: {asked.message}", asked.field)
            return TlsReport(result="failed", steps=(closed,), **about)
        endpoints = tuple(await asyncio.gather(*(self._ask(proxy.proxy, one) for one in asked[:ENDPOINTS_MAX])))
        bad = any(one.result == "failed" for endpoint in endpoints for one in endpoint.steps)
        ready = CheckStep("configuration", "ok", f"{len(asked)} endpoint{'s' if len(asked) != 1 else ''} to dial")
        return TlsReport(result="failed" if bad else "ok", steps=(ready,), endpoints=endpoints, **about)

    def _service(self, view: ZoneView, key: ResourceKey) -> ExternalServiceView:
        mesh = view.meshes.get(key.mesh)
        service = mesh.services.get(key) if mesh is not None else None
        if mesh is None or service is None:
            raise CheckImpossible(409, f"{key.name} has no VIP in zone {view.zone} yet")
        if not through_egress(mesh):
            # The material of spec.tls must not leave for an application's host on a command's account.
            raise CheckImpossible(409, f"mesh {key.mesh} originates TLS at its sidecars; only an egress makes checks")
        return service

    def _egress(self, state: ZoneState) -> ProxyView:
        for name in sorted(state.own.proxies):
            known = proxy_view(state, name)
            if known is not None and isinstance(known.resource, ZoneEgress) and self._agents.attached(name):
                return known
        raise CheckImpossible(409, f"no zone egress of zone {state.zone} is attached")

    async def _ask(self, proxy: str, check: CheckTls) -> EndpointCheck:
        try:
            answer = await self._agents.check_tls(proxy, check, self._timeout_seconds)
        except TimeoutError:
            raise CheckImpossible(504, f"{proxy} did not answer within {self._timeout_seconds:g} s") from None
        except NotAttached:
            raise CheckImpossible(409, f"{proxy} went away before it answered") from None
        return EndpointCheck(check.address, check.port, tuple(_step(one) for one in answer.steps))


def _step(one: TlsStep) -> CheckStep:
    facts = {fact.name: fact.value for fact in one.facts}
    result: Any = one.result
    return CheckStep(one.name, result, one.message, one.field, one.advice, facts)
