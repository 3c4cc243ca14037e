"""What a legacy ExternalService must satisfy: Kuma's sentences (external_service_validator.go), and decision 13."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shared.model.addresses import address_fault, is_dns_name, is_ip
from shared.model.external_service import ExternalService, LegacyTls, host_and_port
from shared.model.inbound import PROTOCOL_TAG, PROTOCOL_WORDS, SERVICE_TAG
from shared.model.shape import PORT
from shared.model.source import DataSource
from shared.model.tag_rules import tag_violations
from shared.model.value_rules import Found


def external_service_violations(
    one: ExternalService,
    allowed: tuple[str, ...],
    reserved: tuple[str, ...],
    data_source: Callable[[DataSource, str], Iterator[tuple[str, str]]],
) -> Found:
    """(path, reason) of every broken rule; allowed, reserved: as in `validate`. `data_source` judges a data source."""
    yield from _address(one.networking.address, allowed, reserved)
    if one.networking.tls is not None:
        yield from _tls(one.networking.tls, data_source)
    yield from _tags(one)


def _address(address: str, allowed: tuple[str, ...], reserved: tuple[str, ...]) -> Found:
    path = "networking.address"
    if not address:
        yield path, "address can't be empty"
        return
    parts = host_and_port(address)
    if parts is None:
        yield path, "unable to parse address"
        return
    host, port = parts
    if not is_ip(host) and not is_dns_name(host):
        yield path, "address has to be a valid IP address or a domain name"
    elif reason := address_fault(host, allowed, reserved):
        yield path, reason
    if not 1 <= port <= 65535:
        yield path, PORT


def _tags(one: ExternalService) -> Found:
    path = f'tags["{SERVICE_TAG}"]'
    if not one.service:
        yield path, "tag has to exist"
    yield from tag_violations("tags", one.tags)
    if (word := one.tags.get(PROTOCOL_TAG)) and word not in PROTOCOL_WORDS:
        allowed = ", ".join(PROTOCOL_WORDS)
        yield (
            f'tags["{PROTOCOL_TAG}"]',
            f'tag "{PROTOCOL_TAG}" has an invalid value "{word}". Allowed values: {allowed}',
        )
    parts = host_and_port(one.networking.address)
    if one.service and parts is not None and parts[0] == one.service:
        yield path, "cannot be the same as networking.address"


def _tls(tls: LegacyTls, data_source: Callable[[DataSource, str], Iterator[tuple[str, str]]]) -> Found:
    path = "networking.tls"
    if tls.server_name == "":
        yield f"{path}.serverName", "cannot be empty"
    elif tls.server_name is not None and not is_dns_name(tls.server_name):
        yield f"{path}.serverName", "must be a valid DNS name"
    # Kuma lets half a pair pass, and then originates TLS without it.
    if tls.client_cert is not None and tls.client_key is None:
        yield f"{path}.clientKey", "must be defined when clientCert is defined"
    if tls.client_key is not None and tls.client_cert is None:
        yield f"{path}.clientCert", "must be defined when clientKey is defined"
    for name, source in (("caCert", tls.ca_cert), ("clientCert", tls.client_cert), ("clientKey", tls.client_key)):
        if source is not None:
            yield from data_source(source, f"{path}.{name}")
