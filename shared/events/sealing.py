"""Sealing what must not stand in clear: before a command is decided on, its secrets become ciphertext.

Pure but for the sealer handed in. `Secret.data`, an inline `clientKey` and a MeshGateway's inline certificates, which
hold their keys, are sealed; other certificates are public.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from shared.events.event import DataKeyWrapped
from shared.events.state import LogState
from shared.model.external_service import ExternalService, LegacyTls
from shared.model.gateway import MeshGateway
from shared.model.material import base64_fault, inline_bytes, last_expiry, pem_warning
from shared.model.resource import DataSource, MeshExternalService, Resource, ResourceKey, Sealed, Secret, Verification

Outside: TypeAlias = MeshExternalService | ExternalService
USES_TOLD = 5
Seal: TypeAlias = Callable[[bytes], tuple[Sealed, tuple[DataKeyWrapped, ...]]]
"""Encrypts under a fresh data key and wraps that for its readers (`shared.keys.seal.Sealer.seal`)."""


class Admitted(msgspec.Struct, frozen=True):
    """Resources fit for `decide_write`, the data keys made for them, and warnings about inline material."""

    resources: tuple[Resource, ...]
    wraps: tuple[DataKeyWrapped, ...] = ()
    warnings: tuple[str, ...] = ()


def seal_all(resources: Sequence[Resource], seal: Seal) -> Admitted:
    """Seal what holds a private key or may; what is not base64 stays as it is, to be refused later."""
    out: list[Resource] = []
    wraps: list[DataKeyWrapped] = []
    warnings: list[str] = []
    for resource in resources:
        match resource:
            case Secret(data=str() as data) if base64_fault(data) is None:
                plain = b64decode("".join(data.split()))
                sealed, made = seal(plain)
                out.append(replace(resource, data=None, sealed=_described(sealed, plain)))
                wraps.extend(made)
            case MeshExternalService() | ExternalService():
                warnings.extend(_material_warnings(resource))
                service, made = _seal_client_key(resource, seal)
                out.append(service)
                wraps.extend(made)
            case MeshGateway():
                gateway, made = _seal_certificates(resource, seal)
                out.append(gateway)
                wraps.extend(made)
            case _:
                out.append(resource)
    return Admitted(tuple(out), tuple(wraps), tuple(warnings))


def is_sealed(resource: Resource) -> bool:
    """Whether nothing of the resource would stand in clear in the log."""
    match resource:
        case Secret():
            return resource.data is None and resource.sealed is not None
        case MeshExternalService() | ExternalService():
            key = _client_key(resource)
            return key is None or (key.inline is None and key.inline_string is None)
        case MeshGateway():
            return all(one.inline is None and one.inline_string is None for one in certificates_of(resource))
        case _:
            return True


def keep_sealed(after: Resource, before: Resource) -> Resource:
    """`after` with the ciphertext of `before` where both hold the same plaintext.

    Sealing is randomised; only the digest tells that nothing changed. Keeping the old ciphertext makes a
    re-applied secret an unchanged one and leaves no orphaned data keys.
    """
    match after, before:
        case Secret(sealed=Sealed() as new), Secret(sealed=Sealed() as old) if new.digest == old.digest:
            return replace(after, sealed=old)
        case (MeshExternalService() as new, MeshExternalService() as old) | (
            ExternalService() as new,
            ExternalService() as old,
        ):
            old_key = _client_key(old)
            same = old_key is not None and _digest(_client_key(new)) == _digest(old_key) != ""
            return _with_client_key(new, old_key) if same and old_key is not None else after
        case MeshGateway() as new, MeshGateway() as old:
            known = {digest: one for one in certificates_of(old) if (digest := _digest(one))}
            return with_certificates(new, lambda one: known.get(_digest(one), one))
        case _:
            return after


def key_ids(resource: Resource) -> tuple[str, ...]:
    """Data keys that the resource's ciphertexts need."""
    match resource:
        case Secret(sealed=Sealed() as sealed):
            return (sealed.kid,)
        case MeshExternalService() | ExternalService():
            key = _client_key(resource)
            return (key.sealed.kid,) if key and key.sealed else ()
        case MeshGateway():
            return tuple(one.sealed.kid for one in certificates_of(resource) if one.sealed is not None)
        case _:
            return ()


def redacted(resource: Resource) -> Resource:
    """The resource as it may be shown: no data, no ciphertext. A secret shows that it has something."""
    match resource:
        case Secret():
            return replace(resource, data=None, sealed=None)
        case MeshExternalService() | ExternalService() if _client_key(resource) is not None and not _names_secret(
            resource
        ):
            return _with_client_key(resource, DataSource())
        case MeshGateway():
            return with_certificates(resource, lambda one: one if one.secret is not None else DataSource())
        case _:
            return resource


def sources_of(service: Outside) -> tuple[DataSource, ...]:
    """The data sources that a service declares."""
    material = _material(service)
    given = (material.ca_cert, material.client_cert, material.client_key) if material is not None else ()
    return tuple(source for source in given if source is not None)


def missing_secrets(service: Outside, find: Callable[[ResourceKey], Resource | None]) -> Iterator[str]:
    """A warning for each Secret that a service names and that is not there yet. find: what global's log holds."""
    for source in sources_of(service):
        if source.secret is not None and find(ResourceKey("Secret", service.mesh, source.secret)) is None:
            yield (
                f'{type(service).__name__} {service.name}: Secret "{source.secret}" does not exist in mesh '
                f"{service.mesh} yet; until it does its destination answers 503"
            )


def secret_uses(key: ResourceKey, logs: Iterable[LogState], after: Callable[[ResourceKey], Resource | None]) -> str:
    """A warning for who deletes a Secret that services of these logs name; "" where none does.

    after: what stands at a key once all is written.
    """
    kinds = ("MeshExternalService", "ExternalService")
    keys = {one for log in logs for kind in kinds for one in log.kinds.get(kind, ()) if one.mesh == key.mesh}
    used = [
        f"{one.kind} {one.name}"
        for one in sorted(keys)
        if isinstance(service := after(one), MeshExternalService | ExternalService)
        and any(source.secret == key.name for source in sources_of(service))
    ]
    more = f" and {len(used) - USES_TOLD} more" if len(used) > USES_TOLD else ""
    said = f'Secret "{key.name}" of mesh {key.mesh} is used by {", ".join(used[:USES_TOLD])}{more}'
    return f"{said}: until it is there again they answer 503" if used else ""


def certificates_of(gateway: MeshGateway) -> tuple[DataSource, ...]:
    """The certificates of all listeners."""
    listeners = gateway.conf.listeners if gateway.conf is not None else ()
    return tuple(one for each in listeners if each.tls is not None for one in each.tls.certificates)


def with_certificates(gateway: MeshGateway, change: Callable[[DataSource], DataSource]) -> MeshGateway:
    """The MeshGateway with every certificate of its listeners as `change` makes it."""
    if gateway.conf is None:
        return gateway
    listeners = tuple(
        one
        if one.tls is None
        else replace(one, tls=replace(one.tls, certificates=tuple(change(each) for each in one.tls.certificates)))
        for one in gateway.conf.listeners
    )
    return replace(gateway, conf=replace(gateway.conf, listeners=listeners))


def _digest(source: DataSource | None) -> str:
    return source.sealed.digest if source is not None and source.sealed is not None else ""


def _names_secret(service: Outside) -> bool:
    key = _client_key(service)
    return key is not None and key.secret is not None


def _material(service: Outside) -> Verification | LegacyTls | None:
    if isinstance(service, ExternalService):
        return service.networking.tls
    return service.spec.tls.verification if service.spec.tls else None


def _client_key(service: Outside) -> DataSource | None:
    material = _material(service)
    return material.client_key if material is not None else None


def _with_client_key(service: Outside, key: DataSource) -> Outside:
    if isinstance(service, ExternalService):
        legacy = service.networking.tls
        if legacy is None:
            return service
        return replace(service, networking=replace(service.networking, tls=replace(legacy, client_key=key)))
    tls = service.spec.tls
    if tls is None:
        return service
    verification = replace(tls.verification, client_key=key)
    return replace(service, spec=replace(service.spec, tls=replace(tls, verification=verification)))


def _seal_client_key(service: Outside, seal: Seal) -> tuple[Outside, tuple[DataKeyWrapped, ...]]:
    key = _client_key(service)
    if key is None or key.secret is not None or (key.inline is None) == (key.inline_string is None):
        return service, ()
    if key.inline is not None and base64_fault(key.inline):
        return service, ()
    data = inline_bytes(key)
    if not data:
        return service, ()
    sealed, wraps = seal(data)
    return _with_client_key(service, DataSource(sealed=sealed)), wraps


def _seal_certificates(gateway: MeshGateway, seal: Seal) -> tuple[MeshGateway, tuple[DataKeyWrapped, ...]]:
    wraps: list[DataKeyWrapped] = []

    def sealed(one: DataSource) -> DataSource:
        if one.secret is not None or (one.inline is None) == (one.inline_string is None):
            return one
        data = None if one.inline is not None and base64_fault(one.inline) else inline_bytes(one)
        if not data:
            return one
        made, further = seal(data)
        wraps.extend(further)
        return DataSource(sealed=_described(made, data))

    return with_certificates(gateway, sealed), tuple(wraps)


def _described(sealed: Sealed, plain: bytes) -> Sealed:
    """With what is public of it: nobody who has no key will be able to tell later."""
    from shared.model.pem import server_certificate  # noqa: PLC0415 - clients of this module need no X.509

    return replace(sealed, expires=last_expiry(plain), server=server_certificate(plain))


def _material_warnings(service: Outside) -> list[str]:
    verification = _material(service)
    if verification is None:
        return []
    found: list[str] = []
    for name, source in (
        ("caCert", verification.ca_cert),
        ("clientCert", verification.client_cert),
        ("clientKey", verification.client_key),
    ):
        if source is None or (source.inline is not None and base64_fault(source.inline)):
            continue
        if warning := pem_warning(name, source):
            found.append(f"{type(service).__name__} {service.name}: {warning}")
    return found
