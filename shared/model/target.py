"""targetRef: whom a policy selects (`spec/4-gateway-and-policies.md` B0)."""

from __future__ import annotations

from typing import Literal, TypeAlias

from shared.model.part import NO_LABELS, Labels, Part

ProxyType: TypeAlias = Literal["Sidecar", "Gateway"]
IntOrString: TypeAlias = int | str
"""A percentage or factor: a whole number, or a decimal number as text."""


class TargetRef(Part, frozen=True, kw_only=True):
    """Selects proxies (top level) or destinations (`to`): `kind` says which of the other fields apply."""

    kind: str
    name: str | None = None
    namespace: str | None = None
    labels: Labels = NO_LABELS
    section_name: str | None = None
    tags: Labels = NO_LABELS
    mesh: str | None = None
    proxy_types: tuple[ProxyType, ...] = ()
