"""A DNS server for tests: what each name resolves to is the test's to say, from one moment to the next."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class Names(asyncio.DatagramProtocol):
    """Answers A queries out of `hosts`; names that are not in it do not exist. `asked` counts queries by name."""

    def __init__(self) -> None:
        self.hosts: dict[str, list[str]] = {}
        self.failing = False
        self.asked: dict[str, int] = {}
        self.port = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen on loopback, in a loop that runs in another thread."""
        ready = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ready.bind(("127.0.0.1", 0))
        ready.setblocking(False)
        self.port = ready.getsockname()[1]
        made = loop.create_datagram_endpoint(lambda: self, sock=ready)
        asyncio.run_coroutine_threadsafe(made, loop).result(10)

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.DatagramTransport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text(omit_final_dot=True).lower()
        self.asked[name] = self.asked.get(name, 0) + 1
        answer = dns.message.make_response(query, recursion_available=True)
        if self.failing:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif name not in self.hosts:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif query.question[0].rdtype == dns.rdatatype.A and self.hosts[name]:
            answer.answer.append(dns.rrset.from_text(query.question[0].name, 1, "IN", "A", *self.hosts[name]))
        self._transport.sendto(answer.to_wire(), addr)


def bootstrap(port: int) -> dict[str, Any]:
    """The part of an Envoy bootstrap that makes it ask this server."""
    kind = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
    resolver = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    config = {"@type": kind, "resolvers": [resolver], "dns_resolver_options": {"no_default_search_domain": True}}
    return {"typed_dns_resolver_config": {"name": "envoy.network.dns_resolver.cares", "typed_config": config}}
