"""Where a command finds its control plane."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.commands.context import DEFAULT_API, Context, Target, load, target
from shared.commands.failure import CommandFailed
from shared.process.exit_code import ExitCode

FILE = """
api: http://127.0.0.1:7000/
token_file: admin.token
zones:
  east: {api: "http://127.0.0.1:7010"}
"""


def written(directory: Path, text: str = FILE) -> Path:
    file = directory / ".zonal" / "context.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    (file.parent / "admin.token").write_text("abc\n")
    return file


def test_without_anything_the_default_is_called(tmp_path: Path) -> None:
    """With no file and no variable a command calls global on this host, without a token."""
    context = load({}, tmp_path, None)
    assert target(context, api=None, token_file=None, zone=None) == Target(DEFAULT_API, "")


def test_the_working_directory_goes_before_home(tmp_path: Path) -> None:
    """A context file beside the work wins over the one at home; paths in it are relative to it."""
    here, home = tmp_path / "here", tmp_path / "home"
    written(here)
    written(home, "api: http://home\n")
    context = load({}, here, home)
    assert target(context, api=None, token_file=None, zone=None) == Target("http://127.0.0.1:7000", "abc")
    assert load({}, tmp_path, home).api == "http://home"


def test_variables_beat_the_file_and_flags_beat_variables(tmp_path: Path) -> None:
    """ZONAL_API and ZONAL_TOKEN_FILE win over the file, --api and --token-file over all."""
    file = written(tmp_path)
    token = tmp_path / "other"
    token.write_text("other")
    context = load({"ZONAL_API": "http://variable", "ZONAL_TOKEN_FILE": str(token)}, tmp_path, None)
    assert target(context, api=None, token_file=None, zone=None) == Target("http://variable", "other")
    flagged = target(context, api="http://flag", token_file=str(file.parent / "admin.token"), zone=None)
    assert flagged == Target("http://flag", "abc")


def test_a_zone_has_its_own_address(tmp_path: Path) -> None:
    """`--zone east` talks to east, with global's token unless it has its own; an unknown zone is a usage error."""
    context = load({"ZONAL_CONTEXT": str(written(tmp_path))}, Path("/"), None)
    assert target(context, api=None, token_file=None, zone="east") == Target("http://127.0.0.1:7010", "abc")
    with pytest.raises(CommandFailed, match="known: east") as failed:
        target(context, api=None, token_file=None, zone="north")
    assert failed.value.code == ExitCode.USAGE


@pytest.mark.parametrize("text", ["api: [", "apii: x", "zones: {east: {port: 1}}", "- a"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    """A context that cannot be read is a usage error that names the file."""
    file = written(tmp_path, text)
    with pytest.raises(CommandFailed, match=str(file)):
        load({}, tmp_path, None)
    with pytest.raises(CommandFailed, match="no file"):
        load({"ZONAL_CONTEXT": str(tmp_path / "gone")}, tmp_path, None)


def test_the_hubs_store_is_found_beside_the_context(tmp_path: Path) -> None:
    """In a deployment that `zonal init` laid out, replay needs no --store."""
    file = written(tmp_path)
    assert load({}, tmp_path, None).store == ""
    (file.parent / "global" / "nats").mkdir(parents=True)
    assert load({}, tmp_path, None).store == str(file.parent / "global" / "nats")
    assert Context().store == ""
