"""Resources and events as the API shows them: Kuma's metadata beside the fields, and no secret in any form."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.events.event import GLOBAL
from shared.events.sealing import redacted
from shared.events.state import Stored
from shared.model import codec
from shared.model.resource import MeshExternalService, mesh_of

_SEALED = frozenset({"kid", "nonce", "ciphertext", "digest"})


def resource_body(stored: Stored) -> dict[str, Any]:
    """One resource: `type, mesh, name, creationTime, modificationTime, labels`, its fields, and `version`."""
    fields: dict[str, Any] = codec.to_plain(redacted(stored.resource))
    body: dict[str, Any] = {"type": fields.pop("type")}
    fields.pop("mesh", None)
    if mesh := mesh_of(stored.resource):
        body["mesh"] = mesh
    body["name"] = fields.pop("name")
    body["creationTime"] = stored.created.time
    body["modificationTime"] = stored.last.time
    body["labels"] = fields.pop("labels", {})
    body["version"] = stored.last.n
    if isinstance(stored.resource, MeshExternalService):
        _with_defaults(fields["spec"])
    return body | fields


def _with_defaults(spec: dict[str, Any]) -> None:
    """Defaults that Kuma always shows once their parent is there (`spec/1-resources.md` 1.2)."""
    spec["match"] = {"type": "HostnameGenerator", "protocol": "tcp"} | spec["match"]
    tls = spec.get("tls")
    if tls is None:
        return
    tls |= {"enabled": tls.get("enabled", False), "allowRenegotiation": tls.get("allowRenegotiation", False)}
    if (verification := tls.get("verification")) is not None:
        verification.setdefault("mode", "Secured")
        for name in verification.get("subjectAltNames", ()):
            name.setdefault("type", "Exact")


def etag(stored: Stored) -> str:
    """The version as an entity tag: what `If-Match` takes."""
    return f'"{stored.last.n}"'


def origin(stored: Stored) -> str:
    """Where a resource was written: "global" or a zone."""
    return stored.key.zone or GLOBAL


def event_body(event: bytes) -> bytes:
    """An event (JSON) without ciphertexts and wrapped keys; the header and its hashes stay."""
    if b'"ciphertext"' not in event and b'"wrapped"' not in event:
        return event
    return msgspec.json.encode(_without_ciphertext(msgspec.json.decode(event)))


def _without_ciphertext(value: Any) -> Any:
    match value:
        case dict() if value.keys() >= _SEALED:
            return {"kid": value["kid"], "redacted": True}
        case dict():
            return {key: "redacted" if key == "wrapped" else _without_ciphertext(item) for key, item in value.items()}
        case list():
            return [_without_ciphertext(item) for item in value]
        case _:
            return value
