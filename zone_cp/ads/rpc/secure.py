"""Secure: TLS around a connection's bytes, without the buffer of 256 KiB that asyncio's own keeps for each."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

READ_BYTES = 256 * 1024
_PIECE_BYTES = 4 * 1024
"""What goes through OpenSSL's memory at a time: it keeps that much for every connection, for ever."""
_ALPN = "h2"


class NotAgreed(Exception):
    """The client speaks TLS, and not HTTP/2 over it."""


def server_context(certificate: bytes, key: bytes) -> ssl.SSLContext:
    """A server's side, TLS 1.2 and later, with this chain and private key in PEM. Raises ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([_ALPN])
    with _readable(certificate + b"\n" + key) as path:
        context.load_cert_chain(path)
    return context


@contextmanager
def _readable(data: bytes) -> Iterator[str]:
    """A path from which these bytes can be read, in memory where the system can do that: OpenSSL takes keys from files
    only. Nobody else can read it, and it is gone afterwards.
    """
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile() as file:  # made for its owner alone
            file.write(data)
            file.flush()
            yield file.name
        return
    descriptor = os.memfd_create("zonal", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


class Secure:
    """One connection's TLS. Bytes of the socket in, those of the client out, and the other way round; no IO."""

    __slots__ = ("_fed", "_incoming", "_object", "_outgoing", "is_agreed")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._fed = b""
        self.is_agreed = False

    def feed(self, data: bytes | memoryview) -> None:
        """Take what the socket has."""
        self._fed += data

    def opened(self) -> bytes | None:
        """What the client said, None when it has closed. There may be something to send, see `pending`.

        Raises NotAgreed, ssl.SSLError.
        """
        fed, self._fed = memoryview(self._fed), b""
        found: list[bytes] = []
        for start in range(0, len(fed), _PIECE_BYTES):
            self._incoming.write(fed[start : start + _PIECE_BYTES])
            if (self.is_agreed or self._agree()) and not self._read(found):
                return b"".join(found) or None
        return b"".join(found)

    def _agree(self) -> bool:
        """Go on with the handshake; whether it is over. Raises NotAgreed, ssl.SSLError."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        if self._object.selected_alpn_protocol() != _ALPN:  # RFC 9113, section 3.2
            raise NotAgreed
        self.is_agreed = True
        return True

    def _read(self, found: list[bytes]) -> bool:
        """Take what can be read by now; whether there may be more to come. Raises ssl.SSLError."""
        try:
            while self._incoming.pending or self._object.pending():
                part = self._object.read(READ_BYTES)
                if not part:
                    return False
                found.append(part)
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return False
        return True

    def sealed(self, data: bytes) -> bytes:
        """What to send so that the client reads this."""
        if len(data) <= _PIECE_BYTES:
            self._object.write(data)
            return self._outgoing.read()
        left, found = memoryview(data), list[bytes]()
        while left:
            left = left[self._object.write(left[:_PIECE_BYTES]) :]
            found.append(self._outgoing.read())
        return b"".join(found)

    def pending(self) -> bytes:
        """What TLS itself has to say."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def end(self) -> bytes:
        """What to send so that the client knows that nothing was cut off."""
        with suppress(ssl.SSLError):  # what it has to say to that is not waited for
            self._object.unwrap()
        return self._outgoing.read()
