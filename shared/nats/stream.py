"""What the streams are: their settings, and how to bring a server's streams to them."""

from __future__ import annotations

from typing import Any

from shared.nats.connection import ApiError, Connection

API = "$JS.API"
DUPLICATE_WINDOW_SECONDS = 120
NANOSECONDS = 1_000_000_000
STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
MAX_WAITING_PULLS = 64
API_TIMEOUT_SECONDS = 10.0
DELIVERIES_KEPT = 16
"""Messages of one subject of a delivery stream: how far back it can be looked."""
RECORDS_BYTES = 16 << 20
"""Of a zone's records of what its proxies took: 600 changes that touch each of 1,000 proxies, or 40,000 that touch
ten of them.
"""


def event_stream(name: str, subjects: str, *, replicas: int = 1) -> dict[str, Any]:
    """Settings of a stream that is kept for ever and whose messages cannot be deleted."""
    return _stream(name, subjects, replicas) | {"allow_atomic": True, "deny_delete": True, "max_msgs_per_subject": -1}


def status_stream(name: str, subjects: str, *, replicas: int = 1) -> dict[str, Any]:
    """Settings of a stream that keeps the last message of each subject."""
    return _stream(name, subjects, replicas) | {"max_msgs_per_subject": 1, "discard": "old"}


def delivery_stream(name: str, subjects: str) -> dict[str, Any]:
    """Settings of a stream that keeps the last few messages of each subject."""
    return _stream(name, subjects, 1) | {"max_msgs_per_subject": DELIVERIES_KEPT, "discard": "old"}


def record_stream(name: str, subjects: str, *, replicas: int = 1) -> dict[str, Any]:
    """Settings of a stream that keeps messages of subjects of their own, the newest RECORDS_BYTES of them."""
    kept = {"max_msgs_per_subject": 1, "max_bytes": RECORDS_BYTES, "discard": "old"}
    return _stream(name, subjects, replicas) | kept


def _stream(name: str, subjects: str, replicas: int) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": [subjects],
        "storage": "file",
        "num_replicas": replicas,
        "retention": "limits",
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "discard": "new",
        "duplicate_window": DUPLICATE_WINDOW_SECONDS * NANOSECONDS,
        "allow_direct": True,
        "compression": "s2",
    }


async def ensure_stream(connection: Connection, settings: dict[str, Any]) -> None:
    """Create the stream, or update it where it differs. Raises ApiError, LogUnavailable."""
    name = settings["name"]
    try:
        info = await connection.api(f"{API}.STREAM.INFO.{name}", timeout_seconds=API_TIMEOUT_SECONDS)
    except ApiError as error:
        if error.err_code != STREAM_NOT_FOUND:
            raise
        await connection.api(f"{API}.STREAM.CREATE.{name}", settings, timeout_seconds=API_TIMEOUT_SECONDS)
        return
    present = info["config"]
    if any(present.get(field) != value for field, value in settings.items()):
        update = {key: value for key, value in present.items() if key != "metadata"} | settings
        await connection.api(f"{API}.STREAM.UPDATE.{name}", update, timeout_seconds=API_TIMEOUT_SECONDS)


async def ensure_reader(connection: Connection, stream: str, name: str) -> None:
    """Create the pull consumer that its reader positions with CONSUMER.RESET. Raises ApiError, LogUnavailable."""
    try:
        await connection.api(f"{API}.CONSUMER.INFO.{stream}.{name}", timeout_seconds=API_TIMEOUT_SECONDS)
    except ApiError as error:
        if error.err_code != CONSUMER_NOT_FOUND:
            raise
        config = {
            "name": name,
            "durable_name": name,
            "deliver_policy": "all",
            "ack_policy": "none",
            "max_waiting": MAX_WAITING_PULLS,
        }
        body = {"stream_name": stream, "config": config}
        await connection.api(f"{API}.CONSUMER.CREATE.{stream}.{name}", body, timeout_seconds=API_TIMEOUT_SECONDS)


async def stream_names(connection: Connection) -> list[str]:
    """Every stream of the account. Raises ApiError, LogUnavailable."""
    names: list[str] = []
    while True:
        answer = await connection.api(f"{API}.STREAM.NAMES", {"offset": len(names)})
        found = answer.get("streams") or []
        names += found
        if not found or len(names) >= answer.get("total", 0):
            return sorted(names)
