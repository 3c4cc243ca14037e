"""What every zone last said of how far its proxies are: what global answers `zonal trace` and `apply --wait` from."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog

from shared.events.progress import Progress
from shared.process.news import News

log = structlog.get_logger(__name__)

_decoder = msgspec.json.Decoder(Progress)


class ZonesProgress:
    """A `shared.api.trace.Tracer` of all zones. Belongs to one event loop."""

    def __init__(self, zones: Sequence[str]) -> None:
        self._zones = tuple(zones)
        self._rows: dict[str, Progress] = {}
        self._news = News()

    def take(self, zone: str, data: bytes) -> None:
        """A zone has said something; what cannot be read is left out."""
        try:
            self._rows[zone] = _decoder.decode(data)
        except msgspec.DecodeError as error:
            # A zone of another version; its word is not worth a crash.
            log.warning("unreadable progress", zone=zone, error=str(error))
        else:
            self._news.tell()

    @property
    def zones(self) -> Sequence[str]:
        """See Tracer."""
        return self._zones

    def progress(self, zone: str) -> Progress | None:
        """See Tracer."""
        return self._rows.get(zone)

    async def news(self) -> None:
        """See Tracer."""
        await self._news.wait()
