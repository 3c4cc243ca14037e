"""The filter that says where TCP connections go: what stands in it, and that Envoy's parser takes all of it."""

from __future__ import annotations

import re

from envoy_data_plane.envoy.extensions.filters.common.set_filter_state import v3 as filter_state
from envoy_data_plane.envoy.extensions.filters.network.set_filter_state import v3 as set_filter_state

from shared.model.policy import SpiffeMatch
from zone_cp.view.policies import Permission
from zone_cp.xds.tcp_access import CLUSTER_STATE, DESTINATION_STATE, FORBIDS, GUARDED, as_passed_on, destinations

CEL_CODE_POINTS = 100_000
"""The parser's limit. It is Envoy's, so a larger expression is a refused filter."""
DIRECT = "mes/tcp/default/%REQUESTED_SERVER_NAME%"


def texts(values: list[filter_state.FilterStateValue]) -> list[str]:
    found = [one.format_string and one.format_string.text_format_source for one in values]
    return [(one and one.inline_string) or "" for one in found]


def made(*guards: tuple[str, Permission], forbidden: bool = False) -> tuple[list[str], list[str]]:
    """What is written first, and once the certificate is verified."""
    config = set_filter_state.Config.parse(destinations("default", guards, forbidden=forbidden))
    assert all(one.skip_if_empty for one in (*config.on_new_connection, *config.on_downstream_tls_handshake))
    return texts(config.on_new_connection), texts(config.on_downstream_tls_handshake)


def name(number: int) -> str:
    return f"v242.0.{number // 256}.{number % 256}.p3306.default.mes"


def exact(value: str) -> SpiffeMatch:
    return SpiffeMatch(type="Exact", value=value)


def test_what_nothing_guards_is_dialled_at_once_or_forbidden() -> None:
    """Open services take no second listener; a mesh that forbids all closes them."""
    assert made()[0] == [DIRECT]
    assert made(forbidden=True)[0] == [FORBIDS]
    guarded = Permission(deny=(), allow=(exact("spiffe://default/web"),))
    assert made((name(1), guarded), forbidden=True)[0][0] == FORBIDS
    assert GUARDED in made((name(1), guarded))[0][1]


def test_what_is_passed_on_divides_the_pools() -> None:
    """Envoy pools connections that differ in nothing hashable, and passes on what the first of a pool came with. So
    what is passed on is hashable, and the listener within reads nothing else.
    """
    guarded = Permission(deny=(exact("spiffe://default/x"),), allow=(exact("spiffe://default/web"),))
    config = set_filter_state.Config.parse(destinations("default", ((name(1), guarded),), forbidden=False))
    values = [*config.on_new_connection, *config.on_downstream_tls_handshake]
    passed_on = {(one.object_key, one.factory_key) for one in values if one.shared_with_upstream}
    assert passed_on == {(DESTINATION_STATE, "envoy.hashable_string")}
    (read,) = set_filter_state.Config.parse(as_passed_on()).on_new_connection
    assert read.object_key == CLUSTER_STATE
    assert texts([read]) == [f"%FILTER_STATE({DESTINATION_STATE}:PLAIN)%"]


def test_every_expression_is_one_that_cel_parses() -> None:
    """Many services, each with its own, among them the longest ids with nothing but what has to be escaped."""
    longest = "spiffe://default/" + "'" * 2031
    guards = [
        (
            name(number),
            Permission(
                deny=(
                    exact(f"{longest[:-4]}{number:04}"),
                    SpiffeMatch(type="Prefix", value=f"spiffe://default/{number}"),
                ),
                allow=(exact(f"spiffe://default/only-{number}"), exact("spiffe://default/web")),
            ),
        )
        for number in range(400)
    ]
    guards.sort()
    first, verified = made(*guards)
    assert max(map(len, (*first, *verified))) < CEL_CODE_POINTS
    written = "".join((*first, *verified))
    assert all(written.count(f"{one}") >= 4 for one, _ in guards[:50])
    assert all(f"only-{number}'" in written for number in range(400))


def test_nothing_that_an_author_writes_ends_a_literal() -> None:
    """Quotes, backslashes and what ends Envoy's command are escaped; every value is one whole %CEL(…)%."""
    odd = ("spiffe://default/')%", 'spiffe://default/"', "spiffe://default/\\", "spiffe://default/%CEL(true)%")
    permission = Permission(deny=(), allow=tuple(exact(one) for one in odd))
    for value in made((name(1), permission))[1]:
        if value.startswith("%CEL("):
            inner = value.removeprefix("%CEL(").removesuffix(")%")
            assert "%" not in inner
            assert re.fullmatch(r"(?:[^'\\]|'(?:[^'\\]|\\U[0-9a-f]{8})*')*", inner)
