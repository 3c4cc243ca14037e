"""A probe: one HTTP request as an application of a proxy would make it, and what answer is good. Pure.

It is what a bisection may be asked for over HTTP, where no commands are run: it reaches what the proxy is served, by
the hostnames of the mesh, and nothing else. `zone_cp.scratch.probe` makes the request.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

URL_CHARACTERS_MAX = 2_048
PORT = 80
_PLAIN = re.compile(r"[!-~]+")
"""No space and no control character: it stands in a request line."""


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """url: `http://<hostname or VIP>[:port]/path`, in plaintext as applications speak. expect: the status that is good,
    0 for any below 400.
    """

    url: Annotated[str, msgspec.Meta(max_length=URL_CHARACTERS_MAX)]
    method: Literal["GET", "HEAD"] = "GET"
    expect: Annotated[int, msgspec.Meta(ge=0, le=599)] = 0

    def __post_init__(self) -> None:
        """Raises ValueError."""
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname or parts.username is not None or not _PLAIN.fullmatch(self.url):
            raise ValueError(f"url: {self.url!r} is not http://<hostname>[:port]/path")
        if parts.port == 0:
            raise ValueError("url: port 0")

    @property
    def host(self) -> str:
        """Which service: its hostname or VIP."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Which of its ports."""
        return urlsplit(self.url).port or PORT

    @property
    def request(self) -> bytes:
        """What is sent."""
        parts = urlsplit(self.url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = (f"{self.method} {path} HTTP/1.1", f"host: {parts.netloc}", "connection: close", "user-agent: zonal")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def is_good(self, status: int) -> bool:
        """Whether an answer is as it should be."""
        return status == self.expect if self.expect else status < 400
