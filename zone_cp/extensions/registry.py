"""The extensions that are installed, and the one way to use them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from immutables import Map

from zone_cp.extensions import static_response
from zone_cp.extensions.extension import Extension, Generated
from zone_cp.view.zone_view import ExternalServiceView, Failure

EXTENSIONS: Mapping[str, Extension] = MappingProxyType({one.type: one for one in (static_response.EXTENSION,)})


def generated(
    service: ExternalServiceView, installed: Mapping[str, Extension] = EXTENSIONS
) -> Generated | Failure | None:
    """What a service's extension makes of it, or why it does not; None for a service without one."""
    wanted = service.extension
    if wanted is None:
        return None
    found = installed.get(wanted.type)
    if found is None:
        known = ", ".join(sorted(installed)) or "none"
        said = f"no extension of type {wanted.type} is installed; there is {known}"
        return Failure("UnknownExtension", said, "spec.extension.type")
    config = wanted.config if wanted.config is not None else Map()
    return found.validate(service, config) or found.generate(service, config)
