"""What a handshake showed, judged: which check holds, which does not, and which field of the resource would mend it.

Pure: time is an argument. `check_tls.py` makes the handshakes. Fields are named as in the resource.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import cached_property
from ipaddress import ip_address
from typing import Literal, TypeAlias

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shared.pb import agent_pb2 as pb

VERIFICATION = "spec.tls.verification"
PROTOCOL = "spec.match.protocol"
CA_CERT, CLIENT_CERT = f"{VERIFICATION}.caCert", f"{VERIFICATION}.clientCert"
VERIFIED_MODES = frozenset({"Secured", "SkipSAN"})
VERSIONS = ("TLS10", "TLS11", "TLS12", "TLS13")
UNKNOWN_ISSUER_CODES = frozenset({2, 18, 19, 20, 21, 27})
"""X509_V_ERR_…: no known issuer, self-signed, no signature verified, untrusted. Another caCert would mend these."""
EXPIRED_CODES = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED."""
SHOWN_AUTHORITIES = 5

Result: TypeAlias = Literal["ok", "failed", "skipped", "told"]


class Attempt(msgspec.Struct, frozen=True):
    """One handshake. `error` is OpenSSL's reason, "" when it completed; verify_code is set when it was a verification.

    silent: the server said nothing in time. asked: it wanted a client certificate. refused: what it said after a
    completed handshake (TLS 1.3 tells a client only then that its certificate is not accepted).
    """

    error: str = ""
    verify_code: int = 0
    verify_message: str = ""
    version: str = ""
    cipher: str = ""
    alpn: str = ""
    silent: bool = False
    asked: bool = False
    refused: str = ""
    chain: tuple[bytes, ...] = ()


class Presented(msgspec.Struct, frozen=True, dict=True):
    """A certificate that the server presented, or one that is trusted."""

    certificate: x509.Certificate

    @cached_property
    def subject(self) -> str:
        """RFC 4514 name."""
        return self.certificate.subject.rfc4514_string() or "(empty)"

    @cached_property
    def issuer(self) -> str:
        """RFC 4514 name."""
        return self.certificate.issuer.rfc4514_string() or "(empty)"

    @cached_property
    def names(self) -> tuple[tuple[str, str], ...]:
        """Subject alternative names as (kind, value)."""
        try:
            found = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, ValueError):
            return ()
        kinds = {"DNSName": "DNS", "IPAddress": "IP", "UniformResourceIdentifier": "URI"}
        named = ((kinds.get(type(one).__name__, ""), str(one.value)) for one in found)
        return tuple(one for one in named if one[0])

    def outside(self, now: datetime) -> str:
        """Why it is not valid now ("expired on …", "not valid before …"), "" while it is."""
        certificate = self.certificate
        if now > certificate.not_valid_after_utc:
            return f"expired on {_time(certificate.not_valid_after_utc)}"
        if now < certificate.not_valid_before_utc:
            return f"not valid before {_time(certificate.not_valid_before_utc)}"
        return ""


def presented(chain: Iterable[bytes]) -> tuple[Presented, ...]:
    """Certificates from DER; what cannot be read is left out."""
    found = []
    for der in chain:
        try:
            found.append(Presented(x509.load_der_x509_certificate(der)))
        except ValueError:
            continue
    return tuple(found)


def step(
    name: str,
    result: Result,
    message: str,
    *,
    field: str = "",
    advice: str = "",
    facts: Iterable[tuple[str, str]] = (),
) -> pb.TlsStep:
    """One step of a report."""
    told = [pb.TlsFact(name=key, value=value) for key, value in facts]
    return pb.TlsStep(name=name, result=result, message=message, field=field, advice=advice, facts=told)


def offered(check: pb.CheckTls, client: Sequence[Presented]) -> pb.TlsStep:
    """What goes to the server first."""
    facts = [
        ("SNI", check.sni or "none"),
        ("versions", f"{check.min_version} to {check.max_version}"),
        ("ALPN", ", ".join(check.alpn) or "none"),
        ("client certificate", client[0].subject if client else "none"),
    ]
    if client:
        facts.append(("client certificate issuer", client[0].issuer))
    return step("offer", "told", f"mode {check.mode}", facts=facts)


def shown(chain: Sequence[Presented]) -> pb.TlsStep:
    """What the server presented."""
    facts: list[tuple[str, str]] = []
    for depth, one in enumerate(chain):
        certificate = one.certificate
        validity = f"{_time(certificate.not_valid_before_utc)} to {_time(certificate.not_valid_after_utc)}"
        facts += [(f"[{depth}] subject", one.subject), (f"[{depth}] issuer", one.issuer)]
        facts += [(f"[{depth}] valid", validity), (f"[{depth}] key", _key(certificate))]
        facts.append((f"[{depth}] SHA-256", certificate.fingerprint(hashes.SHA256()).hex()))
        if not depth:
            facts.append(("SAN", ", ".join(f"{kind}:{value}" for kind, value in one.names) or "none"))
    return step("presented", "told", f"{len(chain)} certificate{'s' if len(chain) != 1 else ''}", facts=facts)


# --- the handshake itself -----------------------------------------------------------------------------------------


def shaken(check: pb.CheckTls, attempt: Attempt, accepted: Sequence[str]) -> pb.TlsStep:
    """Whether both sides agreed on versions and ciphers. `accepted` are the versions the server speaks, if asked."""
    if not attempt.error or (attempt.verify_code and attempt.version):
        facts = [("version", attempt.version), ("cipher", attempt.cipher), ("ALPN", attempt.alpn or "none")]
        facts.append(("asks for a client certificate", "yes" if attempt.asked else "no"))
        return step("handshake", "ok", f"{attempt.version}, {attempt.cipher}", facts=facts)
    facts = [("server speaks", ", ".join(accepted) or "no version of TLS that was tried")]
    wanted = VERSIONS[VERSIONS.index(check.min_version) : VERSIONS.index(check.max_version) + 1]
    known = [one for one in accepted if one in VERSIONS]
    if not known and (attempt.error in _NOT_TLS or attempt.silent):
        return step(
            "handshake",
            "failed",
            f"the server does not speak TLS, or not to this client ({attempt.error})",
            field="spec.tls.enabled",
            advice="set it to false if the service is plaintext, or correct the port",
            facts=facts,
        )
    if known and not set(known) & set(wanted):
        limit = "min" if VERSIONS.index(known[-1]) < VERSIONS.index(check.min_version) else "max"
        said = f"the server speaks {', '.join(known)} and {', '.join(wanted)} was offered ({attempt.error})"
        advice = f"let version.{limit} reach {known[-1] if limit == 'min' else known[0]}"
        return step("handshake", "failed", said, field=f"spec.tls.version.{limit}", advice=advice, facts=facts)
    if attempt.asked and _about_client(attempt.error):
        return step("handshake", "told", f"ended by the server over the client certificate ({attempt.error})")
    if "UNRECOGNIZED_NAME" in attempt.error:
        said = f"the server knows no {check.sni or 'client without SNI'} ({attempt.error})"
        return step("handshake", "failed", said, field=f"{VERIFICATION}.serverName", facts=facts)
    if "NO_APPLICATION_PROTOCOL" in attempt.error.upper().replace(" ", "_"):
        said = f"the server speaks none of {', '.join(check.alpn)} ({attempt.error})"
        return step("handshake", "failed", said, field=PROTOCOL, facts=facts)
    if set(known) & set(wanted):
        said = f"the server accepts none of the ciphers that are offered ({attempt.error})"
        advice = "let version.min be TLS11: the older ciphers are then offered as well"
        older = check.min_version in ("TLS10", "TLS11")
        field = "" if older else "spec.tls.version.min"
        return step("handshake", "failed", said, field=field, advice="" if older else advice, facts=facts)
    return step("handshake", "failed", f"{attempt.error}", facts=facts)


def protocol_agreed(check: pb.CheckTls, attempt: Attempt, among: str) -> pb.TlsStep:
    """Whether the server speaks HTTP/2 where nothing else is spoken to it. among: what it took of several."""
    if attempt.alpn:
        return step("protocol", "ok", f"{attempt.alpn} was chosen by the server")
    if among:
        said = f"the server speaks {among}, and only {', '.join(check.alpn)} was offered"
        return step("protocol", "failed", said, field=PROTOCOL, advice="set it to http")
    return step(
        "protocol", "told", f"the server names no protocol; {', '.join(check.alpn)} is spoken to it all the same"
    )


def client_accepted(attempt: Attempt, client: Sequence[Presented]) -> pb.TlsStep:
    """Whether the server is content with the client certificate, or with none."""
    name = "client-certificate"
    said = attempt.refused or (attempt.error if attempt.asked and _about_client(attempt.error) else "")
    if said and not client:
        message = f"the server demands a client certificate and none is configured ({said})"
        return step(name, "failed", message, field=CLIENT_CERT, advice="set clientCert and clientKey")
    if said:
        message = f"the server refuses {client[0].subject}, issued by {client[0].issuer} ({said})"
        advice = "give a certificate of an authority that the server trusts for clients"
        return step(name, "failed", message, field=CLIENT_CERT, advice=advice)
    if attempt.error and not attempt.verify_code:
        return step(name, "skipped", "there was no handshake")
    if client:
        unasked = "" if attempt.asked else ", but the server did not ask for one"
        return step(name, "ok", f"{client[0].subject} was not refused{unasked}")
    return step(name, "ok", "none is demanded" if not attempt.asked else "one is asked for, and none is accepted too")


# --- verification -------------------------------------------------------------------------------------------------


def dates(check: pb.CheckTls, chain: Sequence[Presented], full: Attempt | None, trusted: Sequence[Presented],
          now: datetime) -> pb.TlsStep:  # fmt: skip
    """Whether the leaf, and whatever its chain needs, is valid now. `full` is a verified handshake, if one was made."""
    facts = [("now", _time(now))]
    if fault := chain[0].outside(now):
        said = f"the server's certificate {chain[0].subject} is {fault}".replace("is expired", "expired")
        return _judged(
            check, "dates", said, advice="no field mends this: the server needs a new certificate", facts=facts
        )
    if full is not None and full.verify_code in EXPIRED_CODES:
        old = [one for one in trusted if one.outside(now)]
        culprits = old or [one for one in chain[1:] if one.outside(now)]
        said = "; ".join(f"{one.subject} is {one.outside(now)}" for one in culprits) or full.verify_message
        return _judged(check, "dates", said, field=CA_CERT if old else "", facts=facts)
    return step("dates", "ok", f"valid until {_time(chain[0].certificate.not_valid_after_utc)}", facts=facts)


def trust(
    check: pb.CheckTls, chain: Sequence[Presented], attempt: Attempt | None, trusted: Sequence[Presented]
) -> pb.TlsStep:
    """Whether the chain leads to a trusted authority. `attempt` is a handshake verified but for dates."""
    if attempt is None:
        return step("chain", "skipped", f"mode {check.mode} verifies no chain")
    source = check.ca_path or "caCert"
    names = [one.subject for one in trusted[:SHOWN_AUTHORITIES]]
    more = f" and {len(trusted) - SHOWN_AUTHORITIES} more" if len(trusted) > SHOWN_AUTHORITIES else ""
    facts = [("trusted", f"{source}: {', '.join(names)}{more}")]
    if not attempt.verify_code:
        return step("chain", "ok", f"issued by {chain[0].issuer}", facts=facts)
    if attempt.verify_code not in UNKNOWN_ISSUER_CODES:
        said = f"{attempt.verify_message}: what is wrong is the chain of {chain[0].subject} itself"
        return step(
            "chain", "failed", said, advice="no field mends this: the server needs another certificate", facts=facts
        )
    last = chain[-1]
    said = f"{attempt.verify_message}: {chain[0].subject} is not vouched for by {source}"
    if last.subject == last.issuer:
        advice = f"if you trust it, put {last.subject} into caCert"
    else:
        advice = f"put the certificate of {last.issuer} into caCert, or let the server send the missing intermediate"
    return step("chain", "failed", said, field=CA_CERT, advice=advice, facts=facts)


def names(check: pb.CheckTls, leaf: Presented) -> pb.TlsStep:
    """Whether one of the leaf's subject alternative names is expected (decision 4)."""
    wanted = ", ".join(sorted({f"{'prefix ' if one.prefix else ''}{one.value}" for one in check.names}))
    had = ", ".join(f"{kind}:{value}" for kind, value in leaf.names) or "none"
    facts = [("expected", wanted or "any"), ("SAN", had)]
    if check.mode != "Secured":
        return step("names", "skipped", f"mode {check.mode} compares no names", facts=facts)
    hits = [value for kind, value in leaf.names for one in check.names if matches(one, kind, value)]
    if hits or not check.names:
        return step("names", "ok", f"{hits[0]} is expected" if hits else "nothing is expected", facts=facts)
    field = f"{VERIFICATION}.subjectAltNames" if check.names_listed else f"{VERIFICATION}.serverName"
    advice = f"expect one of {had}, if that is the right server" if leaf.names else "the certificate has no SAN at all"
    said = f"the certificate is for {had}, and {wanted} is expected"
    return step("names", "failed", said, field=field, advice=advice, facts=facts)


def matches(wanted: pb.NameMatch, kind: str, value: str) -> bool:
    """Whether Envoy's matcher would take this name: a certificate's wildcard covers one label."""
    if wanted.kind != kind:
        return False
    if wanted.prefix:
        return value.lower().startswith(wanted.value.lower()) if kind == "DNS" else value.startswith(wanted.value)
    if kind == "DNS":
        pattern, name = value.lower(), wanted.value.lower()
        if pattern.startswith("*."):
            head, _, rest = name.partition(".")
            return bool(head) and rest == pattern[2:]
        return pattern == name
    if kind == "IP":
        return _address(value) == _address(wanted.value)
    return value == wanted.value


def _address(text: str) -> str:
    try:
        return ip_address(text).compressed
    except ValueError:
        return text


_NOT_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "closed", "reset"}
)
_CLIENT_WORDS = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE", "ACCESS_DENIED", "DECRYPT", "closed", "reset")


def _about_client(error: str) -> bool:
    return any(word in error for word in _CLIENT_WORDS)


def _judged(check: pb.CheckTls, name: str, said: str, *, field: str = "", advice: str = "",
            facts: Iterable[tuple[str, str]] = ()) -> pb.TlsStep:  # fmt: skip
    """A check that does not hold: failed where the mode asks for it, else only told."""
    if check.mode in VERIFIED_MODES:
        return step(name, "failed", said, field=field, advice=advice, facts=facts)
    return step(name, "skipped", f"{said}; mode {check.mode} does not ask for it", facts=facts)


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _key(certificate: x509.Certificate) -> str:
    match certificate.public_key():
        case rsa.RSAPublicKey() as key:
            return f"RSA {key.key_size}"
        case ec.EllipticCurvePublicKey() as key:
            return f"ECDSA {key.curve.name}"
        case other:
            return type(other).__name__.removesuffix("PublicKey")


def failed(steps: Iterable[pb.TlsStep]) -> Iterator[pb.TlsStep]:
    """The steps that do not hold."""
    return (one for one in steps if one.result == "failed")
