"""Names of streams, subjects and consumers, in one place, and the logs that each process opens with them.

Hub, account GLOBAL: `EV` on `mesh.v1.>`, per zone `Z_<zone>` on `zone.v1.<zone>.>`, `S_<zone>` on
`status.v1.<zone>.>`, `R_<zone>` on `record.v1.<zone>.>`, and on `EV` one pull consumer `zone-<zone>` per zone. Zone
server, account APP: the same four streams for its own zone, where `EV` is a copy, and `D_<zone>` on
`delivery.v1.<zone>.>`, which never leaves it. The
hub's account of a zone imports what the zone may do there under two prefixes that no local stream listens to:
`hub.js.` (JetStream API) and `hub.` (publishing). So a local publish never reaches the hub by accident, and the hub
never writes into a zone.

A zone may not create consumers on the hub: a push consumer's deliver subject would let it write into another zone's
stream. Global makes its one consumer, and the zone only resets (`CONSUMER.RESET`, nats-server >= 2.14) and pulls it.
"""

from __future__ import annotations

from shared.nats.connection import Connection
from shared.nats.log import JetStreamLog
from shared.nats.status import StatusStream
from shared.nats.stream import (
    delivery_stream,
    ensure_reader,
    ensure_stream,
    event_stream,
    record_stream,
    status_stream,
)

EVENTS = "EV"
EVENTS_SUBJECTS = "mesh.v1.>"
HUB_API = "hub.js"
HUB_PREFIX = "hub."
GLOBAL_ACCOUNT = "GLOBAL"
ZONE_ACCOUNT = "APP"
HUB_DOMAIN = "hub"


def zone_stream(zone: str) -> str:
    """Stream of the zone's own events."""
    return f"Z_{zone}"


def zone_subjects(zone: str) -> str:
    """Subjects of the zone's own events."""
    return f"zone.v1.{zone}.>"


def status_stream_name(zone: str) -> str:
    """Stream of the zone's observed conditions."""
    return f"S_{zone}"


def status_prefix(zone: str) -> str:
    """Prefix of the subjects of the zone's observed conditions; the key follows."""
    return f"status.v1.{zone}."


def delivery_stream_name(zone: str) -> str:
    """Stream of how far the zone's proxies have come."""
    return f"D_{zone}"


def delivery_prefix(zone: str) -> str:
    """Prefix of the subjects of how far the zone's proxies have come; the key follows."""
    return f"delivery.v1.{zone}."


def record_stream_name(zone: str) -> str:
    """Stream of what the zone's proxies took."""
    return f"R_{zone}"


def record_prefix(zone: str) -> str:
    """Prefix of the subjects of what the zone's proxies took; a time follows."""
    return f"record.v1.{zone}."


def zone_reader(zone: str) -> str:
    """Name of the zone's consumer on the hub's `EV`."""
    return f"zone-{zone}"


def hub_account(zone: str) -> str:
    """Name of the zone's account on the hub."""
    return f"zone-{zone}"


def global_log(connection: Connection) -> JetStreamLog:
    """Global's own log, for the global control plane."""
    return JetStreamLog(connection, EVENTS)


def zone_log_on_hub(connection: Connection, zone: str) -> JetStreamLog:
    """What a zone's outbox delivered, for the global control plane."""
    return JetStreamLog(connection, zone_stream(zone))


def status_on_hub(connection: Connection, zone: str) -> StatusStream:
    """A zone's observed conditions, for the global control plane."""
    return StatusStream(connection, status_stream_name(zone), status_prefix(zone))


def own_log(connection: Connection, zone: str) -> JetStreamLog:
    """The zone's own log on its own server: the authority."""
    return JetStreamLog(connection, zone_stream(zone))


def copied_log(connection: Connection) -> JetStreamLog:
    """The copy of global's log on the zone's server."""
    return JetStreamLog(connection, EVENTS)


def hub_log_from_zone(connection: Connection, zone: str) -> JetStreamLog:
    """Global's log on the hub, read by a zone through its leaf link: the source of the copier."""
    return JetStreamLog(connection, EVENTS, api=HUB_API, prefix=HUB_PREFIX, reader=zone_reader(zone))


def outbox_target(connection: Connection, zone: str) -> JetStreamLog:
    """`Z_<zone>` on the hub, written by the zone through its leaf link: the target of the outbox."""
    # One attempt: the outbox itself retries for ever, and re-reads where the hub stands each time.
    return JetStreamLog(connection, zone_stream(zone), api=HUB_API, prefix=HUB_PREFIX, attempts=1)


def own_status(connection: Connection, zone: str) -> StatusStream:
    """The zone's observed conditions on its own server."""
    return StatusStream(connection, status_stream_name(zone), status_prefix(zone))


def own_delivery(connection: Connection, zone: str) -> StatusStream:
    """How far the zone's proxies have come, on the zone's own server."""
    return StatusStream(connection, delivery_stream_name(zone), delivery_prefix(zone))


def records(connection: Connection, zone: str) -> StatusStream:
    """What the zone's proxies took, on the server of this connection: the zone's own, or the hub."""
    return StatusStream(connection, record_stream_name(zone), record_prefix(zone))


def records_target(connection: Connection, zone: str) -> StatusStream:
    """`R_<zone>` on the hub, written by the zone through its leaf link."""
    return StatusStream(connection, record_stream_name(zone), record_prefix(zone), api=HUB_API, prefix=HUB_PREFIX)


def status_target(connection: Connection, zone: str) -> StatusStream:
    """`S_<zone>` on the hub, written by the zone through its leaf link."""
    return StatusStream(connection, status_stream_name(zone), status_prefix(zone), api=HUB_API, prefix=HUB_PREFIX)


async def ensure_hub(connection: Connection, *, replicas: int = 1) -> None:
    """Create or update global's stream. Raises ApiError, LogUnavailable."""
    await ensure_stream(connection, event_stream(EVENTS, EVENTS_SUBJECTS, replicas=replicas))


async def ensure_zone_on_hub(connection: Connection, zone: str, *, replicas: int = 1) -> None:
    """Create or update what a zone needs on the hub: its three streams and its consumer. Call after `ensure_hub`."""
    await ensure_stream(connection, event_stream(zone_stream(zone), zone_subjects(zone), replicas=replicas))
    await ensure_stream(
        connection, status_stream(status_stream_name(zone), f"{status_prefix(zone)}>", replicas=replicas)
    )
    await ensure_stream(
        connection, record_stream(record_stream_name(zone), f"{record_prefix(zone)}>", replicas=replicas)
    )
    await ensure_reader(connection, EVENTS, zone_reader(zone))


async def ensure_zone(connection: Connection, zone: str) -> None:
    """Create or update the five streams on the zone's own server. Raises ApiError, LogUnavailable."""
    await ensure_stream(connection, event_stream(zone_stream(zone), zone_subjects(zone)))
    await ensure_stream(connection, status_stream(status_stream_name(zone), f"{status_prefix(zone)}>"))
    await ensure_stream(connection, event_stream(EVENTS, EVENTS_SUBJECTS))
    await ensure_stream(connection, delivery_stream(delivery_stream_name(zone), f"{delivery_prefix(zone)}>"))
    await ensure_stream(connection, record_stream(record_stream_name(zone), f"{record_prefix(zone)}>"))
