"""What the stores of both planes share: rows for the API, commands made fit for the log."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

from shared.api.store import ProxyRow, ProxyStatus, Put, Remove, StatusCondition
from shared.events.decide import Apply, Command, Decision, Delete, Rejected, Result
from shared.events.event import DataKeyWrapped, Event
from shared.events.proxy_conditions import NOBODY, proxy_condition_rows
from shared.events.sealing import Seal, seal_all
from shared.events.state import LogState, Stored, ZoneState
from shared.history.supposed import Considered
from shared.model.resource import ResourceKey


def listed(logs: Sequence[LogState], kind: str, mesh: str | None) -> list[Stored]:
    """Resources of one kind in several logs, by key."""
    found = [log.resources[key] for log in logs for key in log.kinds.get(kind, ()) if mesh is None or key.mesh == mesh]
    return sorted(found, key=lambda stored: stored.key)


def sealed_commands(
    commands: Sequence[Put | Remove], seal: Seal
) -> tuple[list[Command], tuple[DataKeyWrapped, ...], tuple[str, ...]]:
    """Commands with every secret sealed, the data keys made for that, and warnings."""
    puts = [command.resource for command in commands if isinstance(command, Put)]
    admitted = seal_all(puts, seal)
    resources = iter(admitted.resources)
    sealed: list[Command] = [
        Apply(next(resources), command.expected_version, command.cause)
        if isinstance(command, Put)
        else Delete(command.key, command.expected_version, command.cause)
        for command in commands
    ]
    return sealed, admitted.wraps, admitted.warnings


def considered(
    log: LogState, decision: Decision | Rejected, warnings: tuple[str, ...], zones: tuple[ZoneState, ...]
) -> Considered | Rejected:
    """What a judged batch amounts to when it is not written. warnings: those of `sealed_commands`."""
    if isinstance(decision, Rejected):
        return decision
    return Considered(log, decision.changes, decision.results, warnings + decision.warnings, zones)


def versions(results: Sequence[Result], written: Sequence[Event]) -> tuple[Result, ...]:
    """Results with the version that each change got."""
    return tuple(
        Result(one.key, one.outcome, written[one.change].n if one.change is not None else one.version, one.change)
        for one in results
    )


Observing: TypeAlias = Callable[[ResourceKey], tuple[StatusCondition, ...]]
"""What is observed of a proxy, beside what the logs say; by its resource."""


def proxy_statuses(  # noqa: PLR0917 - two logs, and what is known beside them
    kind: str,
    hub: LogState,
    own: LogState,
    zone: str,
    elsewhere: Mapping[str, Collection[tuple[str, str]]] = NOBODY,
    observed: Observing = lambda _: (),
) -> list[ProxyStatus]:
    """Dataplanes or ZoneEgresses of a zone. elsewhere: by zone, what is served there, where that is known."""
    return [
        ProxyStatus(
            zone=zone,
            mesh=row.mesh,
            name=row.name,
            kind=row.kind,
            conditions=(
                *(StatusCondition(one.type, one.status, one.reason, one.message) for one in row.conditions),
                *observed(ResourceKey(row.kind, row.mesh, row.name, zone)),
            ),
            position=str(own.n),
        )
        for row in proxy_condition_rows(hub, own, zone, elsewhere=elsewhere)
        if row.kind == kind
    ]


def proxy_rows(zone: str, log: LogState) -> list[ProxyRow]:
    """Proxies of a zone as its log knows them; delivery is the zone's own knowledge."""
    return [
        ProxyRow(
            zone=zone,
            proxy=status.proxy,
            kind=status.key.kind,
            mesh=status.key.mesh,
            name=status.key.name,
            online=status.online,
            connection=status.connection,
            waits="" if hold is None or hold.released else f"held: {hold.reason}",
        )
        for _, status in sorted(log.proxies.items())
        for hold in (log.holds.get(status.proxy),)
    ]
