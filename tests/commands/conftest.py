"""A command line pointed at a tiny API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from shared import cli
from tests.commands.api import Api, served


class Outcome(msgspec.Struct, frozen=True):
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Zonal = Callable[..., Outcome]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The API that commands of this test talk to, with the token "abc"."""
    with served() as found:
        token = tmp_path / "token"
        token.write_text("abc\n")
        monkeypatch.delenv("ZONAL_CONTEXT", raising=False)
        monkeypatch.setenv("ZONAL_API", found.url)
        monkeypatch.setenv("ZONAL_TOKEN_FILE", str(token))
        yield found


@pytest.fixture
def zonal(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zonal:
    """Runs one command line in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = cli.run(arguments)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
