"""What an agent is given and where it keeps its files: read and checked before anything is started."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from shared.model.builtin import is_builtin
from shared.model.manifest import parse
from shared.model.resource import Dataplane, ZoneEgress
from zone_cp.agent.bootstrap import token_secret
from zone_cp.agent.dns_table import store

SYSTEM_CA_PATHS = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL 6
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/pki/tls/cacert.pem",  # OpenELEC
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # RHEL 7 and later
    "/etc/ssl/cert.pem",  # Alpine without the package, the BSDs
)


class InputRefused(Exception):
    """What the user gave cannot be used; the message says which and why, one fault per line."""


def read_resource(kind: Literal["sidecar", "egress", "gateway"], text: str, path: str) -> Dataplane | ZoneEgress:
    """The proxy's resource from YAML text or, when that is empty, from a file. Raises InputRefused.

    A text of one line that names a file is taken for the file: Kuma's `--dataplane-file` by its shorter name.
    """
    wanted = ZoneEgress if kind == "egress" else Dataplane
    if text and "\n" not in text and ": " not in text:
        text, path = "", text
    if not text and not path:
        raise InputRefused(f"a {kind} needs its {wanted.__name__}: give --dataplane or --dataplane-file")
    try:
        text, path = (text, "--dataplane") if text else (Path(path).read_text(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused(f"{path}: {error}") from None
    parsed = parse(text, path)
    if parsed.faults:
        raise InputRefused("\n".join(str(fault) for fault in parsed.faults))
    match parsed.documents:
        case (document,) if isinstance(document.resource, wanted):
            _check_gateway(kind, document.resource, path)
            return document.resource
        case _:
            found = ", ".join(type(document.resource).__name__ for document in parsed.documents) or "nothing"
            raise InputRefused(f"{path}: a {kind} is described by one {wanted.__name__}, found {found}")


def _check_gateway(kind: str, resource: Dataplane | ZoneEgress, path: str) -> None:
    builtin = isinstance(resource, Dataplane) and is_builtin(resource)
    if kind == "gateway" and not builtin:
        raise InputRefused(f"{path}: networking.gateway: a gateway's Dataplane says type: BUILTIN here, with its tags")
    if kind == "sidecar" and builtin:
        raise InputRefused(f"{path}: networking.gateway: {resource.name} is a builtin gateway; run zonal proxy gateway")


def read_token(path: str) -> str:
    """The dataplane token of a file. Raises InputRefused, which never shows the token."""
    try:
        token = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused(f"dataplane token {path}: {error}") from None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputRefused(f"dataplane token {path}: is not one line of printable characters")
    return token


def find_system_ca(given: str) -> str:
    """The operating system's trusted CAs: as given, else where distributions keep them, else "" (decision 7)."""
    return given or next((path for path in SYSTEM_CA_PATHS if os.access(path, os.R_OK)), "")


class Workplace:
    """The directory of one agent, readable for its owner alone, held by a lock while the agent runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.bootstrap = self.directory / "bootstrap.json"
        self.token_secret = self.directory / "token.json"
        self.admin_address = self.directory / "admin.address"
        self.access_log = self.directory / "access.log"
        self.dns_table = self.directory / "dns.json"
        self.ready = self.directory / "ready.json"
        self._lock = -1

    def open(self) -> None:
        """Make the directory and take its lock. Raises InputRefused while another agent runs in it, OSError."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise InputRefused(f"{self.directory}: another agent runs here; give each its own --workdir") from None
        self.ready.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the directory; nothing secret stays in it."""
        for path in (self.ready, self.token_secret, self.admin_address):
            path.unlink(missing_ok=True)
        os.close(self._lock)


class Token:
    """A token file that may be renewed in place, and Envoy's secret made of it."""

    def __init__(self, path: str, secret: Path, *, read: Callable[[str], str] = read_token) -> None:
        self._path, self._secret, self._read = path, secret, read
        self._current = ""

    def refresh(self) -> str:
        """The token now; Envoy's copy follows by an atomic rename, which is what it watches. Raises InputRefused."""
        token = self._read(self._path)
        if token != self._current:
            store(self._secret, token_secret(token))  # mkstemp: mode 0600 from the start
            self._current = token
        return token
