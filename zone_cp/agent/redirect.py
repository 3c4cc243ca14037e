"""`zonal proxy redirect install|remove`: the host's outbound traffic goes to the sidecar (nftables, or iptables).

What is installed is one table (nftables) or one chain and one jump (iptables) of our own name; `install` replaces
it in one step and `remove` takes exactly that away. IPv4 only, as VIPs are (decision 15). The proxy's own user is
excluded, or its connections would come back to it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from ipaddress import IPv4Network
from typing import Literal, TypeAlias

import msgspec

from shared.process.exit_code import ExitCode

TABLE = "zonal_redirect"
CHAIN = "ZONAL_REDIRECT"
PRIORITY = -100
"""dstnat, the usual place of such rules."""
COMMAND_SECONDS = 15
LOOPBACK = "127.0.0.0/8"

Tool: TypeAlias = Literal["nft", "iptables"]


class RedirectFailed(Exception):
    """The rules could not be changed; the message says why and what would help."""


class Redirect(msgspec.Struct, frozen=True):
    """What goes where.

    proxy_uid: the user that the sidecar and its agent run as; its traffic is left alone.
    outbound_port: the sidecar's original-destination listener (`transparentProxying.redirectPortOutbound`).
    ranges: only these destinations (the VIP ranges); empty: every destination off this host.
    dns_port: where the agent answers; UDP and TCP 53 go there, 0: DNS is left alone.
    exclude_ranges, exclude_ports: destinations that are left alone in any case.
    """

    proxy_uid: int
    outbound_port: int = 15001
    ranges: tuple[str, ...] = ()
    dns_port: int = 15053
    exclude_ranges: tuple[str, ...] = ()
    exclude_ports: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for what is no range, port or user id."""
        for text in (*self.ranges, *self.exclude_ranges):
            IPv4Network(text)
        for port in (self.outbound_port, *self.exclude_ports):
            if not 0 < port < 1 << 16:
                raise ValueError(f"{port} is not a port")
        if not 0 <= self.dns_port < 1 << 16:
            raise ValueError(f"{self.dns_port} is not a port")
        if self.proxy_uid < 0:
            raise ValueError(f"{self.proxy_uid} is not a user id")


def run(action: str, *, user: str | None, port: int, dns_port: int, cidr: str) -> int:
    """The command: install or remove, said in one line on stdout.

    user: name or id of the proxy's own user, None: whoever calls. cidr: ranges with commas, "" for all destinations.
    """
    try:
        if action == "remove":
            sys.stdout.write("removed\n" if remove() else "nothing was installed\n")
            return ExitCode.OK
        ranges = tuple(word.strip() for word in cidr.split(",") if word.strip())
        redirect = Redirect(proxy_uid=_uid(user), outbound_port=port, ranges=ranges, dns_port=dns_port)
        sys.stdout.write(f"installed with {install(redirect)}, user {redirect.proxy_uid} excluded\n")
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.REFUSED
    except RedirectFailed as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.FAILED
    return ExitCode.OK


def _uid(user: str | None) -> int:
    if user is None:
        return os.geteuid()
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ValueError(f"there is no user {user} on this host") from None


def install(redirect: Redirect, tool: Tool | None = None) -> Tool:
    """Put the rules in place, instead of any that were installed before. Raises RedirectFailed."""
    tool = tool or available()
    if tool == "nft":
        _run(["nft", "-f", "-"], nft_rules(redirect))
    else:
        remove("iptables")
        try:
            _run(["iptables-restore", "--noflush", "--wait"], iptables_rules(redirect))
        except RedirectFailed:
            remove("iptables")
            raise
    return tool


def remove(tool: Tool | None = None) -> bool:
    """Take away what `install` put in place, whichever tool it used; False: there was nothing."""
    tools: tuple[Tool, ...] = (tool,) if tool else tuple(one for one in _TOOLS if shutil.which(one))
    if not tools:
        available()
    removed = [_REMOVERS[one]() for one in tools]  # each of them, not only until the first that had something
    return any(removed)


def available() -> Tool:
    """The tool of this host, nft where there are both. Raises RedirectFailed."""
    for tool in _TOOLS:
        if shutil.which(tool):
            return tool
    raise RedirectFailed("neither nft nor iptables is installed; on Debian: apt-get install nftables")


def nft_rules(redirect: Redirect) -> str:
    """The whole table, as one transaction that replaces an earlier one."""
    lines = [f"meta skuid {redirect.proxy_uid} return"]
    if redirect.dns_port:  # before loopback is excluded: a resolv.conf may name 127.0.0.53
        lines += [f"{kind} dport 53 redirect to :{redirect.dns_port}" for kind in ("udp", "tcp")]
    lines += [f"ip daddr {excluded} return" for excluded in _excluded(redirect)]
    lines += [f"tcp dport {port} return" for port in redirect.exclude_ports]
    to_sidecar = f"redirect to :{redirect.outbound_port}"
    only = f"ip daddr {{ {', '.join(redirect.ranges)} }} " if redirect.ranges else ""
    lines.append(f"{only}meta l4proto tcp {to_sidecar}")
    body = "\n".join(f"    {line}" for line in lines)
    # `add` makes sure that there is something to delete; all of a file is applied at once or not at all.
    return f"""\
add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  chain output {{
    type nat hook output priority {PRIORITY}; policy accept;
{body}
  }}
}}
"""


def iptables_rules(redirect: Redirect) -> str:
    """The same for iptables-restore: a chain of ours, and the jump to it."""
    rules = [f"-m owner --uid-owner {redirect.proxy_uid} -j RETURN"]
    if redirect.dns_port:
        rules += [f"-p {kind} --dport 53 -j REDIRECT --to-ports {redirect.dns_port}" for kind in ("udp", "tcp")]
    rules += [f"-d {excluded} -j RETURN" for excluded in _excluded(redirect)]
    rules += [f"-p tcp --dport {port} -j RETURN" for port in redirect.exclude_ports]
    to_sidecar = f"-j REDIRECT --to-ports {redirect.outbound_port}"
    rules += [f"-d {one} -p tcp {to_sidecar}" for one in redirect.ranges] or [f"-p tcp {to_sidecar}"]
    appended = "\n".join(f"-A {CHAIN} {rule}" for rule in rules)
    return f"*nat\n:{CHAIN} - [0:0]\n{appended}\n-A OUTPUT -j {CHAIN}\nCOMMIT\n"


def _excluded(redirect: Redirect) -> tuple[str, ...]:
    # A VIP range inside 127/8 was asked for by name, and wins over the exclusion of loopback.
    inside = any(IPv4Network(one).subnet_of(IPv4Network(LOOPBACK)) for one in redirect.ranges)
    return (*(() if inside else (LOOPBACK,)), *redirect.exclude_ranges)


def _remove_nft() -> bool:
    if TABLE not in _run(["nft", "list", "tables", "ip"]):
        return False
    _run(["nft", "delete", "table", "ip", TABLE])
    return True


def _remove_iptables() -> bool:
    present = [line for line in _run(["iptables-save", "-t", "nat"]).splitlines() if CHAIN in line]
    if not present:
        return False
    undo = ["*nat"]
    undo += [f"-D OUTPUT -j {CHAIN}" for line in present if line == f"-A OUTPUT -j {CHAIN}"]
    _run(["iptables-restore", "--noflush", "--wait"], "\n".join([*undo, f"-F {CHAIN}", f"-X {CHAIN}", "COMMIT", ""]))
    return True


_TOOLS: tuple[Tool, ...] = ("nft", "iptables")
_REMOVERS = {"nft": _remove_nft, "iptables": _remove_iptables}


def _run(command: list[str], stdin: str = "") -> str:
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except FileNotFoundError:
        raise RedirectFailed(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise RedirectFailed(f"{command[0]} did not answer in {COMMAND_SECONDS} s") from None
    if done.returncode == 0:
        return done.stdout
    said = (done.stderr or done.stdout).strip()
    if "ermission denied" in said or "not permitted" in said or os.geteuid() != 0:
        raise RedirectFailed(f"no right to change the redirect rules: run this as root (CAP_NET_ADMIN); {said}")
    raise RedirectFailed(f"{' '.join(command)}: {said}")
