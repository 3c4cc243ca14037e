"""What a MeshGateway must satisfy beyond its shape: Kuma's sentences (`spec/4-gateway-and-policies.md` A2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from shared.model.addresses import is_dns_name
from shared.model.gateway import GatewayListener, MeshGateway, TagSelector
from shared.model.inbound import PROTOCOL_TAG, SERVICE_TAG
from shared.model.resource import DataplaneNetworking
from shared.model.source import DataSource
from shared.model.tag_rules import TAG_NAME, name_of_tag, tag_violations
from shared.model.value_rules import Found

PORT_MAX = 65535
HOSTNAME_MAX = 253
CERTIFICATES_MAX = 2
"""One with an RSA key and one with an ECDSA key."""
TLS_PROTOCOLS = ("TLS", "HTTPS")
FORBIDDEN_TAGS = frozenset({SERVICE_TAG, PROTOCOL_TAG, "kuma.io/zone", "kuma.io/external-service-name"})
OVERLAID_TAGS = frozenset({SERVICE_TAG})
"""Forbidden ones that a listener may overlay all the same (decision 22)."""

_SELECTED = re.compile(r"[a-zA-Z0-9.\-_:/]*|\*")


def gateway_violations(one: MeshGateway, data_source: Callable[[DataSource, str], Iterator[tuple[str, str]]]) -> Found:
    """(path, reason) of every broken rule. `data_source` judges a data source."""
    yield from selector_violations(one.selectors)
    yield from tag_violations("tags", one.tags, FORBIDDEN_TAGS)
    if one.conf is None:
        yield "conf", "cannot be empty"
        return
    listeners = one.conf.listeners
    if any(listener.cross_mesh for listener in listeners):
        for index in range(1, len(one.selectors)):
            yield f"selectors[{index}]", "there can be at most one selector"
    if not listeners:
        yield "conf.listeners", "cannot be empty"
    for index, listener in enumerate(listeners):
        path = f"conf.listeners[{index}]"
        yield from _listener(listener, path)
        for number, certificate in enumerate(listener.tls.certificates if listener.tls is not None else ()):
            yield from data_source(certificate, f"{path}.tls.certificates[{number}]")
    yield from _conflicts(listeners)


def builtin_violations(networking: DataplaneNetworking) -> Found:
    """(path, reason) of every rule that a Dataplane with `gateway.type: BUILTIN` breaks; none where it is none."""
    gateway = networking.gateway
    if gateway is None or gateway.type != "BUILTIN":
        return
    if networking.inbound:
        yield "networking.inbound", "inbound cannot be defined for builtin gateways"
    if networking.outbound:
        yield "networking.outbound", "outbound cannot be defined for builtin gateways"
    path = "networking.gateway.tags"
    if not gateway.tags.get(SERVICE_TAG):
        yield f'{path}["{SERVICE_TAG}"]', "tag has to exist"
    if (protocol := gateway.tags.get(PROTOCOL_TAG, "tcp")) != "tcp":
        reason = f'other values than tcp are not allowed, provided value "{protocol}"'
        yield f'{path}["{PROTOCOL_TAG}"]', reason
    yield from tag_violations(path, gateway.tags)


# --- listeners ------------------------------------------------------------------------------------------------------


def _listener(one: GatewayListener, path: str) -> Found:
    yield from hostname_violations(one.hostname, f"{path}.hostname")
    if not 1 <= one.port <= PORT_MAX:
        yield f"{path}.port", f"port must be in the range [1, {PORT_MAX}]"
    if one.protocol == "NONE":
        yield f"{path}.protocol", "cannot be empty"
    if one.cross_mesh:
        # Kuma accepts the others, serves TCP in plaintext, and gives no mesh a name for `*.suffix`.
        if one.protocol not in ("HTTP", "NONE"):
            yield f"{path}.protocol", "protocol is not supported with crossMesh"
        if one.hostname.startswith("*."):
            yield f"{path}.hostname", "wildcard domain is not supported with crossMesh"
        if one.tls is not None and (one.tls.mode != "NONE" or one.tls.certificates):
            yield f"{path}.tls", "must be empty with crossMesh"
    else:
        yield from _tls(one, f"{path}.tls")
    yield from tag_violations(f"{path}.tags", one.tags, FORBIDDEN_TAGS - OVERLAID_TAGS)


def hostname_violations(hostname: str, path: str) -> Found:
    """(path, reason) of what is neither exact, `*.suffix`, `*` nor "", which is any."""
    if hostname in ("", "*"):
        return
    if len(hostname) > HOSTNAME_MAX:
        yield path, f"must be at most {HOSTNAME_MAX} characters"
    elif hostname.startswith("*."):
        if not is_dns_name(hostname.removeprefix("*.")):
            yield path, "invalid wildcard domain"
    elif not is_dns_name(hostname):
        yield path, "invalid hostname"


def _tls(one: GatewayListener, path: str) -> Found:
    # Kuma fails the whole gateway later over TLS without `tls`, and ignores what HTTP, TCP and PASSTHROUGH cannot use:
    # a listener that was meant to be encrypted would be open.
    if one.tls is None:
        if one.protocol in TLS_PROTOCOLS:
            yield path, "cannot be empty"
        return
    mode, certificates = one.tls.mode, one.tls.certificates
    if one.protocol in ("HTTP", "TCP"):
        yield path, f"is not supported on {one.protocol} listeners"
        return
    if mode == "NONE":
        yield f"{path}.mode", "cannot be empty"
    elif mode == "PASSTHROUGH":
        if one.protocol == "HTTPS":
            yield f"{path}.mode", "mode is not supported on HTTPS listeners"
        if certificates:
            yield f"{path}.certificates", "must be empty in TLS passthrough mode"
    elif not certificates:
        yield f"{path}.certificates", "cannot be empty in TLS termination mode"
    elif len(certificates) > CERTIFICATES_MAX:
        yield f"{path}.certificates", f"cannot have more than {CERTIFICATES_MAX} certificates"


def _conflicts(listeners: Sequence[GatewayListener]) -> Found:
    """Listeners that cannot share their port; every one of them is named."""
    ports: dict[int, list[GatewayListener]] = {}
    for one in listeners:
        ports.setdefault(one.port, []).append(one)
    for index, one in enumerate(listeners):
        sharing, path = ports[one.port], f"conf.listeners[{index}]"
        if any(other.protocol != one.protocol for other in sharing):
            yield path, "protocol conflicts with other listeners on this port"
        if sum(_host(other) == _host(one) for other in sharing) > 1:
            yield path, "multiple listeners for hostname on this port"
        if any(other.cross_mesh != one.cross_mesh for other in sharing):
            yield f"{path}.crossMesh", "conflicting values for this port"
        limit = one.resources.connection_limit
        if limit and any(other.resources.connection_limit not in (0, limit) for other in sharing):
            yield f"{path}.resources.connectionLimit", "conflicting values for this port"


def _host(one: GatewayListener) -> str:
    return one.hostname.lower().removesuffix(".") or "*"


# --- tags -----------------------------------------------------------------------------------------------------------


def selector_violations(selectors: Sequence[TagSelector]) -> Found:
    """(path, reason) of every broken rule of the selectors of a MeshGateway or MeshGatewayRoute."""
    if not selectors:
        yield "selectors", "must have at least one element"
    for index, selector in enumerate(selectors):
        path = f"selectors[{index}].match"
        if not selector.match:
            yield path, "must have at least one tag"
        if SERVICE_TAG not in selector.match:
            yield path, f'mandatory tag "{SERVICE_TAG}" is missing'
        for tag, value in sorted(selector.match.items()):
            yield from _selected(path, tag, value)


def _selected(path: str, tag: str, value: str) -> Found:
    if not tag:
        yield path, "tag name must be non-empty"
    elif not name_of_tag.fullmatch(tag):
        yield f'{path}["{tag}"]', TAG_NAME
    if not value:
        yield f'{path}["{tag}"]', "tag value must be non-empty"
    elif not _SELECTED.fullmatch(value):
        yield (
            f'{path}["{tag}"]',
            'tag value must consist of alphanumeric characters, dots, dashes, slashes and underscores or be "*"',
        )
