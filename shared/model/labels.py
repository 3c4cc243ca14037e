"""Labels the control plane computes and forces (decision 18), and labels of ours that carry settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeVar

from msgspec.structs import replace

from shared.model.policy import ROLE_LABEL, SYSTEM, Policy
from shared.model.resource import (
    DISPLAY_NAME_LABEL,
    ENV_LABEL,
    MESH_LABEL,
    ORIGIN_LABEL,
    ZONE_LABEL,
    Labels,
    Mesh,
    Resource,
    ZoneEgress,
    mesh_of,
)

ALLOW_ADDRESSES_LABEL = "zonal.io/allow-addresses"
"""On a Mesh: CIDRs that endpoints may use although decision 13 refuses them. Label values hold none of `/`, `,` and
`:`. So `_` stands for the slash, `-` separates, and `.` stands for the colon of an IPv6 address, which is told by its
eight groups or by `..` for `::`: `127.0.0.0_24-fd00.._8-0..1_128`. What does not fit into 63 characters goes on in
labels like `zonal.io/allow-addresses-2`."""
CIDRS_WRITTEN = 'in a label like 10.0.0.0_8-fd00.._8-0..1_128: "_" for "/", "." for ":" of IPv6, "-" between ranges'
IPV6_GROUPS = 8
MES_ORIGINATION_LABEL = "zonal.io/mes-origination"
SIDECAR_ORIGINATION = "sidecar"
UNIVERSAL = "universal"

_NAME = re.compile(r"(?:[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PREFIX = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_NAME_TEXT = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character, and be no more than 63 characters"
)
_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character, and be no more than 63 characters"
)

R = TypeVar("R", bound=Resource)


def computed(resource: R, zone: str) -> R:
    """`resource` with its computed labels forced; `zone` is the origin, "" for global.

    A global-origin resource keeps a `kuma.io/zone` of its author: it pins the egress (decision 19).
    """
    labels = resource.labels.update(_forced(resource, zone))
    if isinstance(resource, ZoneEgress) and zone:
        return replace(resource, labels=labels, zone=zone)
    return replace(resource, labels=labels)


def forced_labels(resource: Resource) -> frozenset[str]:
    """Which labels of a resource, as it stands in a log, are computed and not its author's."""
    is_zones = resource.labels.get(ORIGIN_LABEL) == "zone"
    return frozenset(_forced(resource, resource.labels.get(ZONE_LABEL, "") if is_zones else ""))


def _forced(resource: Resource, zone: str) -> dict[str, str]:
    forced = {DISPLAY_NAME_LABEL: resource.name, ORIGIN_LABEL: "zone" if zone else "global"}
    if mesh := mesh_of(resource):
        forced[MESH_LABEL] = mesh
    if zone:
        forced |= {ZONE_LABEL: zone, ENV_LABEL: UNIVERSAL}
    if isinstance(resource, Policy):
        forced[ROLE_LABEL] = SYSTEM
    return forced


def label_faults(labels: Labels) -> tuple[tuple[str, str], ...]:
    """(path, reason) of every key or value that is not Kubernetes syntax, keys in sorted order."""
    faults: list[tuple[str, str]] = []
    for key, value in sorted(labels.items()):
        prefix, _, name = key.rpartition("/")
        if ("/" in key and not (_PREFIX.fullmatch(prefix) and len(prefix) <= 253)) or "/" in prefix:
            faults.append((f'labels["{key}"]', "prefix part must be a lowercase RFC 1123 subdomain"))
        elif not _NAME.fullmatch(name) or len(name) > 63:
            faults.append((f'labels["{key}"]', _NAME_TEXT))
        if value and (not _NAME.fullmatch(value) or len(value) > 63):
            hint = f": ranges are written {CIDRS_WRITTEN}" if _lists_addresses(key) else ""
            faults.append((f'labels["{key}"]', _VALUE_TEXT + hint))
    return tuple(faults)


def allowed_addresses(mesh: Mesh | None) -> tuple[str, ...]:
    """CIDRs that a mesh's labels allow, as text; empty without such labels. They are checked in `validate`."""
    return () if mesh is None else tuple(cidr for _, cidr in spelled_addresses(mesh.labels))


def spelled_addresses(labels: Labels) -> Iterator[tuple[str, str]]:
    """Every CIDR that labels allow, or what stands there instead, with the key of its label."""
    for key, value in sorted(labels.items()):
        if _lists_addresses(key):
            yield from ((key, _cidr(part)) for part in re.split(r"[-,\s]+", value) if part)


def _lists_addresses(key: str) -> bool:
    return key == ALLOW_ADDRESSES_LABEL or key.startswith(f"{ALLOW_ADDRESSES_LABEL}-")


def _cidr(part: str) -> str:
    address, slash, length = part.replace("_", "/").partition("/")
    if ".." in address or address.count(".") == IPV6_GROUPS - 1:
        address = address.replace(".", ":")
    return f"{address}{slash}{length}"


def is_direct(mesh: Mesh) -> bool:
    """Whether TLS to the outside is originated at the sidecar (decision 2)."""
    has_mtls = mesh.mtls is not None and bool(mesh.mtls.enabled_backend)
    return not has_mtls or mesh.labels.get(MES_ORIGINATION_LABEL) == SIDECAR_ORIGINATION
