"""Every regular expression that is accepted compiles in a real Envoy: it refuses all routes for one that does not."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from shared.model.limits import PATTERN_MAX
from shared.model.value_rules import regular_expression
from zone_cp.agent.envoy import find_envoy

pytestmark = pytest.mark.e2e

PIECES = [
    *(
        "a",
        "é",
        ".",
        "|",
        "(",
        ")",
        "(?:",
        "(?P<n>",
        "(?i:",
        "(?-s:",
        "(?i)",
        "[a-z]",
        "[^]x]",
        "[[:alpha:]]",
        "[[:nope:]]",
    ),
    *(
        "*",
        "+",
        "?",
        "*?",
        "+?",
        "{2}",
        "{3,}",
        "{0,9}",
        "{1000}",
        "{1001}",
        "{,3}",
        "{",
        "}",
        "]",
        "^",
        "$",
        "-",
        "[",
        "&&",
    ),
    *(
        "\\d",
        "\\W",
        "\\b",
        "\\A",
        "\\z",
        "\\Z",
        "\\x41",
        "\\.",
        "\\_",
        "\\u0041",
        "\\1",
        "\\0",
        "\\012",
        "\\pL",
        "\\C",
        "\\é",
    ),
    *(
        "(?=a)",
        "(?<!a)",
        "(?>a)",
        "(?#c)",
        "(?x)",
        "(?a:a)",
        "[\\d-]",
        "[\\b]",
        "[a\\]]",
        "[+--]",
        "\\Q",
        "\\E",
        "\\a",
        "\\v",
    ),
]
LARGE = [
    "(\\W{10}){100}",
    "(.{100}){10}",
    "([^a]{31}){31}",
    "(?i:é{1000})",
    "(\\W\\W\\W){900}",
    "((a|é)*b){1000}",
    "\\PL{1000}",
]
COUNT = 1500
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def accepted(pattern: str) -> bool:
    return not list(regular_expression(pattern, ""))


def patterns() -> list[str]:
    """Random ones that are accepted, and whatever is large and accepted; the same in every run."""
    chance = random.Random(1)
    found = {one for one in LARGE if accepted(one)}
    while len(found) < COUNT:
        made = "".join(chance.choices(PIECES, k=chance.randint(1, 7)))
        if len(made) <= PATTERN_MAX and accepted(made):
            found.add(made)
    return sorted(found)


def judged(directory: Path, found: list[str]) -> str:
    """What Envoy says of a route configuration with these patterns; "" where it takes it."""
    routes = [{"match": {"safe_regex": {"regex": one}}, "direct_response": {"status": 200}} for one in found]
    manager = {
        "@type": MANAGER,
        "stat_prefix": "x",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    # As the agent's bootstrap has it.
    layer = {"re2.max_program_size.error_level": 4294967295, "re2.max_program_size.warn_level": 4294967295}
    whole = {
        "static_resources": {"listeners": [{"name": "l", "address": address, "filter_chains": [chain]}]},
        "layered_runtime": {"layers": [{"name": "zonal", "static_layer": layer}]},
    }
    file = directory / "envoy.json"
    file.write_text(json.dumps(whole))
    command = [str(find_envoy()), "--mode", "validate", "-c", str(file), "-l", "critical"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_what_is_accepted_compiles(tmp_path: Path) -> None:
    """Random patterns of everything that the two syntaxes have in common or not."""
    said = judged(tmp_path, patterns())
    assert not said, said[-2000:]


def test_envoy_would_say_so(tmp_path: Path) -> None:
    """What is refused here is refused there: the test above can fail."""
    for one in ("\\u00e9", "a{2000}", "(?x)a", "[[:nope:]]", "(?a)a"):
        assert not accepted(one)
        assert "nvalid" in judged(tmp_path, ["a", one])
