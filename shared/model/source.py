"""Where bytes of TLS material come from."""

from __future__ import annotations

from shared.model.part import Part


class Sealed(Part, frozen=True, kw_only=True):
    """Encrypted bytes as they stand in the log: AES-256-GCM under the data key `kid` (decision 34).

    All values are base64. `digest` is a keyed fingerprint of the plaintext, so that equality can be seen
    without the key being guessable from it. `expires` is when the last of the certificates in it does, "" without any.
    """

    kid: str
    nonce: str
    ciphertext: str
    digest: str
    expires: str = ""


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
