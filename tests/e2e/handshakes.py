"""Servers that each have one fault, for TLS checks: certificates made at run time, one thread per server."""

from __future__ import annotations

import contextlib
import socketserver
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.xds.servers import limit

DAY = timedelta(days=1)
PEM = serialization.Encoding.PEM


class Issuer:
    """A certificate authority, which may be another one's child."""

    def __init__(self, name: str, parent: Issuer | None = None, *, lifetime: timedelta = 30 * DAY) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = parent or self
        builder = self._builder(self.name, signer.name, self.key, datetime.now(UTC) + lifetime)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.pem = builder.sign(signer.key, hashes.SHA256()).public_bytes(PEM).decode()

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - 60 * DAY)
            .not_valid_after(until)
        )

    def issue(
        self,
        common_name: str,
        *names: x509.GeneralName,
        until: datetime | None = None,
        use: x509.ObjectIdentifier | None = None,
    ) -> tuple[str, str]:
        """Certificate and key, PEM; `until` in the past makes an expired one. use: its only extended key usage."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = self._builder(subject, self.name, key, until or datetime.now(UTC) + 20 * DAY)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if use is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(PEM).decode(), private.decode()


class _Answer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        received: Any = self.request
        with contextlib.suppress(OSError):
            data = received.recv(4096)
            self.server.received.append(data)  # type: ignore[attr-defined]
            if data.startswith(b"GET "):
                received.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")


class _Silent(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while self.request.recv(4096):
                pass


class _Slams(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.request.recv(1)  # what is left unread makes it a reset


class Servers:
    """TLS servers on free ports; `received` is every byte of application data that a TLS server got."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._servers: list[socketserver.ThreadingTCPServer] = []
        self.received: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def mute(self, *, slams: bool = False) -> int:
        """The port of a server that reads on and says nothing, or resets what comes."""
        return self._start(socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Slams if slams else _Silent))

    def serve(
        self,
        pair: tuple[str, str] | None,
        *,
        clients: str | None = None,
        lowest: ssl.TLSVersion | None = None,
        highest: ssl.TLSVersion | None = None,
        chain: str = "",
        ciphers: str = "ALL",
        protocols: tuple[str, ...] = (),
    ) -> int:
        """The port of a server with this certificate; without one it speaks plaintext."""
        context = None
        if pair is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            if protocols:
                context.set_alpn_protocols(list(protocols))
            file = self._directory / f"server-{len(self._servers)}.pem"
            file.touch(mode=0o600)
            file.write_text(pair[0] + chain + pair[1])
            context.load_cert_chain(file)
            limit(context, lowest or ssl.TLSVersion.TLSv1_2, highest or ssl.TLSVersion.TLSv1_3)
            context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
            if clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(cadata=clients)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            received = self.received if context is not None else []

            def finish_request(self, request: Any, client_address: Any) -> None:
                if context is not None:
                    request = context.wrap_socket(request, server_side=True)
                super().finish_request(request, client_address)

            def handle_error(self, request: Any, client_address: Any) -> None:
                return

        return self._start(Server(("127.0.0.1", 0), _Answer))

    def _start(self, server: socketserver.ThreadingTCPServer) -> int:
        server.daemon_threads = True
        self._servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        port: int = server.server_address[1]
        return port
