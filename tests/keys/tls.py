"""A TLS handshake in memory: two real OpenSSL endpoints, no sockets."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

ROUNDS = 10


def context(
    folder: Path, *, server: bool, trusted: str, chain: str = "", key: str = "", hostname: bool = False
) -> ssl.SSLContext:
    """One side: what it trusts and what it shows. Verifies the peer always; its name only when `hostname`."""
    side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    side.check_hostname = hostname
    side.verify_mode = ssl.CERT_REQUIRED
    side.verify_flags |= ssl.VERIFY_X509_STRICT
    side.load_verify_locations(cadata=trusted)
    if chain:
        pem = folder / f"{'server' if server else 'client'}.pem"
        pem.touch(mode=0o600)
        pem.write_text(chain + key)
        side.load_cert_chain(pem)
    return side


def handshake(
    client: ssl.SSLContext, server: ssl.SSLContext, name: str | None = None
) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """(certificate the client saw, certificate the server saw). Raises ssl.SSLError when either side refuses."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(down, up, server_side=False, server_hostname=name),
        server.wrap_bio(up, down, server_side=True),
    )
    done = [False, False]
    for _ in range(ROUNDS):
        for index, end in enumerate(ends):
            if not done[index]:
                try:
                    end.do_handshake()
                    done[index] = True
                except ssl.SSLWantReadError:
                    continue
        if all(done):
            break
    assert all(done), "the handshake did not come to an end"
    return ends[0].getpeercert() or {}, ends[1].getpeercert() or {}
