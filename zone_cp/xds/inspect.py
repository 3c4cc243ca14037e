"""Inspect: a Snapshot as plain data, for people and for `diff`. Keys are never in it.

Decoded with envoy-data-plane, off the hot path, by walking the dataclasses (their own JSON loses fields that
mix digits and letters). Fields that are unset are left out; an Any is unfolded with its type beside it.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
from datetime import datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any

import betterproto2
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.listener import original_dst, tls_inspector
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.service.runtime import v3 as runtime
from envoy_data_plane.google import protobuf as google

from zone_cp.xds import (
    domain_matcher,
    filters,
    gateway_filters,
    routes,
)  # imported so that what they pack can be unfolded
from zone_cp.xds.snapshot import (
    CLUSTER,
    ENDPOINT,
    EXTENSION_CONFIG,
    LISTENER,
    ROUTE,
    RUNTIME,
    SECRET,
    Encoded,
    Snapshot,
)
from zone_cp.xds.told import Reader

__all__ = ["decode", "plain", "plain_by_library", "plain_resource", "short_type"]

_UNFOLDABLE = (domain_matcher, filters, gateway_filters, routes, original_dst, tls_inspector)
_MESSAGES: dict[str, type[betterproto2.Message]] = {
    CLUSTER: cluster.Cluster,
    ENDPOINT: endpoint.ClusterLoadAssignment,
    LISTENER: listener.Listener,
    ROUTE: route.RouteConfiguration,
    SECRET: tls.Secret,
    EXTENSION_CONFIG: core.TypedExtensionConfig,
    RUNTIME: runtime.Runtime,
}
_REDACTED = "redacted"


def short_type(type_url: str) -> str:
    """`Cluster` for `type.googleapis.com/envoy.config.cluster.v3.Cluster`."""
    return type_url.rpartition(".")[2]


def decode(encoded: Encoded) -> betterproto2.Message:
    """The resource as an envoy-data-plane message, keys included: for tests."""
    return _MESSAGES[encoded.type_url].parse(encoded.body)


def plain(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Every resource by short type and name, JSON-able, private keys replaced by a fingerprint."""
    return {
        short_type(type_url): {name: plain_resource(one) for name, one in sorted(resources.items())}
        for type_url, resources in snapshot.resources.items()
        if resources
    }


def plain_by_library(encoded: Encoded) -> Any:
    """The same as `plain_resource`, by way of envoy-data-plane's objects alone: what that is held against."""
    return _plain(decode(encoded))


def plain_resource(encoded: Encoded) -> dict[str, Any]:
    """One resource as plain data."""
    return _reader.told(_MESSAGES[encoded.type_url], encoded.body)


@cache
def _fields(message: type[betterproto2.Message]) -> tuple[tuple[str, bool], ...]:
    # Names, and whether unset differs from zero.
    declared: Any = message
    return tuple((one.name, one.metadata["betterproto"].optional) for one in dataclasses.fields(declared))


def _plain(value: Any) -> Any:
    match value:
        case google.Any():
            return {"@type": value.type_url.rpartition("/")[2], **_plain(value.unpack())}
        case google.Struct():
            return {key: _plain(item) for key, item in sorted(value.fields.items())}
        case google.Value():
            return _value(value)
        case tls.TlsCertificate():
            return _certificate(value)
        case core.DataSource(inline_bytes=bytes() as data):
            return {"inline_bytes": _readable(data)}
        case betterproto2.Message():
            return {
                name: _plain(item)
                for name, optional in _fields(type(value))
                if _is_set(item := getattr(value, name), optional=optional)
            }
        case enum.Enum():
            return value.name
        case timedelta():
            return f"{value.total_seconds():g}s"
        case datetime():
            return value.isoformat()
        case bytes():
            return _readable(value)
        case dict():
            return {str(key): _plain(item) for key, item in sorted(value.items())}
        case list():
            return [_plain(item) for item in value]
        case _:
            return value


def _is_set(value: Any, *, optional: bool) -> bool:
    if optional:
        return value is not None
    return bool(value.value) if isinstance(value, enum.Enum) else bool(value)


def _value(value: google.Value) -> Any:
    for name in ("string_value", "number_value", "bool_value", "struct_value", "list_value"):
        held = getattr(value, name)
        if held is not None:
            return _plain(held)
    return None


def _certificate(value: tls.TlsCertificate) -> dict[str, Any]:
    chain = value.certificate_chain.inline_bytes if value.certificate_chain is not None else None
    return {"certificate_chain": {"inline_bytes": _readable(chain or b"")}, "private_key": _REDACTED}


def _readable(data: bytes) -> str:
    # Certificates are public but long: their fingerprint says all a reader wants.
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()
    if "PRIVATE KEY" in text:
        return _REDACTED
    return f"sha256:{sha256(data).hexdigest()}" if "-----BEGIN" in text else text


_reader = Reader(_plain, (google.Struct, google.Value, google.ListValue, tls.TlsCertificate, core.DataSource))
