"""`zonal generate tls-certificate`, as the gateway page uses kumactl's."""

from __future__ import annotations

import stat
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shared.model import manifest
from shared.model.pem import server_certificate
from shared.model.resource import Secret
from shared.model.validate import validate
from tests.commands.conftest import Zonal

PAGE = ("generate", "tls-certificate", "--type=server", "--hostname=foo.example.com", "--key-file=-", "--cert-file=-")
UNIVERSAL = "type: Secret\nmesh: default\nname: foo-example-com-certificate\ndata: {}\n"
KUBERNETES = """apiVersion: v1
kind: Secret
metadata:
  name: foo-example-com-certificate
  namespace: kong-mesh-system
  labels:
    kuma.io/mesh: default
data:
  value: '{}'
type: system.kuma.io/secret
"""


def printed(zonal: Zonal, *more: str) -> str:
    made = zonal(*PAGE, *more)
    assert (made.code, made.err) == (0, "")
    return made.out


@pytest.mark.parametrize("form", [UNIVERSAL, KUBERNETES], ids=["universal", "kubernetes"])
def test_what_the_page_pipes_into_a_secret_is_a_servers_pair(zonal: Zonal, form: str) -> None:
    text = printed(zonal)
    assert text.index("PRIVATE KEY") < text.index("CERTIFICATE")
    parsed = manifest.parse(form.format(b64encode(text.encode()).decode()))
    assert parsed.faults == ()
    secret = parsed.documents[0].resource
    assert isinstance(secret, Secret)
    assert (secret.name, secret.mesh) == ("foo-example-com-certificate", "default")
    assert validate(secret) == ()
    found = server_certificate(b64decode(secret.data or ""))
    assert found is not None
    assert (found.key_type, found.fault, found.names, found.unlinked) == ("RSA", "", ("foo.example.com",), 0)


def test_it_is_good_for_every_hostname_and_has_the_key_that_was_asked_for(zonal: Zonal) -> None:
    text = printed(zonal, "--hostname=*.bar.com", "--hostname=10.0.0.1", "--key-type=ecdsa")
    made = x509.load_pem_x509_certificate(text[text.index("-----BEGIN CERTIFICATE") :].encode())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["foo.example.com", "*.bar.com"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    assert isinstance(made.public_key(), ec.EllipticCurvePublicKey)


def test_files_are_written_and_the_key_is_its_owners(zonal: Zonal, tmp_path: Path) -> None:
    key, certificate = tmp_path / "k.pem", tmp_path / "c.pem"
    assert zonal(*PAGE[:4], f"--key-file={key}", f"--cert-file={certificate}").code == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert isinstance(x509.load_pem_x509_certificate(certificate.read_bytes()).public_key(), rsa.RSAPublicKey)
    found = server_certificate(certificate.read_bytes() + key.read_bytes())
    assert found is not None
    assert found.fault == ""


@pytest.mark.parametrize("hostname", ["", "two words", "ä.example.com"])
def test_what_is_no_hostname_is_refused(zonal: Zonal, hostname: str) -> None:
    refused = zonal(*PAGE[:3], f"--hostname={hostname}")
    assert refused.code == 2
    assert f'--hostname: "{hostname}" is no hostname' in refused.err
