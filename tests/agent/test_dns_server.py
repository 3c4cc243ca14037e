"""The DNS responder on real sockets, asked by dnspython."""

from __future__ import annotations

import asyncio
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from zone_cp.agent.dns_server import DnsServer, parse_address, system_resolvers
from zone_cp.agent.dns_table import NameTable, store

pytestmark = pytest.mark.anyio


async def test_a_circle_ends() -> None:
    """A server that is its own upstream under another address answers SERVFAIL at once, over UDP and over TCP."""
    server = DnsServer(NameTable(), [])
    await server.start("0.0.0.0", 0)
    port = server.address[1]
    server._configured = [("127.0.0.1", port)]
    query = dns.message.make_query("example.com", "A")
    try:
        for ask in (dns.asyncquery.udp, dns.asyncquery.tcp):
            async with asyncio.timeout(1.5):
                answer = await ask(query, "127.0.0.1", port=port)
            assert answer.rcode() == dns.rcode.SERVFAIL
    finally:
        await server.stop()


async def test_own_address_is_no_upstream() -> None:
    """The address it listens on is never asked."""
    server = DnsServer(NameTable())
    await server.start("127.0.0.1", 0)
    server._configured = [server.address, ("192.0.2.1", 53)]
    assert server.upstreams() == [("192.0.2.1", 53)]
    await server.stop()


async def test_taken_port_is_an_error() -> None:
    """A port that somebody else has is an error, not another port."""
    first, second = DnsServer(NameTable(), []), DnsServer(NameTable(), [])
    await first.start("127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        await second.start("127.0.0.1", first.address[1])
    await first.stop()


async def test_thousand_questions() -> None:
    """A burst of queries is answered in full."""
    table = NameTable()
    table.replace("1", {f"n{i}.mesh": f"242.0.{i // 250}.{i % 250 + 1}" for i in range(1000)})
    server = DnsServer(table, [])
    await server.start("127.0.0.1", 0)

    async def one(i: int) -> str:
        answer = await dns.asyncquery.udp(
            dns.message.make_query(f"N{i}.Mesh", "A"), "127.0.0.1", port=server.address[1], timeout=10
        )
        return str(answer.answer[0][0])

    async with asyncio.TaskGroup() as group:
        answers = [group.create_task(one(i)) for i in range(0, 1000, 5)]
    assert [task.result() for task in answers] == [table.names[f"n{i}.mesh"] for i in range(0, 1000, 5)]
    await server.stop()


def test_resolv_conf(tmp_path: Path) -> None:
    """Name servers are read in order; anything else is passed over, also a file that is not there."""
    path = tmp_path / "resolv.conf"
    path.write_text("# x\nsearch a b\nnameserver 192.0.2.1\nnameserver nonsense\nnameserver fe80::1%eth0\nnameserver\n")
    assert system_resolvers(path) == [("192.0.2.1", 53), ("fe80::1%eth0", 53)]
    assert system_resolvers(tmp_path / "none") == []


def test_addresses() -> None:
    """Upstreams are addresses with or without a port; names are refused."""
    assert parse_address("192.0.2.1") == ("192.0.2.1", 53)
    assert parse_address("192.0.2.1:5353") == ("192.0.2.1", 5353)
    assert parse_address("[2001:db8::1]:5353") == ("2001:db8::1", 5353)
    assert parse_address("2001:db8::1") == ("2001:db8::1", 53)
    with pytest.raises(ValueError, match="resolver"):
        parse_address("resolver.example")


def test_store_is_atomic(tmp_path: Path) -> None:
    """A file is replaced whole, readable for its owner alone, and nothing temporary stays."""
    path = tmp_path / "deep" / "dns.json"
    store(path, b"one")
    store(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
