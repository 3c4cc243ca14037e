"""What the story tells beyond the plain one where each zone is a network namespace with a redirect."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from typing import Any

from shared.demo import manifests
from shared.demo.looking import eventually
from shared.demo.narration import Step
from shared.demo.placement import OUTSIDE, ZONES, User
from shared.demo.story import Story

CURL_SECONDS = "5"
_NAMED = (
    ("dynamic_listeners", "name"),
    ("dynamic_active_clusters", "cluster.name"),
    ("dynamic_route_configs", "route_config.name"),
    ("dynamic_active_secrets", "name"),
    ("dynamic_endpoint_configs", "endpoint_config.cluster_name"),
)
"""Where a config dump lists what came over xDS, and where the name stands in it."""


class NamespaceStory(Story):
    """The story of a System in network namespaces."""

    def steps(self) -> list[tuple[str, Callable[[Step], Awaitable[None]]]]:
        """The plain story's, with three more once there is traffic and one at the end."""
        plain = super().steps()
        return [
            *plain[:3],
            ("The same VIP in both zones; plain curl by hostname", self._curl),
            ("Only the zone egress reaches the outside", self._outside),
            ("A new service adds nothing to a sidecar", self._constant),
            *plain[3:],
            ("The redirect goes as it came", self._remove),
        ]

    async def _run(self, zone: str, *argv: str, user: User | None = None) -> tuple[int, str, str]:
        # No settings of any kind reach the application: not even a proxy's from this terminal.
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        return await self._system.run(zone, argv, user=user, environment=environment)

    async def _fetch(self, zone: str, url: str, user: User | None = None) -> tuple[int, dict[str, Any]]:
        """(curl's exit code, the answer's body)."""
        code, out, _ = await self._run(zone, "curl", "-sS", "--fail", "--max-time", CURL_SECONDS, url, user=user)
        return code, json.loads(out) if code == 0 else {}

    async def _curl(self, step: Step) -> None:
        rows = {zone: await self._rows(zone) for zone in ZONES}
        east, west = ({name: row["vip"] for name, row in rows[zone].items()} for zone in ZONES)
        step.check("every service has the same VIP in both zones", east, ok=east == west and len(east) == 3)
        for zone in ZONES:
            inside = all(IPv4Address(vip) in self._system.placement.vip_range(zone) for vip in east.values())
            step.check(f"{zone}: they lie in {self._system.placement.vip_range(zone)}", "all", ok=inside)
            _, out, err = await self._run(zone, "getent", "ahostsv4", "payments.ext.mesh")
            found = out.split()[0] if out else err
            step.check(f"{zone}: getaddrinfo finds the VIP, by resolv.conf", found, ok=found == east["payments"])
            for url in ("http://payments.ext.mesh:8443/", f"http://web.{zone}.mesh:8080/"):
                code, answer = await self._fetch(zone, url)
                step.check(f"{zone}: curl {url}", f"instance {answer.get('instance')}", ok=code == 0)

    async def _outside(self, step: Step) -> None:
        services = self._system.services
        url = f"http://{services.host}:{services.http}/"
        for zone in ZONES:
            _, seen = await self._fetch(zone, f"http://web.{zone}.mesh:8080/")
            code, direct = await self._fetch(zone, url, "egress")
            same = code == 0 and seen["peer"] == direct["peer"]
            step.check(f"{zone}: the outside is called from the egress's address", seen["peer"], ok=same)
            for who in (None, "sidecar"):
                code, _ = await self._fetch(zone, url, who)
                step.check(f"{zone}: {who or 'the application'} has no way there", f"curl exit {code}", ok=code != 0)
        hosts = [self._system.deployment.host(zone) for zone in ZONES]
        for host, zone in zip(hosts, ZONES, strict=True):
            code, _ = await self._fetch(OUTSIDE, f"http://{host}:{self._system.zone_ports[zone].api}/")
            step.check(f"{zone}: and the outside has no way in", f"curl exit {code}", ok=code != 0)

    async def _constant(self, step: Step) -> None:
        before = {zone: await self._resources(zone) for zone in ZONES}
        path = self._system.write("catalog.yaml", manifests.catalog(self._system.services))
        code, out, err = await self._system.cli("apply", "-f", str(path))
        step.check("zonal apply accepts a further service", f"exit {code} {out}{err}".strip(), ok=code == 0)
        for zone in ZONES:
            await eventually(
                lambda zone=zone: self._fetch(zone, "http://catalog.ext.mesh:8082/"),  # type: ignore[misc]
                lambda fetched: fetched[0] == 0,
                "an answer from catalog",
            )
            step.check(f"{zone}: curl http://catalog.ext.mesh:8082/", "200", ok=True)
            # Only what came counts: a route of the time before the mesh had mTLS may still be draining.
            after = await self._resources(zone)
            added = sorted(after - before[zone])
            step.check(f"{zone}: its sidecar got no xDS resource for it", added or f"{len(after)} in all", ok=not added)

    async def _remove(self, step: Step) -> None:
        for zone in ZONES:
            _, out, err = await self._run(zone, "nft", "list", "tables")
            step.check(f"{zone}: the redirect is in place", out.strip() or err, ok="zonal" in out)
            code, out, err = await self._system.cli("proxy", "redirect", "remove", at=zone)
            step.check(f"{zone}: zonal proxy redirect remove", (out + err).strip(), ok=code == 0)
            _, out, err = await self._run(zone, "nft", "list", "tables")
            step.check(f"{zone}: no rule is left", (out + err).strip() or "nothing", ok=not out + err)

    async def _resources(self, zone: str) -> set[str]:
        """Names of all that the zone's sidecar got over xDS."""
        dump = await self._system.admin(zone, self._system.sidecar_admin(zone), "/config_dump?include_eds")
        found = set()
        for section in dump.json["configs"]:
            for field, path in _NAMED:
                for item in section.get(field, ()):
                    value: Any = item
                    for key in path.split("."):
                        value = value[key]
                    found.add(f"{field} {value}")
        return found
