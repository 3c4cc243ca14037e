"""Labels the control plane computes and forces (decision 18), and labels of ours that carry settings."""

from __future__ import annotations

import re
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
"""On a Mesh: CIDRs that endpoints may use although decision 13 refuses them. Label values hold neither `/` nor
`,`, so `_` may stand for the slash and `-` separates: `127.0.0.0_24-10.0.0.0_8`."""
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
            faults.append((f'labels["{key}"]', _VALUE_TEXT))
    return tuple(faults)


def allowed_addresses(mesh: Mesh | None) -> tuple[str, ...]:
    """CIDRs that a mesh's label allows, as text; empty without the label. They are checked in `validate`."""
    text = mesh.labels.get(ALLOW_ADDRESSES_LABEL, "") if mesh else ""
    return tuple(part.replace("_", "/") for part in re.split(r"[-,\s]+", text) if part)


def is_direct(mesh: Mesh) -> bool:
    """Whether TLS to the outside is originated at the sidecar (decision 2)."""
    has_mtls = mesh.mtls is not None and bool(mesh.mtls.enabled_backend)
    return not has_mtls or mesh.labels.get(MES_ORIGINATION_LABEL) == SIDECAR_ORIGINATION
