"""Rules for single values of policies: Kuma's sentences for durations and numbers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import TypeAlias

from shared.model.duration import parse_duration
from shared.model.header import HeaderMatch
from shared.model.limits import PATTERN_MAX
from shared.model.re2 import re2_fault
from shared.model.target import IntOrString

Found: TypeAlias = Iterator[tuple[str, str]]
"""(path, reason) of every broken rule."""

NOT_EMPTY = "must not be empty"
REQUIRED = "must be defined"
NOT_DEFINED = "must not be defined"
POSITIVE = "must be greater than 0"
NOT_NEGATIVE = "must not be negative when defined"
POSITIVE_WHEN_DEFINED = "must be greater than zero when defined"

FORMAT_COMMANDS = frozenset(
    [
        "BYTES_RECEIVED",
        "BYTES_SENT",
        "CONNECTION_ID",
        "CONNECTION_TERMINATION_DETAILS",
        "DOWNSTREAM_LOCAL_ADDRESS",
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_LOCAL_PORT",
        "DOWNSTREAM_REMOTE_ADDRESS",
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "DURATION",
        "PROTOCOL",
        "REQUESTED_SERVER_NAME",
        "REQUEST_DURATION",
        "RESPONSE_CODE",
        "RESPONSE_CODE_DETAILS",
        "RESPONSE_DURATION",
        "RESPONSE_FLAGS",
        "RESPONSE_TX_DURATION",
        "ROUTE_NAME",
        "START_TIME",
        "UPSTREAM_CLUSTER",
        "UPSTREAM_HOST",
        "UPSTREAM_LOCAL_ADDRESS",
        "UPSTREAM_TRANSPORT_FAILURE_REASON",
        "KUMA_MESH",
        "KUMA_SOURCE_SERVICE",
        "KUMA_SOURCE_ADDRESS",
        "KUMA_SOURCE_ADDRESS_WITHOUT_PORT",
        "KUMA_DESTINATION_SERVICE",
        "KUMA_TRAFFIC_DIRECTION",
    ]
)
"""Commands without arguments, Envoy's and Kuma's; besides, headers: `%REQ(X?Y):Z%`, `%RESP(X)%`, `%TRAILER(X)%`."""

_command = re.compile(
    r"%(?:([A-Z_]+)|(?:REQ|RESP|TRAILER)\(:?[A-Za-z0-9_-]{1,64}(?:\?:?[A-Za-z0-9_-]{1,64})?\)(?::\d{1,4})?)%"
)
_header = re.compile(r"[A-Za-z0-9_!#$&'*+.^`|~-]{1,128}")
_decimal = re.compile(r"\d{1,9}(?:\.\d{1,9})?")


def duration(text: str | None, path: str, *, above_zero: bool = False) -> Found:
    """A duration, which may not be negative."""
    if text is None:
        return
    value = parse_duration(text)
    if value is None:
        yield path, f'time: invalid duration "{text}"'
    elif value < timedelta(0):
        yield path, NOT_NEGATIVE
    elif above_zero and not value:
        yield path, POSITIVE_WHEN_DEFINED


def positive(value: int | None, path: str, most: int = 2**32 - 1) -> Found:
    """A whole number from 1 to `most`."""
    if value is not None and value <= 0:
        yield path, POSITIVE
    elif value is not None and value > most:
        yield path, f"must be in inclusive range [1, {most}]"


def percent(value: IntOrString | None, path: str, most: int = 100) -> Found:
    """A decimal number from 0 to `most`, as a number or as text."""
    if value is None:
        return
    if not _decimal.fullmatch(str(value)):
        yield path, "string must be a valid number"
    elif float(value) > most:
        yield path, f"must be in inclusive range [0.0, {most}.0]"


def log_format(text: str, path: str) -> Found:
    """Text that Envoy can format: an unknown command would make it refuse the whole listener (decision 28)."""
    rest = _command.sub(
        lambda found: "" if found[1] is None or found[1] in FORMAT_COMMANDS else found[0], text.replace("%%", "")
    )
    if "%" in rest:
        yield path, f"must hold known format commands only: {rest[rest.index('%') :][:40]}"


def regular_expression(text: str, path: str) -> Found:
    """A pattern that RE2 takes too: no look-around, no references back."""
    if len(text) > PATTERN_MAX:
        yield path, f"must be a regular expression of RE2, of at most {PATTERN_MAX} characters"
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # [[:alpha:]] is no set within a set
            re.compile(text)
    except (re.error, RecursionError, OverflowError) as fault:
        yield path, f"must be a valid regular expression: {fault}"
    else:
        if reason := re2_fault(text):
            yield path, f"must be a regular expression of RE2: {reason}"


def header_name(text: str, path: str) -> Found:
    """A name of a header that can be sent."""
    if not _header.fullmatch(text):
        yield path, "must be a valid header name"


def header_matches(headers: tuple[HeaderMatch, ...] | None, path: str) -> Found:
    """Headers that are matched; Envoy refuses a pattern or name that it cannot use."""
    for index, header in enumerate(headers or ()):
        if not header.name:
            yield f"{path}[{index}].name", NOT_EMPTY
        elif not header.name.startswith(":"):
            yield from header_name(header.name, f"{path}[{index}].name")
        if header.type == "RegularExpression":
            yield from regular_expression(header.value or "", f"{path}[{index}].value")
        wanted = header.type not in ("Present", "Absent")
        if wanted and not header.value:
            yield f"{path}[{index}].value", REQUIRED
        elif not wanted and header.value is not None:
            yield f"{path}[{index}].value", NOT_DEFINED
