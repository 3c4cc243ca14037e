"""Real Envoys for tests: one process per proxy, fed by a delta ADS server, ended by their own pid."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

ENVOY = Path(sys.prefix) / "bin" / "envoy"


def bootstrap(node: str, admin_port: int, ads_port: int) -> dict[str, Any]:
    """A bootstrap whose every resource comes from ADS."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": ads_port}}
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    kind = f"type.googleapis.com/{options}"
    cluster = {
        "name": "ads",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            options: {"@type": kind, "explicit_http_config": {"http2_protocol_options": {}}}
        },
        "load_assignment": {
            "cluster_name": "ads",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    source = {"ads": {}, "resource_api_version": "V3"}
    service = {"envoy_grpc": {"cluster_name": "ads"}}
    return {
        "node": {"id": node, "cluster": "test"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}},
        "static_resources": {"clusters": [cluster]},
        "bootstrap_extensions": [
            {
                "name": "envoy.bootstrap.internal_listener",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
                },
            }
        ],
        "dynamic_resources": {
            "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [service]},
            "cds_config": source,
            "lds_config": source,
        },
    }


class Envoy:
    """One Envoy; `stop` ends it, and the end of the process that started it does at the latest: one that is left over
    would go on asking for configuration at a port that the next test may serve.
    """

    def __init__(
        self, directory: Path, node: str, admin_port: int, ads_port: int, extra: dict[str, Any] | None = None
    ) -> None:
        self.admin_port = admin_port
        config = directory / f"{node}.json"
        config.write_text(json.dumps(bootstrap(node, admin_port, ads_port) | (extra or {})))
        self.log = directory / f"{node}.log"
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                [
                    *(ENVOY, "-c", config, "--concurrency", "1", "-l", "info", "--disable-hot-restart"),
                    *("--drain-time-s", "1", "--drain-strategy", "immediate", "--file-flush-interval-msec", "50"),
                ],
                stdout=out,
                stderr=out,
            )
        atexit.register(self.stop)

    def stop(self) -> None:
        """End it and wait for the end."""
        atexit.unregister(self.stop)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def admin(self, path: str) -> str:
        """An answer of the admin interface, "" while there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as answer:
                return answer.read().decode()  # type: ignore[no-any-return]
        except (urllib.error.URLError, OSError):
            return ""

    def listens(self, name: str) -> bool:
        """Whether a listener is active and takes connections. `name` may be the beginning of one, up to a slash."""
        listed = self.admin("/listeners").splitlines()
        if not any(line.startswith(name if name.endswith("/") else f"{name}::") for line in listed):
            return False
        started = "listener_manager.workers_started"  # listeners of the beginning are listed before
        return f"{started}: 1" in self.admin(f"/stats?filter={started}")


def eventually(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """The first true value of `condition`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def get(host: str, port: int, headers: dict[str, str] | None = None, path: str = "/") -> tuple[int, str]:
    """One GET: status and body; (0, why) when there is no answer."""
    connection = HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path, headers=headers or {})
        answer: HTTPResponse = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError as fault:
        return 0, str(fault)
    finally:
        connection.close()
