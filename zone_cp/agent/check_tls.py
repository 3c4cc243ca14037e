"""`zonal check tls`, the part on the egress's host: real handshakes with an endpoint, and what they tell.

Dialled from where Envoy dials, with what Envoy was given. The first handshake verifies nothing, so that everything
can be shown; whether the chain holds is then decided by OpenSSL in a second one. No application data is ever sent.
A client key lives in memory alone (a memfd), and nothing of it is logged.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from shared.pb import agent_pb2 as pb
from zone_cp.agent import tls_steps as steps
from zone_cp.agent.tls_steps import Attempt, Presented

CONNECT_SECONDS, HANDSHAKE_SECONDS = 5.0, 5.0
SETTLE_SECONDS = 1.0
"""How long a TLS 1.3 server has to refuse a client certificate after the handshake; most say something at once."""
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME."""
_LEGACY_SERVER_CONNECT = 0x4
_CERTIFICATE_REQUEST, _NEW_SESSION_TICKET = 13, 4
_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_SHOWN = {"TLSv1": "TLS10", "TLSv1.1": "TLS11", "TLSv1.2": "TLS12", "TLSv1.3": "TLS13"}


def run(check: pb.CheckTls, now: datetime | None = None) -> pb.TlsChecked:
    """Every step that can be made, in order; blocks for at most about a minute. Never raises for what the peer does."""
    return pb.TlsChecked(id=check.id, steps=list(_steps(check, now or datetime.now(UTC))))


def _steps(check: pb.CheckTls, now: datetime) -> Iterator[pb.TlsStep]:
    resolved = _resolve(check)
    yield resolved
    if resolved.result == "failed":
        return
    reached = _reach(check)
    yield reached
    if reached.result == "failed":
        return
    if not check.tls:
        yield steps.step("handshake", "skipped", "TLS is off: what is sent is not encrypted", field="spec.tls.enabled")
        return
    client = _certificates(check.client_chain)
    yield steps.offered(check, client)
    first = _attempt(check, verify=False)
    spoken = _spoken(check) if first.error and not first.silent else ()
    yield steps.shaken(check, first, spoken)
    if list(check.alpn) == ["h2"] and not first.error:
        yield steps.protocol_agreed(check, first, first.alpn or _chosen(check))
    chain = steps.presented(first.chain)
    if chain:
        yield steps.shown(chain)
        yield from _verified(check, chain, now)
    yield steps.client_accepted(first, client)


def _verified(check: pb.CheckTls, chain: Sequence[Presented], now: datetime) -> Iterator[pb.TlsStep]:
    trusted: tuple[Presented, ...] = ()
    undated = full = None
    if check.mode in steps.VERIFIED_MODES:
        trusted = _certificates(check.ca or _read(check.ca_path))
        undated = _attempt(check, verify=True, dates=False)
        if not undated.verify_code:
            full = _attempt(check, verify=True)
    yield steps.dates(check, chain, full, trusted, now)
    yield steps.trust(check, chain, undated, trusted)
    yield steps.names(check, chain[0])


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes() if path else b""
    except OSError:
        return b""


def _certificates(pem: bytes) -> tuple[Presented, ...]:
    try:
        return tuple(Presented(one) for one in x509.load_pem_x509_certificates(pem)) if pem else ()
    except ValueError:
        return ()


# --- reaching the server ------------------------------------------------------------------------------------------


def _resolve(check: pb.CheckTls) -> pb.TlsStep:
    if check.address.startswith("unix://"):
        return steps.step("resolve", "ok", f"{check.address} is a socket of this host")
    try:
        found = socket.getaddrinfo(check.address, check.port, type=socket.SOCK_STREAM)
    except OSError as error:
        advice = "correct the name, or the resolver of the egress's host"
        said = f"{check.address} does not resolve: {error.strerror or error}"
        return steps.step("resolve", "failed", said, field="spec.endpoints", advice=advice)
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    return steps.step("resolve", "ok", f"{check.address} is {', '.join(addresses)}")


def _reach(check: pb.CheckTls) -> pb.TlsStep:
    where = check.address if check.address.startswith("unix://") else f"{check.address}:{check.port}"
    try:
        with _dial(check) as connection:
            peer = connection.getpeername()
    except TimeoutError:
        said = f"{where} did not answer within {CONNECT_SECONDS:g} s"
        return steps.step("connect", "failed", said, field="spec.endpoints", advice="look for a firewall on the way")
    except OSError as error:
        said = f"{where}: {error.strerror or error}"
        return steps.step("connect", "failed", said, field="spec.endpoints", advice="correct address or port")
    shown = "{}:{}".format(*peer[:2]) if isinstance(peer, tuple) else str(peer)
    return steps.step("connect", "ok", f"connected to {shown or where}")


def _dial(check: pb.CheckTls) -> socket.socket:
    if not check.address.startswith("unix://"):
        return socket.create_connection((check.address, check.port), timeout=CONNECT_SECONDS)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(CONNECT_SECONDS)
    try:
        connection.connect(check.address.removeprefix("unix://"))
    except OSError:
        connection.close()
        raise
    return connection


# --- handshakes ---------------------------------------------------------------------------------------------------


class _Heard:
    """What went by during a handshake that the ssl module has no word for."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.asked = self.ticket = False
        untyped: Any = context
        untyped._msg_callback = self._message  # noqa: SLF001 - the module's own debugging hook, read only

    def _message(self, _: object, direction: str, _version: object, content: int, kind: int, _data: bytes) -> None:
        if direction == "read" and int(content) == 22:  # handshake
            self.asked = self.asked or int(kind) == _CERTIFICATE_REQUEST
            self.ticket = self.ticket or int(kind) == _NEW_SESSION_TICKET


def _context(check: pb.CheckTls, *, verify: bool, dates: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # names are compared as Envoy does it, see tls_steps
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    context.options |= _LEGACY_SERVER_CONNECT  # as BoringSSL does
    # Security level 0: limits are what the resource says, not what OpenSSL's distributor says.
    context.set_ciphers(":".join([*check.ciphers, "@SECLEVEL=0"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TLS 1.0 and 1.1, which were asked for
        context.minimum_version = _VERSIONS[check.min_version]
        context.maximum_version = _VERSIONS[check.max_version]
    if check.alpn:
        context.set_alpn_protocols(list(check.alpn))
    if verify:
        flags = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags = ssl.VerifyFlags(flags | (0 if dates else _NO_CHECK_TIME))
        if check.ca:
            context.load_verify_locations(cadata=check.ca.decode())
        else:
            context.load_verify_locations(cafile=check.ca_path)
    if check.client_chain:
        with _in_memory(check.client_chain + b"\n" + check.client_key) as path:
            context.load_cert_chain(path)
    return context


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path to bytes that are on no disk: the ssl module loads keys from files only."""
    descriptor = os.memfd_create("client", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _attempt(check: pb.CheckTls, *, verify: bool, dates: bool = True) -> Attempt:
    try:
        context = _context(check, verify=verify, dates=dates)
    except (ssl.SSLError, OSError, ValueError) as error:
        return Attempt(error=f"settings: {_reason(error)}")
    heard = _Heard(context)
    try:
        with _dial(check) as raw:
            raw.settimeout(HANDSHAKE_SECONDS)
            name = check.sni or None
            connection = context.wrap_socket(raw, server_hostname=name, do_handshake_on_connect=False)
            with closing(connection):
                return _shake(connection, heard)
    except OSError as error:
        return Attempt(error=_reason(error))


def _shake(connection: ssl.SSLSocket, heard: _Heard) -> Attempt:
    error, code, message, silent = "", 0, "", False
    try:
        connection.do_handshake()
    except ssl.SSLCertVerificationError as fault:
        error, code, message = "CERTIFICATE_VERIFY_FAILED", fault.verify_code, fault.verify_message
    except OSError as fault:
        error, silent = _reason(fault), isinstance(fault, TimeoutError)
    cipher = connection.cipher()
    return Attempt(
        error=error,
        verify_code=code,
        verify_message=message,
        version=_SHOWN.get(connection.version() or "", "") if not error else "",
        cipher=cipher[0] if cipher else "",
        alpn=connection.selected_alpn_protocol() or "" if not error else "",
        silent=silent,
        asked=heard.asked,
        refused="" if error else _settle(connection, heard),
        chain=_chain(connection),
    )


def _settle(connection: ssl.SSLSocket, heard: _Heard) -> str:
    """What the server says against a client after the handshake, "" when it says nothing against it."""
    if connection.version() != "TLSv1.3":
        return ""
    connection.setblocking(False)
    deadline = time.monotonic() + SETTLE_SECONDS
    while (left := deadline - time.monotonic()) > 0 and not heard.ticket:
        try:
            if connection.recv(1):
                return ""
        except ssl.SSLWantReadError:
            select.select([connection], [], [], left)
        except OSError as error:
            return _reason(error)
        else:
            return "closed right after the handshake" if heard.asked else ""
    return ""


def _chain(connection: ssl.SSLSocket) -> tuple[bytes, ...]:
    inner: Any = connection._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 - public from Python 3.13 on
    try:
        found = inner.get_unverified_chain() or ()
        return tuple(one.public_bytes(2) for one in found)  # 2: DER
    except (AttributeError, ValueError, ssl.SSLError):
        return ()


def _spoken(check: pb.CheckTls) -> tuple[str, ...]:
    """The versions that the server speaks, each tried alone with every cipher there is."""
    found = []
    for version in steps.VERSIONS:
        one = pb.CheckTls()
        one.CopyFrom(check)
        one.min_version = one.max_version = version
        one.ciphers[:] = ["ALL"]
        del one.alpn[:]
        seen = _attempt(one, verify=False)
        if not seen.error or seen.asked:
            found.append(version)
    return tuple(found)


def _chosen(check: pb.CheckTls) -> str:
    """The protocol that the server takes when it may have HTTP/1.1 as well."""
    one = pb.CheckTls()
    one.CopyFrom(check)
    one.alpn[:] = ["h2", "http/1.1"]
    return _attempt(one, verify=False).alpn


def _reason(error: Exception) -> str:
    match error:
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return "closed"
        case ssl.SSLError() if error.reason:
            return error.reason
        case TimeoutError():
            return f"no answer within {HANDSHAKE_SECONDS:g} s"
        case ConnectionResetError():
            return "reset"
        case OSError():
            return error.strerror or str(error)
        case _:
            return str(error)
