"""Logs: one JSON object per line on stderr, or readable lines on a terminal. Never a secret.

What libraries write through `logging` goes the same way. Entries name what they are about by key:
`log.info("zone joined", zone="east")`. Log a resource as `resource=key`, because a value named `key` is hidden.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.model.resource import ResourceKey

HIDDEN = "[hidden]"
_SECRET_WORDS = {"credential", "credentials", "key", "passphrase", "password", "private", "secret", "seed", "token"}
_PLACE_WORDS = {"count", "dir", "file", "id", "kind", "name", "path", "type"}
"""`token_file` and `key_id` say where or which, not what."""
_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # a JSON web token
    r"|\bS[UAOCNX][A-Z2-7]{56}\b",  # an nkey seed
    re.DOTALL,
)


def configure(level: str, *, component: str = "", stream: TextIO | None = None) -> None:
    """Set up logging for this process. `component` stands in every entry; `stream` is stderr by default."""
    target = sys.stderr if stream is None else stream
    structlog.contextvars.clear_contextvars()
    if component:
        structlog.contextvars.bind_contextvars(component=component)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    on_terminal = target.isatty()
    rendering: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if on_terminal:
        # The console renderer would format exceptions itself, with local variables and behind the redaction.
        rendering += [structlog.processors.format_exc_info, redact, structlog.dev.ConsoleRenderer()]
    else:
        rendering += [structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer(default=str)]
    output = logging.StreamHandler(target)
    output.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=rendering))
    root = logging.getLogger()
    root.handlers[:] = [output]
    root.setLevel(level.upper())
    # A library's chatter is of interest only to somebody who asked for everything.
    for library in ("asyncio", "nats", "grpc", "uvicorn", "uvicorn.access", "httpcore"):
        logging.getLogger(library).setLevel("DEBUG" if level == "debug" else "WARNING")
    logging.getLogger("hpack").setLevel("WARNING")  # else tokens in header fields are told to who asks for everything
    if level != "debug":
        # asyncio warns of each TLS connection that its peer closes first; what goes wrong it logs as an error.
        logging.getLogger("asyncio").setLevel("ERROR")
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def redact(_logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
    """A structlog processor: hide values named like secrets, and private keys and tokens inside any text."""
    return {name: _cleaned(name, value) for name, value in entry.items()}


def _cleaned(name: str, value: Any) -> Any:
    if isinstance(value, ResourceKey):
        return str(value)
    words = set(re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))
    if words & _SECRET_WORDS and not words & _PLACE_WORDS and value not in (None, "", True, False):
        return HIDDEN
    return _without_secrets(value)


def _without_secrets(value: Any) -> Any:
    match value:
        case str():
            return _SECRET_TEXT.sub(HIDDEN, value)
        case bytes():
            return _SECRET_TEXT.sub(HIDDEN, value.decode("utf-8", "backslashreplace"))
        case Mapping():
            return {str(name): _cleaned(str(name), item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_without_secrets(item) for item in value]
        case None | bool() | int() | float():
            return value
        case _:
            return _SECRET_TEXT.sub(HIDDEN, str(value))
