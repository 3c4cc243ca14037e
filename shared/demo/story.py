"""The demo's story, step by step, every step checked on real parts (issue A, lines 3 to 9)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from shared.demo import application, gateway_chapter, manifests
from shared.demo.looking import eventually
from shared.demo.narration import Narrator, Step, StepFailed
from shared.demo.placement import ZONES
from shared.demo.system import System

SERVICES = ("web", "payments", "ledger")


class Story:
    """Tells the story of one System."""

    def __init__(self, system: System, narrator: Narrator) -> None:
        self._system = system
        self._narrator = narrator
        self._before_move = 0
        self._after_move = 0

    async def tell(self) -> None:
        """All steps in order; the first false check raises StepFailed."""
        for title, step in self.steps():
            with self._narrator.step(title) as now:
                await step(now)

    def steps(self) -> list[tuple[str, Callable[[Step], Awaitable[None]]]]:
        """Title and check of every step."""
        return [
            ("One file declares the mesh, its secrets and three external services", self._declare),
            ("Each zone gives them names of its own", self._zone_names),
            ("Applications call by name, in plaintext; it leaves as verified TLS", self._traffic),
            ("An endpoint moves", self._move),
            ("Bad input changes nothing", self._bad_input),
            ("A wrong CA closes one destination, and says why", self._wrong_ca),
            ("The mesh forbids external access, and allows it again", self._forbid),
            ("Gateways let clients in that know nothing of the mesh", self._gateways),
            ("West is cut off from global and keeps working", self._cut),
            ("The log answers with the control planes stopped", self._history),
        ]

    async def prologue(self) -> None:
        """Only the beginning: what `zonal up` leaves running."""
        with self._narrator.step("Declare the mesh, its secrets and three external services") as now:
            await self._declare(now)
        with self._narrator.step("Give them names of their own in each zone") as now:
            await self._zone_names(now)

    # --- looking ------------------------------------------------------------------------------------------

    async def _call(self, zone: str, hostname: str, port: int, path: str = "/") -> application.Answer:
        return await self._system.get(zone, await self._system.resolve(zone, hostname), port, hostname, path)

    def _payments(self, name: str, port: int) -> Path:
        return self._system.write(name, manifests.payments(port, self._system.services.host))

    async def _rows(self, zone: str) -> dict[str, dict[str, Any]]:
        listed = await self._system.api("GET", "/status/meshexternalservices")
        return {row["name"]: row for row in listed["items"] if row["zone"] == zone}

    async def _answers(self, zone: str, hostname: str, port: int, wanted: Callable[[application.Answer], bool],
                       expected: str) -> application.Answer:  # fmt: skip
        return await eventually(lambda: self._call(zone, hostname, port), wanted, expected)

    # --- the steps ----------------------------------------------------------------------------------------

    async def _declare(self, step: Step) -> None:
        system = self._system
        text = manifests.everything(system.certificates, system.services)
        code, out, err = await system.cli("apply", "-f", str(system.write("everything.yaml", text)))
        step.check("zonal apply accepts the file", _last_line(out) or "exit 0", ok=code == 0 or _fail(out + err))
        for zone in ZONES:
            await eventually(
                lambda zone=zone: self._rows(zone),  # type: ignore[misc]
                lambda rows: all(rows[name]["vip"] and rows[name]["hostnames"] for name in SERVICES),
                f"{zone} leases a VIP and claims a hostname for each",
            )
            step.check(f"{zone} leased a VIP and claimed a hostname for each", "3 resources", ok=True)

    async def _zone_names(self, step: Step) -> None:
        for zone in ZONES:
            path = self._system.write(f"{zone}-names.yaml", manifests.ZONE_GENERATOR.format(zone=zone))
            code, out, err = await self._system.cli("apply", "--zone", zone, "-f", str(path), at=zone)
            step.check(
                f"{zone} accepts a HostnameGenerator of its own", f"exit {code}", ok=code == 0 or _fail(out + err)
            )
        for zone in ZONES:
            wanted = f"payments.{zone}.mesh"
            rows = await eventually(
                lambda zone=zone: self._rows(zone),  # type: ignore[misc]
                lambda rows, wanted=wanted: (
                    wanted in rows["payments"]["hostnames"]  # type: ignore[misc]
                    and all(_ready(rows[name]) for name in SERVICES)  # others are what somebody played with
                ),
                f"{wanted} exists in {zone} and all are ready",
            )
            step.check(f"{wanted} exists in {zone} only", ", ".join(rows["payments"]["hostnames"]), ok=True)
        step.show(await self._table())

    async def _table(self) -> Table:
        # Names are for copying: where there is no room for them they go on in the next line.
        names = Column("hostnames", overflow="fold")
        table = Table("zone", "resource", "origin", names, "VIP", "conditions", box=None, pad_edge=False)
        for zone in ZONES:
            for name, row in sorted((await self._rows(zone)).items()):
                conditions = " ".join(
                    f"{'✓' if one['status'] == 'True' else '✗'}{one['type']}" for one in row["conditions"]
                )
                table.add_row(zone, name, row["origin"], "\n".join(row["hostnames"]), row["vip"], conditions)
        return table

    async def _traffic(self, step: Step) -> None:
        system = self._system
        before = {zone: await self._counters(zone) for zone in ZONES}
        for zone in ZONES:
            web = await self._answers(zone, f"web.{zone}.mesh", 8080, lambda a: a.status == 200, "200 from web")
            step.check(f"{zone}: http://web.{zone}.mesh:8080 answers", f"instance {web.json['instance']}", ok=True)
            answer = await self._answers(
                zone, "payments.ext.mesh", 8443, lambda a: a.status == 200, "200 from payments"
            )
            seen = answer.json
            step.check(
                f"{zone}: payments saw the SNI and client certificate of spec.tls",
                f"{seen['tls']}, SNI {seen['sni']}, {seen['client_certificate']}",
                ok=seen["sni"] == "payments.example.test" and "zonal-demo-client" in str(seen["client_certificate"]),
            )
            ip = await system.resolve(zone, f"ledger.{zone}.mesh")
            echoed = await system.echo(zone, ip, 9000, "hello")
            step.check(f"{zone}: ledger echoes over TLS", echoed, ok=echoed == "hello")
            after = await self._counters(zone)
            moved = {name: after[name] - before[zone][name] for name in after}
            step.check(
                f"{zone}: Envoy's own counters moved on sidecar and egress",
                moved,
                ok=all(n > 0 for n in moved.values()),
            )
            await self._no_leak(step, zone)

    async def _counters(self, zone: str) -> dict[str, int]:
        counted = {}
        for name, port in (("sidecar", self._system.sidecar_admin(zone)), ("egress", self._system.egress_admin(zone))):
            stats = await self._system.admin(zone, port, "/stats?filter=upstream_rq_total|upstream_cx_total")
            lines = [line.rsplit(":", 1) for line in stats.text.splitlines() if ":" in line and ".ads." not in line]
            counted[name] = sum(int(value) for name_, value in lines if "cluster.agent" not in name_)
        return counted

    async def _no_leak(self, step: Step, zone: str) -> None:
        dump = await self._system.admin(zone, self._system.sidecar_admin(zone), "/config_dump?include_eds")
        services, ca = self._system.services, (self._system.certificates / "ca.pem").read_text()
        needles = {
            "external address": [f'"port_value": {port}' for port in (services.http, services.https, services.tcp)],
            "server name": ["payments.example.test"],
            "CA": [ca.splitlines()[1]],
            "Secret": ["payments-client-key", "payments-ca"],
        }
        found = [what for what, texts in needles.items() for text in texts if text in dump.text]
        step.check(f"{zone}: the sidecar's config dump holds no trace of spec.tls", found or "nothing", ok=not found)

    async def _move(self, step: Step) -> None:
        system = self._system
        self._before_move = (await system.api("GET", "/events?origin=global&limit=1"))["last"]
        path = self._payments("payments-moved.yaml", system.services.https_moved)
        started = time.perf_counter()
        applied = asyncio.create_task(system.cli("apply", "-f", str(path)))
        acked = asyncio.create_task(self._all_acked(self._before_move + 1, started))
        answered = await asyncio.gather(*(self._first_moved(zone, started) for zone in ZONES))
        code, out, err = await applied
        step.check("zonal apply accepts the change", f"exit {code}", ok=code == 0 or _fail(out + err))
        step.check("every Envoy ACKed it", f"{await acked} ms after the command began", ok=True)
        for zone, milliseconds in zip(ZONES, answered, strict=True):
            step.check(
                f"{zone}: the first answer came from the new endpoint",
                f"{milliseconds} ms after the command began",
                ok=True,
            )
        self._after_move = (await system.api("GET", "/events?origin=global&limit=1"))["last"]

    async def _first_moved(self, zone: str, started: float) -> int:
        moved = self._system.services.https_moved
        await self._answers(
            zone,
            "payments.ext.mesh",
            8443,
            lambda answer: answer.status == 200 and answer.json.get("instance") == moved,
            "an answer from the new endpoint",
        )
        return _milliseconds(started)

    async def _all_acked(self, sequence: int, started: float) -> int:
        await eventually(
            lambda: self._late(sequence), lambda late: not late, f"every Envoy ACKs global's event {sequence}"
        )
        return _milliseconds(started)

    async def _late(self, sequence: int) -> list[str]:
        """Proxies that have not ACKed everything up to global's event `sequence`."""
        late: list[str] = []
        for zone in ZONES:
            proxies = (await self._system.api("GET", "/proxies", zone=zone))["items"]
            late += [
                f"{zone}/{proxy['proxy']} at {proxy['acked'] or 'nothing'}"
                for proxy in proxies
                if proxy["online"] and _g(proxy["acked"]) < sequence
            ]
        return late

    async def _bad_input(self, step: Step) -> None:
        path = self._system.write("bad.yaml", manifests.BAD)
        before = (await self._system.api("GET", "/events?origin=global&limit=1"))["last"]
        code, _, err = await self._system.cli("apply", "-f", str(path))
        lines = [line for line in err.splitlines() if str(path) in line]
        for line in lines:
            step.say(line.replace(str(path), path.name))
        step.check(
            "refused with exit 3, one line per fault",
            f"exit {code}, {len(lines)} faults",
            ok=code == 3 and len(lines) >= 3,
        )
        after = (await self._system.api("GET", "/events?origin=global&limit=1"))["last"]
        step.check("nothing was applied", f"the log is still at {after}", ok=before == after)

    async def _wrong_ca(self, step: Step) -> None:
        system = self._system
        path = system.write("impostor.yaml", manifests.impostor(system.certificates, system.services))
        code, out, err = await system.cli("apply", "-f", str(path))
        step.check("zonal apply accepts it", f"exit {code}", ok=code == 0 or _fail(out + err))
        for zone in ZONES:
            await self._answers(zone, "impostor.ext.mesh", 8444, lambda a: a.status == 503, "503 from impostor")
            row = await eventually(
                lambda zone=zone: self._rows(zone),  # type: ignore[misc]
                lambda rows: "CERTIFICATE_VERIFY_FAILED" in str(rows["impostor"]["conditions"]),
                "the condition gives Envoy's own reason",
            )
            reason = next(c["message"] for c in row["impostor"]["conditions"] if "CERTIFICATE" in c["message"])
            step.check(f"{zone}: 503, and the condition gives Envoy's own reason", reason, ok=True)
            others = await self._call(zone, "payments.ext.mesh", 8443)
            step.check(f"{zone}: the others keep working", others.status, ok=others.status == 200)

    async def _forbid(self, step: Step) -> None:
        for forbid, status in ((True, 403), (False, 200)):
            path = self._system.write("mesh.yaml", manifests.mesh(forbid=forbid))
            code, out, err = await self._system.cli("apply", "-f", str(path))
            word = "forbidden" if forbid else "allowed"
            step.check(f"external access {word}", f"exit {code}", ok=code == 0 or _fail(out + err))
            for zone in ZONES:
                answer = await self._answers(
                    zone,
                    "payments.ext.mesh",
                    8443,
                    _answers_with(status),
                    f"{status}",
                )
                step.check(f"{zone}: {status}", answer.status, ok=True)

    async def _gateways(self, step: Step) -> None:
        await gateway_chapter.tell(self._system, step)

    async def _cut(self, step: Step) -> None:
        system = self._system
        link = system.link("west")
        await link.cut()
        step.say(f"the link between the hub and west is cut: {link.cut_by}")
        answer = await self._call("west", "payments.west.mesh", 8443)
        step.check("west keeps serving", answer.status, ok=answer.status == 200)
        await system.kill_sidecar("west")
        step.say("west's sidecar and its Envoy are killed and started again")
        await system.start_sidecar("west")
        answer = await self._answers(
            "west", "payments.west.mesh", 8443, lambda a: a.status == 200, "200 after the restart"
        )
        step.check("west's sidecar is back with full configuration", answer.status, ok=True)
        island = system.write("island.yaml", manifests.island(system.services))
        code, out, err = await system.cli("apply", "--zone", "west", "-f", str(island), at="west")
        step.check("west accepts a service of its own", f"exit {code}", ok=code == 0 or _fail(out + err))
        answer = await self._answers("west", "island.west.mesh", 8081, lambda a: a.status == 200, "200 from island")
        step.check("it is served in west at once", answer.status, ok=True)
        path = self._payments("payments-back.yaml", system.services.https)
        code, out, err = await system.cli("apply", "-f", str(path))
        step.check("meanwhile global moves payments back", f"exit {code}", ok=code == 0 or _fail(out + err))
        stale = await self._call("west", "payments.west.mesh", 8443)
        step.check(
            "west still serves what it knew", f"instance {stale.json.get('instance')}",
            ok=stale.json.get("instance") == system.services.https_moved,
        )  # fmt: skip
        await self._heal(step)

    async def _heal(self, step: Step) -> None:
        system = self._system
        started = time.perf_counter()
        await system.link("west").heal()
        await self._answers(
            "west", "payments.west.mesh", 8443,
            lambda a: a.json.get("instance") == system.services.https, "west follows global again",
        )  # fmt: skip
        await eventually(lambda: self._rows("west"), lambda rows: "island" in rows, "global sees west's island")
        logs = {}
        for where in ("hub", "zone"):
            zone = "west" if where == "zone" else None
            logs[where] = (await system.api("GET", "/events?origin=west&limit=1", zone=zone))["last"]
        await eventually(self._same_logs, lambda pair: pair[0] == pair[1], "hub and west hold the same log of west")
        step.check(
            "both sides converged, nothing lost or applied twice",
            f"{round((time.perf_counter() - started) * 1000)} ms from heal to convergence",
            ok=True,
        )

    async def _same_logs(self) -> tuple[list[str], list[str]]:
        pair = []
        for zone in (None, "west"):
            listed = await self._system.api("GET", "/events?origin=west&after=0&limit=1000", zone=zone)
            pair.append([event["id"] for event in listed["items"]])
        return pair[0], pair[1]

    async def _history(self, step: Step) -> None:
        system = self._system
        await system.stop_control_planes()
        step.say("both zone control planes, global and the hub are stopped; a copy of the hub's store is opened")
        store, egress = ["--store", str(system.hub_store)], system.egress_proxy("east")
        code, out, err = await system.cli(
            "replay", "--at", str(self._before_move), "--zone", "east", "--proxy", egress, "-o", "json", *store
        )
        old, new = system.services.https, system.services.https_moved
        shown = code == 0 and f" {old}" in out and str(new) not in out
        step.check(
            f"zonal replay --at {self._before_move} shows the endpoint before it moved",
            f"port {old}",
            ok=shown or _fail(out[-600:] + err),
        )
        code, out, err = await system.cli(
            "diff", str(self._before_move), str(self._after_move), "--zone", "east", "--proxy", egress, *store
        )
        step.show(out.strip())
        right = code == 0 and str(old) in out and str(new) in out and "web" not in out
        step.check(
            "zonal diff shows the endpoint that changed, and only it", f"{old} → {new}", ok=right or _fail(out + err)
        )
        code, out, err = await system.cli(
            "explain", egress, "payments", "--zone", "east", "--at", str(self._after_move), *store
        )
        step.show(out.strip())
        named = code == 0 and f"event {self._after_move} by admin at " in out
        step.check(
            "zonal explain names the event, its author and time",
            f"event {self._after_move} by admin",
            ok=named or _fail(out + err),
        )


def _answers_with(status: int) -> Callable[[application.Answer], bool]:
    return lambda answer: answer.status == status


def _fail(seen: str) -> bool:
    raise StepFailed("success", seen.strip())


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""


def _milliseconds(since: float) -> int:
    return round((time.perf_counter() - since) * 1000)


def _g(acked: str) -> int:
    """Global's sequence in a position such as g12.z34; 0 when nothing is ACKed."""
    return int(acked.removeprefix("g").partition(".")[0] or 0)


def _ready(row: dict[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in row["conditions"])
