"""The text of the redirect rules; that they work is shown in `tests/e2e/test_redirect.py`."""

from __future__ import annotations

import pytest

from zone_cp.agent.redirect import Redirect, iptables_rules, nft_rules, run

ASKED = Redirect(proxy_uid=5678, ranges=("242.0.0.0/8",), exclude_ranges=("10.0.0.0/8",), exclude_ports=(22,))


def test_proxy_comes_first_and_sidecar_last() -> None:
    """The proxy's user leaves before any other rule is asked; what nothing excluded goes to the sidecar."""
    for text in (nft_rules(ASKED), iptables_rules(ASKED)):
        lines = [line.strip() for line in text.splitlines() if "5678" in line or "15001" in line or "53" in line]
        assert "5678" in lines[0]
        assert "15001" in lines[-1]
        assert "242.0.0.0/8" in lines[-1]


def test_loopback_range_wins() -> None:
    """VIPs inside 127/8 are redirected although loopback is otherwise left alone."""
    assert "127.0.0.0/8 return" in nft_rules(ASKED)
    assert "127.0.0.0/8 return" not in nft_rules(Redirect(proxy_uid=1, ranges=("127.101.0.0/16",)))


def test_dns_may_be_left_alone() -> None:
    """Port 0 for DNS installs no rule for it."""
    assert "dport 53" in nft_rules(ASKED)
    assert "dport 53" not in nft_rules(Redirect(proxy_uid=1, dns_port=0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"proxy_uid": -1},
        {"proxy_uid": 1, "ranges": ("242.0.0.0/33",)},
        {"proxy_uid": 1, "ranges": ("0.0.0.0/0; drop",)},
        {"proxy_uid": 1, "outbound_port": 0},
        {"proxy_uid": 1, "exclude_ports": (70000,)},
        {"proxy_uid": 1, "dns_port": -1},
    ],
)
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    """What is no range, port or user never reaches a command."""
    with pytest.raises(ValueError, match=r".+"):
        Redirect(**wrong)  # type: ignore[arg-type]


def test_command_refuses_unknown_users(capsys: pytest.CaptureFixture[str]) -> None:
    """A user that does not exist is refused before anything is changed."""
    assert run("install", user="no-such-user", port=15001, dns_port=15053, cidr="242.0.0.0/8") == 3
    assert "no-such-user" in capsys.readouterr().err
    assert run("install", user="1", port=15001, dns_port=15053, cidr="nonsense") == 3
