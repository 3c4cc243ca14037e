"""MeshAccessLog → access loggers of a chain, with Kuma's placeholders filled in."""

from __future__ import annotations

import msgspec
from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.access_loggers.file import v3 as file_log
from envoy_data_plane.google import protobuf as google

from shared.model.log_policy import LogConf, LogFormat
from zone_cp.xds.shape import pack

UNNAMED = "%DOWNSTREAM_LOCAL_ADDRESS%"
"""The destination in a chain that many services share: the VIP that was dialled."""

PLAIN = LogFormat(
    type="Plain",
    plain=(
        '[%START_TIME%] %KUMA_MESH% "%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
        "%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %KUMA_SOURCE_SERVICE% %KUMA_DESTINATION_SERVICE%"
    ),
)


class Log(msgspec.Struct, frozen=True):
    """One file and what a line says, placeholders filled in."""

    path: str
    plain: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    omit_empty: bool = False


class Parties(msgspec.Struct, frozen=True):
    """Who talks to whom; the destination may be Envoy format text."""

    mesh: str
    source: str
    source_address: str
    destination: str = UNNAMED


def logs(said: LogConf, parties: Parties) -> tuple[Log, ...]:
    """The files that a chain writes."""
    found = []
    for backend in said.backends or ():
        if backend.file is not None:
            form = backend.file.format or PLAIN
            found.append(
                Log(
                    backend.file.path,
                    _filled(form.plain, parties) + "\n" if form.type == "Plain" and form.plain else "",
                    tuple((one.key, _filled(one.value, parties)) for one in form.json or ()),
                    bool(form.omit_empty_values),
                )
            )
    return tuple(found)


def _filled(text: str, parties: Parties) -> str:
    values = {
        "KUMA_MESH": parties.mesh,
        "KUMA_SOURCE_SERVICE": parties.source,
        "KUMA_SOURCE_ADDRESS_WITHOUT_PORT": parties.source_address,
        "KUMA_SOURCE_ADDRESS": f"{parties.source_address}:0",
        "KUMA_DESTINATION_SERVICE": parties.destination,
        "KUMA_TRAFFIC_DIRECTION": "OUTBOUND",
    }
    for name, value in values.items():
        text = text.replace(f"%{name}%", value)
    return text


def logger(log: Log) -> accesslog.AccessLog:
    """The access logger of one file."""
    if log.plain:
        form = core.SubstitutionFormatString(text_format_source=core.DataSource(inline_string=log.plain))
    else:
        values = {key: google.Value(string_value=value) for key, value in log.fields}
        form = core.SubstitutionFormatString(json_format=google.Struct(fields=values))
    form.omit_empty_values = log.omit_empty
    written = file_log.FileAccessLog(path=log.path, log_format=form)
    return accesslog.AccessLog(name="envoy.access_loggers.file", typed_config=pack(written))
