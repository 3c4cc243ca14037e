"""MeshAccessLog: what a client's proxy writes about connections and requests to the outside."""

from __future__ import annotations

from typing import Literal

from shared.model.part import NO_LABELS, Labels, Part
from shared.model.target import TargetRef


class JsonField(Part, frozen=True, kw_only=True):
    """One field of a line that is a JSON object; `value` is Envoy's format text with Kuma's placeholders."""

    key: str
    value: str


class LogFormat(Part, frozen=True, kw_only=True):
    """`type` picks `plain` (one text) or `json` (fields)."""

    type: Literal["Plain", "Json"]
    plain: str | None = None
    json: tuple[JsonField, ...] | None = None
    omit_empty_values: bool | None = None


class FileLog(Part, frozen=True, kw_only=True):
    """A file of the proxy's host; `/dev/stdout` is the proxy's output."""

    path: str
    format: LogFormat | None = None


class LogBackend(Part, frozen=True, kw_only=True):
    """Where lines go: files only."""

    type: Literal["File"]
    file: FileLog | None = None


class LogConf(Part, frozen=True, kw_only=True):
    """An empty list is no log."""

    backends: tuple[LogBackend, ...] | None = None


class LogItem(Part, frozen=True, kw_only=True):
    """What holds towards some destinations."""

    target_ref: TargetRef
    default: LogConf


class LogSpec(Part, frozen=True, kw_only=True):
    """See `LogConf`."""

    target_ref: TargetRef | None = None
    to: tuple[LogItem, ...] = ()


class MeshAccessLog(Part, frozen=True, kw_only=True, tag_field="type", tag="MeshAccessLog"):
    """Who called which external service, written by the client's proxy."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    spec: LogSpec
