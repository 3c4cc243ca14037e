"""Where bytes of TLS material come from."""

from __future__ import annotations

from typing import Literal

from shared.model.part import Part


class ServerCertificate(Part, frozen=True, kw_only=True):
    """What is public of a server's certificate and key that stand sealed, so that they can be judged without the key.

    fault: why they cannot be used, "" when they can; mismatched: the key is another certificate's. names: DNS names
    of the leaf, expires: when it does, as event time. unlinked: the first certificate of the chain, from 0, that did
    not issue the one before it; 0: none.
    """

    key_type: Literal["", "RSA", "ECDSA"] = ""
    fault: str = ""
    mismatched: bool = False
    names: tuple[str, ...] = ()
    expires: str = ""
    unlinked: int = 0


class Sealed(Part, frozen=True, kw_only=True):
    """Encrypted bytes as they stand in the log: AES-256-GCM under the data key `kid` (decision 34).

    All values are base64. `digest` is a keyed fingerprint of the plaintext, so that equality can be seen
    without the key being guessable from it. `expires` is when the last of the certificates in it does, "" without any.
    `server` is what can be said of it as a server's pair; None where it is no PEM, or was written before this was said.
    """

    kid: str
    nonce: str
    ciphertext: str
    digest: str
    expires: str = ""
    server: ServerCertificate | None = None


class DataSource(Part, frozen=True, kw_only=True):
    """Where bytes of TLS material come from: exactly one is set (decision 12).

    `secret` names a Secret of the same mesh. `inline` is base64, `inline_string` is text. Admission replaces
    an inline `clientKey` by `sealed` (never accepted from users), so that the log holds no private key in
    clear; the 3.0 shape is accepted by `manifest.py` and stored as this one.
    """

    secret: str | None = None
    inline: str | None = None
    inline_string: str | None = None
    sealed: Sealed | None = None
