"""History without secrets: what may leave the machine, and what may be shown. Pure.

The log holds secrets as ciphertext only; here even that goes, and the wrapped data keys with it. What stays of a
sealed value is the id of its data key and its digest, a keyed fingerprint: two versions can be told apart and a replay
names the same fingerprints, but nothing can be guessed from it without the key. An event so redacted has the header
that it had, so its hash is the same and the chain still verifies (decision 31).
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec

REDACTED = "redacted"
_SEALED = frozenset({"kid", "nonce", "ciphertext", "digest"})
"""The fields that every sealed value has; when its certificates expire may stand beside them, and is public."""
_HINTS = (b'"ciphertext"', b'"wrapped"')
_FINGERPRINT_CHARACTERS = 12


def redacted_line(line: bytes) -> bytes:
    """An encoded event without ciphertexts and wrapped keys, of the form it had; most events come back as they are."""
    if not any(hint in line for hint in _HINTS):
        return line
    event = msgspec.json.decode(line)
    return msgspec.json.encode(_each_sealed(event, lambda sealed: sealed | {"nonce": "", "ciphertext": REDACTED}))


def is_redacted(line: bytes) -> bool:
    """Whether something was left out of an encoded event, so that its payload is not the one that was hashed."""
    return b'"ciphertext":"%s"' % REDACTED.encode() in line or b'"wrapped":"%s"' % REDACTED.encode() in line


def shown(value: Any) -> Any:
    """Plain data for people: a sealed value is told by its data key's id and a short fingerprint."""
    return _each_sealed(value, _told)


def _told(sealed: dict[str, Any]) -> dict[str, Any]:
    told = {"kid": sealed["kid"], "fingerprint": fingerprint(str(sealed["digest"]))}
    return told | {"expires": sealed["expires"]} if "expires" in sealed else told


def _each_sealed(value: Any, told: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    match value:
        case dict() if value.keys() >= _SEALED:
            return told(value)
        case dict():
            return {key: REDACTED if key == "wrapped" else _each_sealed(item, told) for key, item in value.items()}
        case list():
            return [_each_sealed(item, told) for item in value]
        case _:
            return value


def fingerprint(digest: str) -> str:
    """A short name for what has this digest."""
    return sha256(digest.encode()).hexdigest()[:_FINGERPRINT_CHARACTERS]
