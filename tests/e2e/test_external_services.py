"""External services through the whole system: TLS checks, static responses, conditions, rotation under load."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from shared.demo import application, manifests
from shared.demo.looking import eventually
from shared.demo.placement import ZONES
from shared.demo.processes import listening
from shared.demo.system import System
from tests.e2e.handshakes import Issuer
from tests.e2e.living import WITHIN_SECONDS, Living
from tests.e2e.rotating import Load, Rotating, load
from tests.e2e.swapping import Planes, calls
from tests.xds.servers import Servers, server_context

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 31_000
NAME = "rotating.test"
SHORT_LIFETIME = "20s"
QUICK_ROTATIONS = 25
SWAPS = 20

RENEW = """
import sys
from datetime import UTC, datetime
from cryptography import x509
from shared.keys import ca
started = datetime.now(UTC).replace(microsecond=0)  # certificates know whole seconds
ca.needs_renewal = lambda pem, now: (
    x509.load_pem_x509_certificate(pem.encode()).not_valid_before_utc + ca.BACKDATE < started
)
from shared.cli import main
main(sys.argv[1:])
"""
"""Global, to whom every intermediate older than itself is due."""


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Two zones with the demo's resources ready."""
    async with Living(tmp_path_factory.mktemp("external"), BASE_PORT) as made:
        await made.begin()
        yield made


def plain(name: str, port: int, endpoint: int | None, *, protocol: str = "http", **spec: Any) -> dict[str, Any]:
    endpoints = [] if endpoint is None else [{"address": "127.0.0.1", "port": endpoint}]
    match = {"type": "HostnameGenerator", "port": port, "protocol": protocol}
    body = {"match": match, **({"endpoints": endpoints} if endpoints else {}), **spec}
    return {"type": "MeshExternalService", "mesh": "default", "name": name, "spec": body}


def secret(name: str, text: str) -> dict[str, Any]:
    return {"type": "Secret", "mesh": "default", "name": name, "data": base64.b64encode(text.encode()).decode()}


async def apply(system: System, *resources: dict[str, Any], zone: str | None = None) -> tuple[int, str]:
    text = "\n---\n".join(json.dumps(one) for one in resources)
    path = system.write("test.yaml", text)
    path.chmod(0o600)
    where = ["--zone", zone] if zone else []
    code, out, err = await system.cli("apply", "-f", str(path), *where)
    return code, out + err


async def rollup(system: System, name: str) -> dict[str, Any]:
    found: dict[str, Any] = await system.api("GET", f"/meshes/default/meshexternalservices/{name}/_status")
    return found


async def ready(system: System, *names: str) -> None:
    for name in names:
        await eventually(
            lambda name=name: rollup(system, name),  # type: ignore[misc]
            lambda found: found["ready"] == "2/2",
            f"{name} is ready in both zones",
            WITHIN_SECONDS,
        )


async def vip(system: System, name: str, zone: str = "east") -> str:
    hostname = f"{name}.ext.mesh"
    found: str = await eventually(
        lambda: application.resolve(hostname, system.dns_port(zone)), bool, f"{hostname} resolves", WITHIN_SECONDS
    )
    return found


async def check(system: System, name: str, zone: str = "east") -> tuple[int, dict[str, Any]]:
    code, out, err = await system.cli("check", "tls", name, "--zone", zone, "-o", "json")
    assert out, err
    return code, json.loads(out)


def failed(report: dict[str, Any]) -> dict[str, str]:
    steps = [*report["steps"], *(one for endpoint in report["endpoints"] for one in endpoint["steps"])]
    return {one["name"]: one["field"] for one in steps if one["result"] == "failed"}


# --- zonal check tls ----------------------------------------------------------------------------------------------


async def test_check_tls_is_made_by_the_egress_with_the_secrets_of_the_resource(system: System) -> None:
    """`payments` wants a client certificate from a Secret: the egress shows it, and everything holds."""
    code, report = await check(system, "payments")
    assert (code, report["result"], report["egress"], failed(report)) == (0, "ok", ".egress", {})
    steps = {one["name"]: one for one in report["endpoints"][0]["steps"]}
    assert steps["offer"]["facts"]["client certificate"] == "CN=zonal-demo-client"
    assert steps["handshake"]["facts"]["asks for a client certificate"] == "yes"
    code, out, _ = await system.cli("check", "tls", "payments")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines() if not line.startswith(" ")] == ["default/payments"] * 2
    keys = (system.certificates / "client.key").read_text().splitlines()[1:-1]
    logs = "".join(path.read_text(errors="replace") for path in (system.directory / "logs").iterdir())
    assert not [line for line in keys if line in out + json.dumps(report) + logs]


async def test_check_tls_names_the_field(system: System) -> None:
    """Wrong CA, wrong name and no server at all: exit code 1 and the field that would mend it."""
    https, dead = system.services.https, BASE_PORT + 90
    ca, other = ((system.certificates / f"{name}.pem").read_text() for name in ("ca", "other-ca"))
    client: dict[str, Any] = {
        name: {"secret": f"payments-client-{name[6:].lower()}"} for name in ("clientCert", "clientKey")
    }

    def tls(pem: str, server_name: str = "payments.example.test", **more: Any) -> dict[str, Any]:
        source = {"caCert": {"inlineString": pem}, "serverName": server_name}
        return {"enabled": True, "verification": source | more}

    cases = {
        "wrong-ca": (plain("wrong-ca", 8501, https, tls=tls(other, **client)), {"chain"}),
        "wrong-name": (plain("wrong-name", 8502, https, tls=tls(ca, "other.test", **client)), {"names"}),
        "no-client": (plain("no-client", 8503, https, tls=tls(ca)), {"client-certificate"}),
        "no-server": (plain("no-server", 8504, dead, tls=tls(ca)), {"connect"}),
        "no-secret": (plain("no-secret", 8505, https, tls=tls(ca, caCert={"secret": "nobody"})), {"configuration"}),
    }
    code, said = await apply(system, *(one for one, _ in cases.values()))
    assert code == 0, said
    for name, (_, expected) in cases.items():
        await vip(system, name)
        code, report = await check(system, name)
        assert (name, code, set(failed(report))) == (name, 1, expected)
        assert all(field.startswith("spec.") for field in failed(report).values())
    code, _, err = await system.cli("check", "tls", "nobody", "--zone", "east")
    assert (code, "there is no MeshExternalService nobody" in err) == (1, True)


# --- extensions ---------------------------------------------------------------------------------------------------


async def test_a_static_response_is_a_maintenance_page(system: System) -> None:
    """Put in front of a service that works, it answers instead; taken away, the service is back."""
    port = system.services.http
    await apply(system, plain("shop", 8601, port))
    await ready(system, "shop")
    ip = await vip(system, "shop")
    shop = await eventually(
        lambda: application.get(ip, 8601, "shop"), lambda found: found.status == 200, "shop answers", WITHIN_SECONDS
    )
    assert shop.json["instance"] == port
    page = {
        "type": "static-response",
        "config": {"status": 503, "headers": {"x-why": "100% planned"}, "body": "at noon"},
    }
    code, said = await apply(
        system, plain("shop", 8601, port, extension=page), plain("page", 8602, None, extension=page)
    )
    assert code == 0, said
    for where, name in ((8601, "shop"), (8602, "page")):
        there = await vip(system, name)
        answer = await eventually(
            lambda there=there, where=where: application.get(there, where, "x"),  # type: ignore[misc]
            lambda found: found.text == "at noon",
            f"{name} shows the page",
            WITHIN_SECONDS,
        )
        assert answer.status == 503
    await ready(system, "page")
    assert failed((await check(system, "page"))[1]) == {"configuration": "spec.extension"}
    await apply(system, plain("shop", 8601, port))
    await eventually(lambda: application.get(ip, 8601, "x"), lambda a: a.status == 200, "shop is back", WITHIN_SECONDS)


async def test_an_extension_that_nobody_knows_is_a_condition(system: System) -> None:
    """The service answers 503 and says why, in both zones; its condition names the field; others are served."""
    await apply(system, plain("lambda", 8603, None, extension={"type": "Lambda"}))
    found = await eventually(
        lambda: rollup(system, "lambda"),
        lambda one: (
            {zone["reason"] for c in one["conditions"] if c["type"] == "Ready" for zone in c["zones"]}
            == {"UnknownExtension"}
        ),
        "both zones say UnknownExtension",
        WITHIN_SECONDS,
    )
    assert found["ready"] == "0/2"
    ip = await vip(system, "lambda")
    answer = await eventually(
        lambda: application.get(ip, 8603, "x"), lambda one: "UnknownExtension" in one.text, "the reason", WITHIN_SECONDS
    )
    assert (answer.status, "spec.extension.type" in answer.text) == (503, True)


# --- conditions ---------------------------------------------------------------------------------------------------


async def test_conditions_are_rolled_up_and_say_when_they_were_computed(system: System) -> None:
    """`zonal get mes` shows how many zones are ready; each condition of each zone carries its moment."""
    found = await rollup(system, "payments")
    assert found["ready"] == "2/2"
    for one in found["conditions"]:
        assert [zone["zone"] for zone in one["zones"]] == list(ZONES) or one["type"] == "Reachable"
        for zone in one["zones"]:
            assert re.fullmatch(r"g[1-9]\d*\.z[1-9]\d*", zone["position"]), zone
    _, out, _ = await system.cli("get", "mes", "payments")
    head, *rows = out.splitlines()
    assert "READY" in head.split()
    assert sum("2/2" in row for row in rows) == len(ZONES)


# --- rotation -----------------------------------------------------------------------------------------------------


class Party:
    """Authorities and certificates of one side's generations."""

    def __init__(self, system: System, outside: Rotating) -> None:
        self.system, self.outside = system, outside
        self.authorities = [Issuer(f"outside {number}") for number in range(2)]
        self.clients = [Issuer(f"clients {number}") for number in range(2)]
        self.servers = [one.issue(NAME, x509.DNSName(NAME)) for one in self.authorities]
        self.pairs = [one.issue(f"client-{number}") for number, one in enumerate(self.clients)]

    def bundle(self, *numbers: int) -> str:
        return "".join(self.authorities[number].pem for number in numbers)

    def trusted_clients(self, *numbers: int) -> str:
        return "".join(self.clients[number].pem for number in numbers)

    async def client_pair(self, number: int) -> None:
        chain, key = self.pairs[number]
        code, said = await apply(self.system, secret("rot-cert", chain), secret("rot-key", key))
        assert code == 0, said

    async def client_pair_now(self, number: int) -> None:
        """The same as `client_pair`, without a process for each."""
        chain, key = self.pairs[number]
        body = {"resources": [secret("rot-cert", chain), secret("rot-key", key)]}
        token = self.system.deployment.admin_token.read_text().strip()
        url = f"http://127.0.0.1:{self.system.ports.api}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as client:
            answer = await client.post("/apply", json=body, headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text

    async def declare(self) -> None:
        verification = {
            "serverName": NAME,
            "caCert": {"secret": "rot-ca"},
            "clientCert": {"secret": "rot-cert"},
            "clientKey": {"secret": "rot-key"},
        }
        tls = {"enabled": True, "verification": verification}
        chain, key = self.pairs[0]
        code, said = await apply(
            self.system,
            *(secret("rot-ca", self.bundle(0)), secret("rot-cert", chain), secret("rot-key", key)),
            plain("rotating", 8701, self.outside.http, tls=tls),
            plain("stream", 8702, self.outside.tcp, protocol="tcp", tls=tls),
        )
        assert code == 0, said
        await ready(self.system, "rotating", "stream")


async def test_rotation_under_load_fails_no_request(system: System, tmp_path: Path) -> None:
    """CA, client certificate (dozens of times, both Secrets in one batch) and the zones' intermediates of the mesh CA,
    while clients call on kept and on fresh connections: no request fails, no connection in use is dropped.
    """
    with Rotating(tmp_path) as outside:
        party = Party(system, outside)
        first = outside.rotate(party.servers[0], party.trusted_clients(0))
        await party.declare()
        http, tcp = await vip(system, "rotating"), await vip(system, "stream")
        await eventually(lambda: application.get(http, 8701, "x"), lambda a: a.status == 200, "it answers")
        async with load((http, 8701), (tcp, 8702)) as seen:
            await seen.until(first, "client-0")
            await _rotate_authority(system, party, seen)
            await _rotate_clients(party, seen)
            await _rotate_intermediates(system, seen)
        counted = f"{seen.answers} answers on {seen.connections} connections, {seen.echoes} echoes"
        print(f"{counted}, {len(seen.failures)} failures")
        assert seen.failures == []
        assert seen.answers > 500
        assert seen.echoes > 100


async def _rotate_authority(system: System, party: Party, seen: Load) -> None:
    """The usual three steps: trust both, change the server, trust the new one alone."""
    await apply(system, secret("rot-ca", party.bundle(0, 1)))
    await _delivered(system)
    generation = party.outside.rotate(party.servers[1], party.trusted_clients(0))
    await seen.until(generation, "client-0")
    await apply(system, secret("rot-ca", party.bundle(1)))
    await _delivered(system)
    code, report = await check(system, "rotating")
    assert (code, failed(report)) == (0, {})


async def _rotate_clients(party: Party, seen: Load) -> None:
    """The server trusts both; certificate and key are two Secrets that change in one batch."""
    generation = party.outside.rotate(party.servers[1], party.trusted_clients(0, 1))
    await seen.until(generation, "client-0")
    for number in range(QUICK_ROTATIONS):
        await party.client_pair_now(number % 2)
    for number in (1, 0, 1):
        await party.client_pair(number)
        generation = party.outside.rotate(party.servers[1], party.trusted_clients(0, 1))
        await seen.until(generation, f"client-{number}")


async def _rotate_intermediates(system: System, seen: Load) -> None:
    """A new root is refused while mTLS is on; every zone's intermediate is issued anew, and proxies follow."""
    mesh = {
        "type": "Mesh",
        "name": "default",
        "mtls": {"enabledBackend": "ca-2", "backends": [{"name": "ca-2", "type": "builtin"}]},
    }
    code, said = await apply(system, mesh)
    assert (code != 0, "Changing CA when mTLS is enabled is forbidden" in said) == (True, True)
    issued = await _intermediates(system)
    await system._processes.stop(system._named.pop("global"))
    argv = [sys.executable, "-c", RENEW, "global", "--config", str(system.deployment.global_settings)]
    system._named["global"] = await system._processes.start("global-renewing", argv, ready=listening(system.ports.api))
    await eventually(
        lambda: _intermediates(system),
        lambda now: now == issued + len(ZONES),
        "each zone has a new intermediate",
        WITHIN_SECONDS,
    )
    # Another lifetime replaces every certificate at once, by the new intermediate; a short one then by itself.
    text = manifests.mesh(forbid=False).replace("expiration: 1h", f"expiration: {SHORT_LIFETIME}")
    before = {zone: await _identities(system, zone) for zone in ZONES}
    code, out, err = await system.cli("apply", "-f", str(system.write("short.yaml", text)))
    assert code == 0, out + err
    for _ in range(2):
        for zone in ZONES:
            before[zone] = await eventually(
                lambda zone=zone: _identities(system, zone),  # type: ignore[misc]
                lambda now, was=before[zone]: bool(now) and not now & was,  # type: ignore[misc]
                f"proxies of {zone} have other certificates",
                WITHIN_SECONDS,
            )
    answers = seen.answers
    await eventually(_count(seen), lambda now: now > answers + 100, "traffic goes on", WITHIN_SECONDS)


async def _intermediates(system: System) -> int:
    events = (await system.api("GET", "/events?origin=global&limit=1000"))["items"]
    return sum(event["change"]["type"] == "IntermediateIssued" for event in events)


def _count(seen: Load) -> Any:
    async def count() -> int:
        return seen.answers

    return count


async def _identities(system: System, zone: str) -> frozenset[str]:
    """Serial numbers of the SPIFFE certificates that sidecar and egress of a zone hold now."""
    serials = set()
    for port in (system.sidecar_admin(zone), system.egress_admin(zone)):
        found = (await application.get("127.0.0.1", port, "admin", "/certs")).json
        for entry in found["certificates"]:
            for one in entry["cert_chain"]:
                if any("spiffe" in name.get("uri", "") for name in one["subject_alt_names"]):
                    serials.add(one["serial_number"])
    return frozenset(serials)


async def _delivered(system: System) -> None:
    """Wait until the proxies of east have acknowledged all that global has recorded."""
    last = (await system.api("GET", "/events?origin=global&limit=1"))["last"]

    async def behind() -> list[str]:
        rows = (await system.api("GET", "/proxies", zone="east"))["items"]
        return [row["proxy"] for row in rows if _g(row["acked"]) < last]

    await eventually(behind, lambda found: not found, f"east holds global's event {last}", WITHIN_SECONDS)


def _g(position: str) -> int:
    return int(position.partition(".")[0].removeprefix("g") or 0)


# --- swaps ----------------------------------------------------------------------------------------------------------


def swapped(name: str, port: int, number: int, endpoint: int, ca: str) -> dict[str, Any]:
    """Over plain HTTP, verified TLS, HTTP/2 and two priorities by turns."""
    match number % 4:
        case 1:
            tls = {"enabled": True, "verification": {"serverName": NAME, "caCert": {"inlineString": ca}}}
            return plain(name, port, endpoint, tls=tls)
        case 2:
            return plain(name, port, endpoint, protocol="http2")
        case 3:
            here = {"address": "127.0.0.1", "port": endpoint}
            return plain(name, port, None, endpoints=[{**here, "priority": 0}, {**here, "priority": 1}])
        case _:
            return plain(name, port, endpoint)


async def test_twenty_swaps_under_load_fail_no_request(system: System, tmp_path: Path) -> None:
    """An explicit outbound moves to a new service and the old one is deleted, while another service changes endpoint,
    TLS and protocol in place: clients on kept and on fresh connections get an answer to every request.
    """
    issuer = Issuer("swaps")
    pair, port = issuer.issue(NAME, x509.DNSName(NAME)), BASE_PORT + 91
    planes = Planes(system, "east")
    with Servers() as servers:

        def resources(number: int) -> list[dict[str, Any]]:
            context = server_context(tmp_path, pair) if number % 4 == 1 else None
            there = servers.add(f"generation-{number}", context).port
            names = ((f"swap-{number}", 8801), ("swap-busy", 8802))
            return [swapped(name, at, number, there, issuer.pem) for name, at in names]

        await planes.apply(*resources(0))
        await ready(system, "swap-0", "swap-busy")
        await planes.lead(port, "swap-0")
        places = {"outbound": ("127.0.0.1", port), "vip": (await vip(system, "swap-busy"), 8802)}
        for host, at in places.values():
            await eventually(lambda h=host, p=at: reached(h, p), bool, "an answer", WITHIN_SECONDS)  # type: ignore[misc]
        async with calls(places) as seen:
            for number in range(1, SWAPS + 1):
                await planes.apply(*resources(number))
                await planes.known(f"swap-{number}")
                await planes.lead(port, f"swap-{number}")
                await planes.delete(f"swap-{number - 1}")
                for place in places:
                    await seen.until(place, f"generation-{number}")
        await planes.close()
    print(f"{seen.answers} answers on {seen.reopened} connections, {len(seen.failures)} failures")
    assert seen.failures == []


async def reached(host: str, port: int) -> bool:
    try:
        return (await application.get(host, port, "x")).status == 200
    except (OSError, TimeoutError):
        return False
