"""Self-signed server certificates in one PEM with their key, and clients that can check only some of them."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from shared.demo.looking import eventually

KeyType: TypeAlias = Literal["RSA", "ECDSA"]
_SIGNED = {"RSA": "RSA+SHA256:RSA-PSS+SHA256", "ECDSA": "ECDSA+SHA256"}
SECONDS, SHOWN_SECONDS = 20, 30


class Certificate(msgspec.Struct, frozen=True):
    """Key first, as `zonal generate tls-certificate` writes them; serial as OpenSSL prints it."""

    pem: str
    serial: str


def certificate(hostname: str, key_type: KeyType = "ECDSA", *, key_last: bool = False) -> Certificate:
    """A certificate for one name, valid for a day."""
    key = rsa.generate_private_key(65537, 2048) if key_type == "RSA" else ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(hostname)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    public = made.public_bytes(Encoding.PEM).decode()
    return Certificate(public + private if key_last else private + public, f"{made.serial_number:X}".zfill(2))


class Handshake(msgspec.Struct, frozen=True):
    """What a client saw: the serial number of the certificate ("" for no handshake), the ALPN, the TLS version."""

    serial: str = ""
    protocol: str = ""
    version: str = ""


async def shake(port: int, name: str, *options: str, only: KeyType | None = None, alpn: str = "") -> Handshake:
    """`openssl s_client` with this server name ("" for none); only: it can check such signatures alone."""
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}"]
    argv += ["-servername", name] if name else ["-noservername"]
    argv += ["-sigalgs", _SIGNED[only]] if only else []
    argv += ["-alpn", alpn] if alpn else []
    child = await asyncio.create_subprocess_exec(
        *argv,
        *options,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(SECONDS):
        out, _ = await child.communicate()
    text = out.decode(errors="replace")
    pem = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text, re.DOTALL)
    if pem is None:
        return Handshake()
    serial = f"{x509.load_pem_x509_certificate(pem[0].encode()).serial_number:X}".zfill(2)
    protocol = re.search(r"ALPN protocol: (\S+)", text)
    version = re.search(r"^New, (TLSv\S+),", text, re.MULTILINE)
    return Handshake(serial, protocol[1] if protocol else "", version[1] if version else "")


async def shown(port: int, name: str, serial: str, **options: Any) -> Handshake:
    """Wait until a client is shown this certificate ("" for none)."""
    expected = f"certificate {serial or 'none'} for {name or 'no name'} at {port}"
    return await eventually(
        lambda: shake(port, name, **options), lambda one: one.serial == serial, expected, SHOWN_SECONDS
    )
