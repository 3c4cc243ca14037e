"""The transparent redirect in a network namespace of its own, with nftables and with iptables."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from zone_cp.agent.redirect import Redirect, RedirectFailed, install

pytestmark = [pytest.mark.e2e, pytest.mark.netns]

INSIDE = """
import json, socket, struct, subprocess, sys, threading
from zone_cp.agent.redirect import Redirect, install, remove

tool, said = sys.argv[1], {}
# iptables takes only users that the namespace maps; unshare maps just one: there only the proxy's own can be shown.
mapped = int(open("/proc/self/uid_map").read().split()[2])
other = 54321 if tool == "nft" or mapped > 54321 else 0
for command in (
    "link set lo up", "link add zt0 type veth peer name zt1", "addr add 10.9.0.1/24 dev zt0",
    "link set zt0 up", "link set zt1 up", "route add default via 10.9.0.2",
):
    subprocess.run(["ip", *command.split()], check=True)

def serve(sock):
    while True:
        connection, _ = sock.accept()
        port, address = struct.unpack("!2xH4s8x", connection.getsockopt(socket.SOL_IP, 80, 16))
        connection.sendall(f"{socket.inet_ntoa(address)}:{port}".encode())
        connection.close()

for port in (15001, 15053, 7000):
    threading.Thread(target=serve, args=(socket.create_server(("0.0.0.0", port)),), daemon=True).start()
dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
dns.bind(("127.0.0.1", 15053))

def answer():
    while True:
        data, client = dns.recvfrom(512)
        dns.sendto(data.upper(), client)

threading.Thread(target=answer, daemon=True).start()

def tcp(address, port):
    try:
        with socket.create_connection((address, port), timeout=0.5) as connection:
            return connection.recv(64).decode()
    except OSError:
        return None

def udp(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        try:
            client.connect((address, 53))
            client.send(b"query")
            return client.recv(64).decode()
        except OSError:
            return None

def look():
    return {
        "vip": tcp("242.0.0.5", 80), "other": tcp("203.0.113.7", 443), "loopback": tcp("127.0.0.1", 7000),
        "excluded": tcp("242.0.0.5", 9), "dns": udp("10.9.0.53"), "dns_tcp": tcp("10.9.0.53", 53),
        "dns_loopback": udp("127.0.0.53"),
    }

def rules():
    return subprocess.run(
        ["nft", "list", "ruleset"] if tool == "nft" else ["iptables-save", "-t", "nat"],
        capture_output=True, text=True, check=True,
    ).stdout

def stable(text):
    return [line for line in text.splitlines() if not line.startswith((":", "#")) and "counter" not in line]

if tool == "nft":
    subprocess.run(["nft", "-f", "-"], input="add table ip other", text=True, check=True)
else:
    subprocess.run(["iptables", "-t", "nat", "-N", "OTHER"], check=True)
before = rules()
said["nothing"] = remove(tool)
if other:
    install(Redirect(proxy_uid=other, exclude_ports=(9,)), tool)
    said["all"] = look()
    install(Redirect(proxy_uid=other, ranges=("242.0.0.0/8",), exclude_ports=(9,)), tool)
    said["ranges"] = look()
install(Redirect(proxy_uid=0, ranges=("242.0.0.0/8",)), tool)
said["proxy"] = look()
said["removed"] = remove()
said["left"] = stable(rules()) == stable(before)
said["again"] = remove(tool)
print(json.dumps(said))
"""


@pytest.mark.parametrize("tool", ["nft", "iptables"])
def test_redirect(netns_prefix: list[str], tool: str) -> None:
    """All traffic or just the VIP ranges go to the sidecar, DNS to the agent, the proxy's own to where it is meant."""
    if not shutil.which(tool):
        pytest.skip(f"needs {tool}")
    namespace = netns_prefix or ["unshare", "-n"]
    command = [*namespace, sys.executable, "-c", INSIDE, tool]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    to_agent = {"dns": "QUERY", "dns_tcp": "10.9.0.53:53", "dns_loopback": "QUERY"}
    kept = {"loopback": "127.0.0.1:7000", "excluded": None}
    if "all" in said:
        assert said["all"] == {"vip": "242.0.0.5:80", "other": "203.0.113.7:443", **kept, **to_agent}
        assert said["ranges"] == {"vip": "242.0.0.5:80", "other": None, **kept, **to_agent}
    nothing = dict.fromkeys(("vip", "other", "excluded", "dns", "dns_tcp", "dns_loopback"))
    assert said["proxy"] == {**nothing, "loopback": "127.0.0.1:7000"}
    assert (said["nothing"], said["removed"], said["left"], said["again"]) == (False, True, True, False)


def test_without_rights(netns_prefix: list[str]) -> None:
    """Without the right to change rules the error says what is missing."""
    if netns_prefix or not shutil.which("setpriv"):
        with pytest.raises(RedirectFailed, match="root"):
            install(Redirect(proxy_uid=os.getuid()), "nft")
        return
    attempt = "from zone_cp.agent.redirect import *\ninstall(Redirect(proxy_uid=1), 'nft')"
    done = subprocess.run(
        [
            "unshare",
            "-n",
            "setpriv",
            "--bounding-set=-net_admin",
            "--inh-caps=-net_admin",
            sys.executable,
            "-c",
            attempt,
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "run this as root (CAP_NET_ADMIN)" in done.stderr
