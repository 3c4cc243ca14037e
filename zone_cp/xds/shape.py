"""Shapes: the static bytes that `wire` splices, and where in a message a piece belongs.

envoy-data-plane's dataclasses are the vocabulary (fields are named, never numbered by hand) and are slow, so
whatever is built with them here is built once.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

import betterproto2
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.google import protobuf as google

from zone_cp.xds import defaults
from zone_cp.xds.snapshot import TYPE_PREFIX
from zone_cp.xds.wire import LENGTH_DELIMITED, any_message, number, piece, tagged, varint


@cache
def number_of(message: type[betterproto2.Message], field: str) -> int:
    """Number of a field, by its name."""
    declared: Any = vars(message)["__dataclass_fields__"][field]
    return int(declared.metadata["betterproto"].number)


@cache
def tag(message: type[betterproto2.Message], field: str) -> bytes:
    """What stands before the length of a length-delimited field: for `tagged`, where a `part` is made often."""
    return varint(number_of(message, field) << 3 | LENGTH_DELIMITED)


def part(message: type[betterproto2.Message], field: str, data: bytes | str) -> bytes:
    """The field `field` of a `message`, holding `data`: text, or the bytes of a message."""
    return tagged(tag(message, field), data)


def scalar(message: type[betterproto2.Message], field: str, value: int) -> bytes:
    """The integer, enum or boolean field `field` of a `message`."""
    return number(number_of(message, field), value)


@cache
def type_url(message: type[betterproto2.Message]) -> str:
    """Type URL of a message."""
    return TYPE_PREFIX + google.Any.pack(message()).type_url.rpartition("/")[2]


def packed(message: type[betterproto2.Message], value: bytes) -> bytes:
    """Body of an Any holding the bytes of a `message`."""
    return any_message(type_url(message), value)


def pack(message: betterproto2.Message) -> google.Any:
    """An Any holding `message`."""
    return google.Any.pack(message)


def extension(
    wrapper: type[betterproto2.Message], name: str, message: type[betterproto2.Message], value: bytes
) -> bytes:
    """`wrapper{name, typed_config: Any(message)}`: the form of every Envoy extension."""
    return part(wrapper, "name", name) + part(wrapper, "typed_config", packed(message, value))


@cache
def ads() -> core.ConfigSource:
    """Where Envoy finds resources: the same ADS stream."""
    return core.ConfigSource(
        ads=core.AggregatedConfigSource(),
        initial_fetch_timeout=defaults.INITIAL_FETCH_TIMEOUT,
        resource_api_version=core.ApiVersion.V3,
    )


@cache
def ads_bytes() -> bytes:
    """`ads()`, encoded."""
    return bytes(ads())


@lru_cache(maxsize=65536)
def address(host: str, port: int) -> bytes:
    """An Address: a socket, or a pipe when `host` is `unix://<path>` (the scheme is stripped, decision 1)."""
    if host.startswith("unix://"):
        return part(core.Address, "pipe", part(core.Pipe, "path", host.removeprefix("unix://")))
    socket = part(core.SocketAddress, "address", host) + scalar(core.SocketAddress, "port_value", port)
    return part(core.Address, "socket_address", socket)


def _text(key: str, value: str) -> bytes:
    # One entry of Struct.fields: a string.
    return tagged(_FIELDS, _key(key) + tagged(_VALUE, tagged(_STRING, value)))


@cache
def _key(text: str) -> bytes:
    # The key of a map's entry; its value has field 2.
    return piece(1, text)


_VALUE = varint(2 << 3 | LENGTH_DELIMITED)
_FIELDS, _STRING = tag(google.Struct, "fields"), tag(google.Value, "string_value")
_FILTER_METADATA = tag(core.Metadata, "filter_metadata")


def metadata(namespace: str, **values: str) -> bytes:
    """Metadata with one namespace of texts."""
    return metadata_of(namespace, sorted(values.items()))


def metadata_of(namespace: str, texts: Iterable[tuple[str, str]]) -> bytes:
    """`metadata` for a caller who has them in order."""
    struct = b"".join([_text(key, value) for key, value in texts])
    return tagged(_FILTER_METADATA, _key(namespace) + tagged(_VALUE, struct))
