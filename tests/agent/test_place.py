"""What an agent is given: read, checked, refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.model.resource import Dataplane, ZoneEgress
from zone_cp.agent.place import InputRefused, Token, Workplace, find_system_ca, read_resource, read_token

DATAPLANE = "type: Dataplane\nname: app\nmesh: default\nnetworking:\n  address: 127.0.0.1\n"
EGRESS = "type: ZoneEgress\nname: egress\nnetworking:\n  address: 127.0.0.1\n  port: 10002\n"


def test_resource_by_text_and_by_file(tmp_path: Path) -> None:
    """The resource is given as text, as a file, or as a file under the text's flag."""
    file = tmp_path / "dp.yaml"
    file.write_text(DATAPLANE)
    by_text = read_resource("sidecar", DATAPLANE, "")
    assert by_text == read_resource("sidecar", "", str(file)) == read_resource("sidecar", str(file), "")
    assert isinstance(by_text, Dataplane)
    assert isinstance(read_resource("egress", EGRESS, ""), ZoneEgress)


@pytest.mark.parametrize(
    "kind, text, reason",
    [
        ("sidecar", "", "needs its Dataplane"),
        ("egress", "", "needs its ZoneEgress"),
        ("sidecar", EGRESS, "found ZoneEgress"),
        ("egress", DATAPLANE + "---\n" + EGRESS, "found Dataplane, ZoneEgress"),
        ("sidecar", DATAPLANE + "colour: red\n", "--dataplane:6:1"),
        ("sidecar", "/does/not/exist.yaml", "No such file"),
    ],
)
def test_unusable_resources(kind: str, text: str, reason: str) -> None:
    """Nothing, the wrong kind, too many, or a fault at its line."""
    with pytest.raises(InputRefused, match=reason):
        read_resource(kind, text, "")  # type: ignore[arg-type]


def test_tokens(tmp_path: Path) -> None:
    """A token is one printable line; what is wrong with it is said without showing it."""
    path = tmp_path / "token"
    path.write_text("abc.def.ghi\n")
    assert read_token(str(path)) == "abc.def.ghi"
    for wrong in ("", "s3cret\ns3cret", "s3cret s3cret", "s3crét"):
        path.write_text(wrong)
        with pytest.raises(InputRefused) as refused:
            read_token(str(path))
        assert "s3cr" not in str(refused.value)


def test_secret_follows_the_token(tmp_path: Path) -> None:
    """Envoy's secret is written when the token changes, and only then."""
    path, secret = tmp_path / "token", tmp_path / "secret.json"
    path.write_text("one")
    token = Token(str(path), secret)
    assert token.refresh() == "one"
    first = secret.stat()
    assert "Bearer one" in secret.read_text()
    token.refresh()
    assert secret.stat().st_ino == first.st_ino
    path.write_text("two")
    assert token.refresh() == "two"
    assert "Bearer two" in secret.read_text()
    assert secret.stat().st_mode & 0o777 == 0o600


def test_directory_is_held(tmp_path: Path) -> None:
    """A directory belongs to one agent at a time."""
    first, second = Workplace(tmp_path / "p"), Workplace(tmp_path / "p")
    first.open()
    with pytest.raises(InputRefused, match="another agent"):
        second.open()
    first.close()
    second.open()
    second.close()


def test_system_ca(tmp_path: Path) -> None:
    """The given path wins, whether it exists or not: the control plane says so if it does not."""
    assert find_system_ca("/given.pem") == "/given.pem"
    assert find_system_ca("").startswith("/") or find_system_ca("") == ""
