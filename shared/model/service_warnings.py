"""What an author of a MeshExternalService should know of its TLS, beyond what is refused."""

from __future__ import annotations

from collections.abc import Iterator

from shared.model.addresses import DNS_NAME_MAX
from shared.model.resource import MeshExternalService


def service_warnings(service: MeshExternalService) -> Iterator[str]:
    """Sentences about what is not verified, and about names that no certificate can hold."""
    tls = service.spec.tls
    if tls is None or not tls.enabled:
        return
    about = f"MeshExternalService {service.name}"
    if tls.verification.mode == "SkipCA":
        yield (
            f"{about}: mode SkipCA verifies nothing: Envoy cannot check a SAN without a CA, so the SAN is not checked "
            "either"
        )
    for index, name in enumerate(tls.verification.subject_alt_names):
        if reason := _unmatched(name.value):
            yield f"{about}: spec.tls.verification.subjectAltNames[{index}].value matches no certificate: {reason}"


def _unmatched(value: str) -> str:
    if "://" in value:
        return ""
    if not value.isascii():
        return "names in certificates are ASCII, others are written as xn--…"
    if len(value.removesuffix(".")) > DNS_NAME_MAX:
        return f"no name has more than {DNS_NAME_MAX} characters"
    return "there is no space in a name" if any(one.isspace() for one in value) else ""
