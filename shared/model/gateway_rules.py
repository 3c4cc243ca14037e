"""What a MeshGateway must satisfy beyond its shape: Kuma's sentences (`spec/4-gateway-and-policies.md` A2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from shared.model.gateway import MeshGateway, TagSelector
from shared.model.inbound import SERVICE_TAG
from shared.model.source import DataSource
from shared.model.value_rules import Found

_TAG_NAME = re.compile(r"[a-zA-Z0-9.\-_:/]*")
_SELECTED = re.compile(r"[a-zA-Z0-9.\-_:/]*|\*")


def gateway_violations(one: MeshGateway, data_source: Callable[[DataSource, str], Iterator[tuple[str, str]]]) -> Found:
    """(path, reason) of every broken rule. `data_source` judges a data source."""
    yield from selector_violations(one.selectors)
    if one.conf is None:
        yield "conf", "cannot be empty"
        return
    if not one.conf.listeners:
        yield "conf.listeners", "cannot be empty"
    for index, listener in enumerate(one.conf.listeners):
        if listener.cross_mesh:
            yield f"conf.listeners[{index}].crossMesh", "cross-mesh listeners are not supported"
        if listener.tls is not None:
            for number, certificate in enumerate(listener.tls.certificates):
                yield from data_source(certificate, f"conf.listeners[{index}].tls.certificates[{number}]")


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
    elif not _TAG_NAME.fullmatch(tag):
        yield (
            f'{path}["{tag}"]',
            "tag name must consist of alphanumeric characters, dots, dashes, slashes and underscores",
        )
    if not value:
        yield f'{path}["{tag}"]', "tag value must be non-empty"
    elif not _SELECTED.fullmatch(value):
        yield (
            f'{path}["{tag}"]',
            'tag value must consist of alphanumeric characters, dots, dashes, slashes and underscores or be "*"',
        )
