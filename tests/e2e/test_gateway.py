"""Builtin gateways on real Envoys: what listens, what is served under which name, and what one fault leaves alone."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from shared.demo.looking import eventually
from tests.e2e.gateways import Gateways, gateway, secret
from tests.e2e.living import WITHIN_SECONDS
from tests.e2e.server_certificates import certificate, shake, shown

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 29_200
HSTS = "max-age=31536000; includeSubDomains"


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateways]:
    """A gateway in east that no MeshGateway selects yet."""
    directory = tmp_path_factory.mktemp("gateway")
    async with Gateways(directory, BASE_PORT) as made:
        await made.begin()
        await made.join("edge-1")
        yield made


def https(port: int, hostname: str, *secrets: str) -> dict[str, Any]:
    """An HTTPS listener."""
    tls = {"mode": "TERMINATE", "certificates": [{"secret": one} for one in secrets]}
    return {"port": port, "protocol": "HTTPS", "hostname": hostname, "tls": tls}


async def test_a_gateway_listens_as_its_mesh_gateway_says(system: Gateways) -> None:
    """Without one it listens nowhere; with one, by hostname, and 404 where no route leads."""
    assert await system.listeners() == []
    one, other = ({"port": system.port(1), "protocol": "HTTP", "hostname": f"{host}.example.com"} for host in "ab")
    await system.apply(gateway(one, other))
    found = await system.answers(1, "a.example.com", 404)
    assert found.body == "This is a Zonal MeshGateway. No routes match this MeshGateway!\n"
    assert found.headers["server"] == "Zonal Gateway"
    assert await system.listeners() == [f"edge:HTTP:{system.port(1)}"]
    assert (await system.ask(1, "b.example.com")).body == found.body
    other_host = await system.ask(1, "c.example.com")
    assert (other_host.status, other_host.body) == (404, "")


async def test_what_a_client_must_not_say_is_refused(system: Gateways) -> None:
    """Headers that other software reads as others (underscores); a path is read as it is meant."""
    await system.apply(gateway({"port": system.port(1), "protocol": "HTTP"}))
    await system.answers(1, "anything.test", 404)
    assert (await system.ask(1, "a", headers="x_under: score\r\n")).status == 400
    unescaped = await system.ask(1, "a", "/a%2Fb")
    assert (unescaped.status, unescaped.headers["location"]) == (307, "/a/b")


async def test_certificates_are_chosen_by_server_name_and_by_what_a_client_can_check(system: Gateways) -> None:
    """RSA and ECDSA together: a client that can only do one gets that one; exact names before wildcards (A6, A7)."""
    rsa, ecdsa = certificate("foo.example.com", "RSA"), certificate("foo.example.com", key_last=True)
    wild, other = certificate("*.example.com", "RSA"), certificate("bar.example.com")
    port = system.port(2)
    secrets = {"rsa": rsa, "ecdsa": ecdsa, "wild": wild, "other": other}
    await system.apply(
        "".join(secret(name, one.pem) for name, one in secrets.items())
        + gateway(
            https(port, "*.example.com", "wild"),
            https(port, "foo.example.com", "rsa", "ecdsa"),
            https(port, "bar.example.com", "other"),
        )
    )
    await shown(port, "bar.example.com", other.serial)
    for version in ("-tls1_2", "-tls1_3"):
        assert (await shake(port, "foo.example.com", version, only="RSA")).serial == rsa.serial
        assert (await shake(port, "foo.example.com", version, only="ECDSA")).serial == ecdsa.serial
    assert (await shake(port, "foo.example.com", alpn="h2,http/1.1")).protocol == "h2"
    assert (await shake(port, "foo.example.com", alpn="http/1.1")).protocol == "http/1.1"
    assert (await shake(port, "x.example.com")).serial == wild.serial
    assert (await shake(port, "y.x.example.com")).serial == wild.serial
    assert (await shake(port, "bar.example.com", only="RSA")).serial == ""
    assert (await shake(port, "example.com")).serial == ""
    assert (await shake(port, "")).serial == ""
    assert (await shake(port, "foo.example.com", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")).serial == ""


async def request(port: int, name: str, host: str) -> tuple[int, dict[str, str]]:
    """An HTTPS request with a server name and a Host: status and headers."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    async with asyncio.timeout(WITHIN_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname=name)
        writer.write(f"GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return 0, {}
        finally:
            writer.close()
    first, *lines = head.strip().split("\r\n")
    return int(first.split()[1]), {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


async def test_hosts_of_another_server_name_are_not_behind_a_connection(system: Gateways) -> None:
    """A connection for one name reaches that one alone, and answers ask for TLS from then on."""
    port, made = system.port(2), certificate("foo.example.com")
    await system.apply(
        secret("one", made.pem)
        + gateway(https(port, "foo.example.com", "one"), https(port, "bar.example.com", "one"), https(port, "", "one"))
    )
    await shown(port, "anything.test", made.serial)
    for host, hsts in (("foo.example.com", HSTS), ("bar.example.com", None)):
        await eventually(
            partial(request, port, "foo.example.com", host),
            lambda one, wanted=(404, hsts): (one[0], one[1].get("strict-transport-security")) == wanted,  # type: ignore[misc]
            f"404 for {host}, with HSTS of this name alone",
            WITHIN_SECONDS,
        )


async def test_a_broken_certificate_closes_its_own_listener_only(system: Gateways) -> None:
    """Nor does its name fall to a wildcard's certificate; mended, it is served (decision 22)."""
    port = system.port(2)
    good, wild, late = (certificate(one) for one in ("good.example.com", "*.example.com", "late.example.com"))
    await system.apply(
        secret("good", good.pem)
        + secret("wild", wild.pem)
        + gateway(
            https(port, "good.example.com", "good"),
            https(port, "late.example.com", "late"),
            https(port, "*.example.com", "wild"),
            {"port": system.port(1), "protocol": "HTTP"},
        )
    )
    await shown(port, "good.example.com", good.serial)
    assert (await shake(port, "late.example.com")).serial == ""
    assert (await shake(port, "else.example.com")).serial == wild.serial
    _, _, said = await system.cli("inspect", "default.edge-1", "--zone", "east")
    field = "conf.listeners[1].tls.certificates[0].secret"
    assert f"edge:HTTPS:{port} is closed to late.example.com: {field}: mesh default has no Secret late" in said
    rolled = await eventually(
        partial(system.api, "GET", "/meshes/default/meshgateways/edge/_status"),
        lambda one: one["ready"] == "0/2" and "late" in str(one),
        "a condition",
        WITHIN_SECONDS,
    )
    (ready,) = (one for one in rolled["conditions"] if one["type"] == "Ready")
    by_zone = {one["zone"]: (one["reason"], one["message"]) for one in ready["zones"]}
    assert by_zone == {
        "east": ("SecretMissing", f"{field}: mesh default has no Secret late"),
        "west": ("NotBound", "it is served nowhere in zone west"),
    }
    await system.answers(1, "anything.test", 404)
    await system.apply(secret("late", late.pem))
    await shown(port, "late.example.com", late.serial)
    await system.delete("secret", "late")
    await shown(port, "late.example.com", "")
    assert (await shake(port, "good.example.com")).serial == good.serial
    assert (await shake(port, "else.example.com")).serial == wild.serial


@asynccontextmanager
async def held(port: int, count: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Connections that stay open."""
    async with AsyncExitStack() as stack:
        readers = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            readers.append(reader)
        yield readers


async def closed(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Whether the other side ends the connection within this time."""
    try:
        async with asyncio.timeout(seconds):
            return not await reader.read(1)
    except TimeoutError:
        return False
    except OSError:
        return True


async def stays(port: int) -> bool:
    """Whether one more connection does."""
    async with held(port, 1) as (one,):
        return not await closed(one, 0.3)


async def connected(system: Gateways, port: int, count: int) -> None:
    """Wait until so many connections of a port count: which of Envoy's workers is first to see one is not known."""
    gauge = f"^listener.127.0.0.1_{port}.downstream_cx_active$"
    await eventually(lambda: system.stat(gauge), lambda one: one == count, f"{count} connections", WITHIN_SECONDS)


async def test_the_limit_of_a_port_holds_for_all_its_listeners(system: Gateways) -> None:
    """One more connection is closed at once; another port has its own; a raised limit drains nothing (A9)."""
    port, free = system.port(3), system.port(4)

    def limited(limit: int) -> str:
        shared = {"port": port, "protocol": "HTTP"}
        one = shared | {"hostname": "a.example.com", "resources": {"connectionLimit": limit}}
        return gateway(one, shared | {"hostname": "b.example.com"}, {"port": free, "protocol": "HTTP"})

    await system.apply(limited(3))
    await system.answers(3, "a.example.com", 404)
    await connected(system, port, 0)
    async with held(port, 3) as readers, held(free, 5) as others:
        await connected(system, port, 3)
        await eventually(partial(stays, port), lambda one: not one, "a fourth connection is closed", WITHIN_SECONDS)
        assert not any(await asyncio.gather(*(closed(one, 0.3) for one in (*readers, *others))))
        await system.apply(limited(4))

        assert await eventually(partial(stays, port), bool, "a fourth connection stays", WITHIN_SECONDS)
        assert not any(await asyncio.gather(*(closed(one, 0.3) for one in readers)))


async def test_a_rotated_certificate_drains_nothing(system: Gateways) -> None:
    """New connections are shown the new one, and the ones that are open go on; the listener is the same."""
    port, first, second = system.port(2), certificate("foo.example.com"), certificate("foo.example.com", "RSA")
    await system.apply(secret("turning", first.pem) + gateway(https(port, "foo.example.com", "turning")))
    await shown(port, "foo.example.com", first.serial)
    changes = await system.stat("listener_manager.listener_(modified|in_place_updated)")
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="foo.example.com")
    await system.apply(secret("turning", second.pem))
    await shown(port, "foo.example.com", second.serial)
    writer.write(b"GET / HTTP/1.1\r\nhost: foo.example.com\r\n\r\n")
    async with asyncio.timeout(WITHIN_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 404")
    assert b"connection: close" not in head
    assert await system.stat("listener_manager.listener_(modified|in_place_updated)") == changes


async def test_the_best_mesh_gateway_wins_and_the_next_takes_over(system: Gateways) -> None:
    """More tags before fewer, and a gateway never serves two (A3). A port passes from one to the other."""
    plain = {"port": system.port(1), "protocol": "HTTP"}
    await system.apply(gateway(plain))
    await system.answers(1, "a", 404)
    await system.join("edge-2", number=1, tags={"team": "a"})
    await system.kill("east-edge-1")
    tls = https(system.port(1), "foo.example.com", "one")
    better = secret("one", certificate("foo.example.com").pem) + gateway(tls, name="team", match={"team": "*"})
    await eventually(lambda: system.listeners(1), lambda one: one == [f"edge:HTTP:{system.port(1)}"], "it takes over")
    await system.apply(better)
    await eventually(
        lambda: system.listeners(1), lambda one: one == [f"team:HTTPS:{system.port(1)}"], "the better", WITHIN_SECONDS
    )
    served = partial(request, system.port(1), "foo.example.com", "foo.example.com")
    await eventually(served, lambda one: one[0] == 404, "404 by the better", WITHIN_SECONDS)
    await system.delete("meshgateway", "team")
    await eventually(
        lambda: system.listeners(1), lambda one: one == [f"edge:HTTP:{system.port(1)}"], "the other", WITHIN_SECONDS
    )
    await system.answers(1, "a", 404)
    await system.kill("east-edge-2")
    await system.start("east-edge-1")


async def test_a_global_gateway_serves_in_every_zone_and_a_zones_own_in_that_one(system: Gateways) -> None:
    """Where there is a gateway Dataplane for it (A14)."""
    await system.join("edge-1w", "west", number=2, address="127.0.0.2")
    await system.apply(gateway({"port": system.port(6), "protocol": "HTTP"}))
    name, own = f"edge:HTTP:{system.port(6)}", f"local:HTTP:{system.port(7)}"
    for number, zone in ((0, "east"), (2, "west")):
        await eventually(partial(system.listeners, number, zone), lambda one: one == [name], zone, WITHIN_SECONDS)
    local = gateway(
        {"port": system.port(7), "protocol": "HTTP"}, name="local", match={"kuma.io/service": "edge-gateway"}
    )
    await system.apply(local, "--zone", "west")
    await eventually(partial(system.listeners, 2, "west"), lambda one: one == [own], "its own", WITHIN_SECONDS)
    assert await system.listeners() == [name]
