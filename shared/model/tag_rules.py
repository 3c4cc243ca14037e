"""What tags of Dataplanes, ExternalServices and MeshGateways may be: Kuma's sentences, the same for all of them.

The value of `kuma.io/service` becomes a part of SPIFFE ids and of hostnames.
"""

from __future__ import annotations

import re

from shared.model.part import Labels
from shared.model.value_rules import Found

TAG_NAME = "tag name must consist of alphanumeric characters, dots, dashes, slashes and underscores"
TAG_VALUE = "tag value must consist of alphanumeric characters, dots, dashes and underscores"
NO_VALUE = "tag value must be non-empty"

name_of_tag = re.compile(r"[a-zA-Z0-9.\-_:/]*")
_value = re.compile(r"[a-zA-Z0-9.\-_:]*")


def tag_violations(path: str, tags: Labels, forbidden: frozenset[str] = frozenset()) -> Found:
    """(path, reason) of every broken rule; `forbidden` are names that may not be there."""
    for tag, value in sorted(tags.items()):
        at = f'{path}["{tag}"]'
        if tag in forbidden:
            yield at, f'tag name must not be "{tag}"'
        if not tag:
            yield path, "tag name must be non-empty"
        elif not name_of_tag.fullmatch(tag):
            yield at, TAG_NAME
        if not value:
            yield at, NO_VALUE
        elif not _value.fullmatch(value):
            yield at, TAG_VALUE
