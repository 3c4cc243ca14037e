"""What a MeshPassthrough must satisfy, in Kuma's sentences (`spec/4-gateway-and-policies.md` B3.10)."""

from __future__ import annotations

import re

from shared.model.addresses import cidr_fault, is_dns_name, is_ip
from shared.model.passthrough_policy import PassthroughConf, PassthroughMatch
from shared.model.value_rules import Found

L7_PROTOCOLS = ("grpc", "http", "http2")
SAME_PROTOCOL = (
    "using the same port in multiple matches requires the same protocol for the following protocols: "
    f"[{' '.join(L7_PROTOCOLS)}]"
)
MATCHES_MAX = 500
"""Of one policy: each is a branch that Envoy tries in turn."""

_partial_wildcard = re.compile(r"\*[^.]+.*")


def passthrough(conf: PassthroughConf, path: str) -> Found:
    """The whole of `default`."""
    matches = conf.append_match or ()
    if len(matches) > MATCHES_MAX:
        yield f"{path}.appendMatch", f"must hold at most {MATCHES_MAX} items"
    protocols: dict[int, str] = {}
    seen: set[tuple[int, str, str]] = set()
    for index, one in enumerate(matches):
        where = f"{path}.appendMatch[{index}]"
        yield from _port(one, where)
        if one.port is not None:
            if one.protocol in L7_PROTOCOLS and protocols.setdefault(one.port, one.protocol) != one.protocol:
                yield f"{where}.port", SAME_PROTOCOL
            if (one.port, one.protocol, one.value) in seen:
                yield f"{where}.value", f"value {one.value} is already defiend for this port and protocol"
            seen.add((one.port, one.protocol, one.value))
        yield from _value(one, where)


def _port(one: PassthroughMatch, path: str) -> Found:
    if one.protocol == "mysql" and one.port is None:
        yield f"{path}.port", "port must be defined for Mysql protocol"
    if one.port is not None and not 0 < one.port < 2**16:
        yield f"{path}.port", "port must be a valid (1-65535)"


def _value(one: PassthroughMatch, path: str) -> Found:
    match one.type:
        case "CIDR":
            if "/" not in one.value or cidr_fault(one.value) is not None:
                yield f"{path}.value", "provided CIDR has incorrect value"
        case "IP":
            if not is_ip(one.value):
                yield f"{path}.value", "provided IP has incorrect value"
        case "Domain":
            yield from _domain(one, path)
        case _:
            yield (
                f"{path}.type",
                f"provided type {one.type} is not supported, one of Domain, IP, or CIDR is supported",
            )


def _domain(one: PassthroughMatch, path: str) -> Found:
    if one.protocol in ("tcp", "mysql"):
        yield f"{path}.protocol", f"protocol {one.protocol} is not supported for a domain"
    wildcard = one.value.startswith("*")
    if _partial_wildcard.fullmatch(one.value):
        yield f"{path}.value", "provided DNS has incorrect value, partial wildcard is currently not supported"
    elif not is_dns_name(one.value.removeprefix("*.")):
        yield f"{path}.value", "provided DNS has incorrect value"
    if wildcard and one.port is None and one.protocol in L7_PROTOCOLS:
        yield f"{path}.port", "wildcard domains doesn't work for all ports and layer 7 protocol"
