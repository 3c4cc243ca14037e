"""The DNS responder on real sockets, asked by dnspython."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from zone_cp.agent.dns_server import MAX_FORWARDED, DnsServer, SystemResolvers, parse_address, system_resolvers
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


class Upstream(asyncio.DatagramProtocol):
    """A resolver: `long.test` does not fit a datagram, `silent.test` gets nothing, other names do not exist."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.arrived: asyncio.Queue[str] = asyncio.Queue()

    async def start(self) -> tuple[str, int]:
        loop = asyncio.get_running_loop()
        self.tcp = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self.tcp.sockets[0].getsockname()[1]
        self.udp, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", port))
        return "127.0.0.1", port

    def stop(self) -> None:
        self.tcp.close()
        self.udp.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._answer(data, tcp=False)
        if answer is not None:
            self.udp.sendto(answer, addr)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        answer = self._answer(query, tcp=True) or b""
        writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()

    def _answer(self, data: bytes, *, tcp: bool) -> bytes | None:
        query = dns.message.from_wire(data)
        name = query.question[0].name
        self.asked.append(("tcp " if tcp else "udp ") + name.to_text(omit_final_dot=True))
        self.arrived.put_nowait(self.asked[-1])
        answer = dns.message.make_response(query)
        match name.to_text().lower():
            case "silent.test.":
                return None
            case "long.test." if tcp:
                addresses = [f"192.0.2.{number}" for number in range(1, 200)]
                answer.answer.append(dns.rrset.from_text_list(name, 5, "IN", "A", addresses))
            case "long.test.":
                answer.flags |= dns.flags.TC
            case _:
                answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer.to_wire()


async def test_what_does_not_fit_a_datagram_is_asked_for_over_tcp() -> None:
    """A truncated answer is passed on as such; the client asks again over TCP, and so do we. Case and id are kept."""
    upstream = Upstream()
    server = DnsServer(NameTable(), [await upstream.start()])
    await server.start("127.0.0.1", 0)
    try:
        query = dns.message.make_query("LoNg.TeSt", "A")
        answer, over_tcp = await dns.asyncquery.udp_with_fallback(query, "127.0.0.1", port=server.address[1], timeout=5)
        assert (over_tcp, len(answer.answer[0])) == (True, 199)
        assert answer.question[0].name.to_text() == "LoNg.TeSt."
        assert upstream.asked == ["udp LoNg.TeSt", "tcp LoNg.TeSt"]
    finally:
        await server.stop()
        upstream.stop()


async def test_a_name_that_nobody_has_does_not_exist() -> None:
    """NXDOMAIN is the upstream's word; a silent resolver is followed by the next one."""
    upstream, silent = Upstream(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    server = DnsServer(NameTable(), [silent.getsockname(), await upstream.start()], upstream_seconds=0.1)
    await server.start("127.0.0.1", 0)
    try:
        query = dns.message.make_query("nobody.test", "AAAA")
        answer = await dns.asyncquery.udp(query, "127.0.0.1", port=server.address[1], timeout=5)
        assert answer.rcode() == dns.rcode.NXDOMAIN
    finally:
        await server.stop()
        upstream.stop()
        silent.close()


async def test_forwards_are_bounded_and_own_names_are_not_held_up() -> None:
    """With MAX_FORWARDED questions waiting, a further one fails at once, and a name of the table is answered."""
    upstream, table = Upstream(), NameTable()
    table.replace("1", {"own.mesh": "242.0.0.1"})
    server = DnsServer(table, [await upstream.start()], upstream_seconds=60)
    await server.start("127.0.0.1", 0)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=server.address
    )
    try:
        async with asyncio.timeout(20):
            for number in range(MAX_FORWARDED):
                transport.sendto(dns.message.make_query("silent.test", "A", id=number).to_wire())
                await upstream.arrived.get()
        for name, code in (("more.test", dns.rcode.SERVFAIL), ("own.mesh", dns.rcode.NOERROR)):
            query = dns.message.make_query(name, "A")
            answer = await dns.asyncquery.udp(query, "127.0.0.1", port=server.address[1], timeout=1)
            assert answer.rcode() == code
        assert len(upstream.asked) == MAX_FORWARDED
    finally:
        transport.close()
        await server.stop()
        upstream.stop()


def test_a_resolv_conf_that_changed_is_read_again(tmp_path: Path) -> None:
    """Networks come and go; a file that is not there names nobody."""
    path = tmp_path / "resolv.conf"
    resolvers = SystemResolvers(path)
    assert resolvers.now() == []
    path.write_text("nameserver 192.0.2.1\n")
    assert resolvers.now() == [("192.0.2.1", 53)]
    path.write_text("nameserver 192.0.2.1\nnameserver 192.0.2.2\n")
    assert resolvers.now() == [("192.0.2.1", 53), ("192.0.2.2", 53)]
    path.unlink()
    assert resolvers.now() == []


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
