"""The legacy ExternalService of seed 002: an address outside the mesh, known by the tag `kuma.io/service`.

All ExternalServices of a mesh with one `kuma.io/service` are one service: their endpoints merge.
"""

from __future__ import annotations

import msgspec

from shared.model.addresses import is_ip
from shared.model.inbound import PROTOCOL_TAG, SERVICE_TAG
from shared.model.part import NO_LABELS, Labels, Part
from shared.model.source import DataSource


class LegacyTls(Part, frozen=True, kw_only=True):
    """TLS origination. As the page says, `enabled` defaults to true once there is a `tls` section (decision 21)."""

    enabled: bool = True
    ca_cert: DataSource | None = None
    client_cert: DataSource | None = None
    client_key: DataSource | None = None
    server_name: str | None = None
    allow_renegotiation: bool = False
    skip_hostname_verification: bool = False


class LegacyNetworking(Part, frozen=True, kw_only=True):
    """`address` is `host:port`. `disable_host_dns_entry`: the host keeps resolving to what it resolves to outside."""

    address: str
    tls: LegacyTls | None = None
    disable_host_dns_entry: bool = msgspec.field(default=False, name="disableHostDNSEntry")


class ExternalService(Part, frozen=True, kw_only=True, tag_field="type", tag="ExternalService"):
    """One address of a service outside the mesh. Always of global origin."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    tags: Labels
    networking: LegacyNetworking

    @property
    def service(self) -> str:
        """What it is part of; "" only of one that is not valid."""
        return self.tags.get(SERVICE_TAG, "")

    @property
    def real_name(self) -> str:
        """The name outside that the mesh's DNS answers too, in lower case; "" of an address, where it is hidden, and of
        localhost, which is every host's own (RFC 6761 section 6.3).
        """
        host, _ = host_and_port(self.networking.address) or ("", 0)
        name = host.lower().rstrip(".")
        hidden = self.networking.disable_host_dns_entry or is_ip(host) or name.rpartition(".")[2] == "localhost"
        return "" if hidden else name

    @property
    def protocol_word(self) -> str:
        """What it says it speaks."""
        return self.tags.get(PROTOCOL_TAG, "tcp")


def host_and_port(address: str) -> tuple[str, int] | None:
    """`httpbin.org:443` and `[2001:db8::1]:443` in parts; None for anything else, whatever the host is."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    if not (colon and host and port.isascii() and port.isdigit() and len(port) <= 5):
        return None
    return host, int(port)
