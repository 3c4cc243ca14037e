"""The demo's places as network namespaces: one for global, one per zone, one for the outside world. Needs root.

    outside (10.66.0.1) ──┬── zone east (10.65.1.2) ──┬── global (10.65.0.1)
                          └── zone west (10.65.2.2) ──┘

Each line is a veth pair, and every interface lies inside our namespaces: the host's own network is not touched.
Cutting a zone off takes its link to global down; the one to the outside stays, as it would in the world. Within
a zone only the egress's user has a route to the outside, and the redirect excludes the sidecar's user.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Network
from pathlib import Path

from shared.demo.placement import OUTSIDE, ZONES, Cuttable, User
from shared.events.event import GLOBAL

GLOBAL_HOST = "10.65.0.1"
OUTSIDE_HOST = "10.66.0.1"
VIP_RANGE = IPv4Network("242.0.0.0/8")
LEGACY_RANGE = IPv4Network("248.0.0.0/5")
UIDS: dict[User, int] = {"sidecar": 5678, "egress": 5679, "gateway": 5680}
"""Need no account. 5678 is the usual user of a sidecar."""

_TOOLS = {"ip": "iproute2", "nft": "nftables", "curl": "curl", "setpriv": "util-linux"}
_NAMESPACES = Path("/run/netns")
_CONFIGURATION = Path("/etc/netns")
"""`ip netns exec` shows /etc/netns/<name>/resolv.conf as /etc/resolv.conf."""
_RESOLV_CONF = "# The sidecar's DNS: port 53 is redirected to the proxy agent.\nnameserver 127.0.0.1\n"
_TABLE = 200
_CLONE_NEWNET = 0x40000000
_COMMAND_SECONDS = 15
_END_SECONDS = 5


class Unavailable(Exception):
    """Network namespaces cannot be used here; the message says what is missing."""


class Namespaces:
    """The placement in network namespaces. Their names hold the base port, so that systems run side by side."""

    transparent = True
    outside_host = OUTSIDE_HOST

    def __init__(self, base_port: int) -> None:
        self.hosts: Mapping[str, str] = {GLOBAL: GLOBAL_HOST, **{zone: _addresses(zone)[0][1] for zone in ZONES}}
        self._names = {place: f"zonal-{base_port}-{place}" for place in (GLOBAL, OUTSIDE, *ZONES)}

    # --- making and taking away ---------------------------------------------------------------------------

    def open(self) -> None:
        """Make namespaces, links and resolv.conf, instead of what a killed run left. Raises Unavailable."""
        self._check()
        self._take_away()
        try:
            for place in self._names:
                _ip("netns", "add", self._names[place])
                self._ip(place, "link", "set", "lo", "up")
            for place, host in ((GLOBAL, GLOBAL_HOST), (OUTSIDE, OUTSIDE_HOST)):
                self._ip(place, "address", "add", f"{host}/32", "dev", "lo")
            for zone in ZONES:
                self._connect(zone)
                directory = _CONFIGURATION / self._names[zone]
                directory.mkdir(parents=True, exist_ok=True)
                (directory / "resolv.conf").write_text(_RESOLV_CONF)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise Unavailable(str(error)) from error
            raise

    def close(self) -> None:
        """End what still runs in the namespaces and take them away, with links and rules in them."""
        for name in self._names.values():
            if (_NAMESPACES / name).exists():
                _end(name)
        self._take_away()

    def _check(self) -> None:
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
        missing = [package for tool, package in _TOOLS.items() if not shutil.which(tool)]
        if missing:
            raise Unavailable(f"missing on this machine: apt-get install {' '.join(missing)}")
        if os.geteuid() != 0:
            raise Unavailable("network namespaces need root: run this with sudo, or `zonal demo` without --netns")
        for name in self._names.values():
            if (_NAMESPACES / name).exists() and _pids(name):
                raise Unavailable(f"processes run in the namespace {name}: choose another --base-port")

    def _take_away(self) -> None:
        for name in self._names.values():
            if (_NAMESPACES / name).exists():
                _ip("netns", "delete", name)
            shutil.rmtree(_CONFIGURATION / name, ignore_errors=True)
        with suppress(OSError):  # not there, or not ours alone
            _CONFIGURATION.rmdir()

    def _connect(self, zone: str) -> None:
        inner, outer = _addresses(zone)
        for place, host, (gateway, address) in ((GLOBAL, GLOBAL_HOST, inner), (OUTSIDE, OUTSIDE_HOST, outer)):
            far, near = self._names[place], self._names[zone]
            _ip("link", "add", zone, "netns", far, "type", "veth", "peer", "name", place, "netns", near)
            for end, name, own in ((place, zone, gateway), (zone, place, address)):
                self._ip(end, "address", "add", f"{own}/30", "dev", name)
                self._ip(end, "link", "set", "dev", name, "up")
            if place == GLOBAL:
                self._ip(zone, "route", "add", host, "via", gateway)
            else:
                uid = UIDS["egress"]
                self._ip(zone, "rule", "add", "uidrange", f"{uid}-{uid}", "lookup", str(_TABLE))
                self._ip(zone, "route", "add", host, "via", gateway, "table", str(_TABLE))
        # Without a route of its own, a connection to a VIP would fail before the redirect sees it.
        self._ip(zone, "route", "add", str(VIP_RANGE), "dev", "lo")

    def _ip(self, place: str, *arguments: str) -> None:
        _ip("-netns", self._names[place], *arguments)

    # --- using --------------------------------------------------------------------------------------------

    def vip_range(self, zone: str) -> IPv4Network:
        """The real range, the same in every zone."""
        return VIP_RANGE

    def legacy_range(self, zone: str) -> IPv4Network:
        """Of 240.0.0.0/4 what no other kind has."""
        return LEGACY_RANGE

    def argv(self, place: str, argv: Sequence[str], *, user: User | None = None) -> list[str]:
        """`ip netns exec`, and `setpriv` for a proxy's user."""
        prefix = ["ip", "netns", "exec", self._names[place]]
        if user is not None:
            uid = str(UIDS[user])
            # Interpreter and checkout may lie where only root may look (/root), so the right to read comes along.
            # Changing the user makes the kernel forget the signal at the parent's death: it is set again.
            prefix += ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--pdeathsig", "TERM"]
            prefix += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        return [*prefix, *argv]

    def uid(self, user: User) -> str:
        """Each kind of proxy has a user of its own."""
        return str(UIDS[user])

    def own(self, path: str, user: User) -> None:
        """Give a file or directory to a proxy's user."""
        os.chown(path, UIDS[user], UIDS[user])

    def socket(self, place: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """A socket stays in the namespace that its thread was in when it was made."""
        with _inside(_NAMESPACES / self._names[place]):
            return socket.socket(socket.AF_INET, kind)

    def link(self, zone: str) -> Cuttable:
        """The veth pair between global and the zone."""
        return VethLink(self._names[GLOBAL], zone)


class VethLink:
    """A link by its end in global's namespace."""

    def __init__(self, namespace: str, device: str) -> None:
        self.cut_by = f"ip -netns {namespace} link set dev {device} down"
        self._namespace = namespace
        self._device = device

    async def cut(self) -> None:
        """Take it down: packets are lost, and nobody is told, as when a cable is pulled."""
        _ip("-netns", self._namespace, "link", "set", "dev", self._device, "down")

    async def heal(self) -> None:
        """Take it up."""
        _ip("-netns", self._namespace, "link", "set", "dev", self._device, "up")


def _addresses(zone: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """(far end, zone's end) of the link to global and of the one to the outside."""
    number = ZONES.index(zone) + 1
    return (f"10.65.{number}.1", f"10.65.{number}.2"), (f"10.66.{number}.1", f"10.66.{number}.2")


def _ip(*arguments: str) -> str:
    command = ["ip", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(command)}: no answer in {_COMMAND_SECONDS} s") from None
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _pids(namespace: str) -> list[int]:
    return [int(word) for word in _ip("netns", "pids", namespace).split()]


def _end(namespace: str) -> None:
    """End what an interrupted stop left: only our own processes are in a namespace that we made."""
    deadline = time.monotonic() + _END_SECONDS
    while (pids := _pids(namespace)) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


@contextmanager
def _inside(namespace: Path) -> Iterator[None]:
    with Path("/proc/thread-self/ns/net").open() as home, namespace.open() as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(descriptor: int) -> None:
    # os.setns came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
