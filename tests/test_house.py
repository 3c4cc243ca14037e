"""The house rules (design/house.md) that ruff, mypy and import-linter do not keep."""

from __future__ import annotations

import ast
import itertools
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("global_cp", "zone_cp", "shared")

TOP_LEVEL = {
    "pyproject.toml",
    "README.md",
    "global_cp",
    "zone_cp",
    "shared",
    "proto",
    "tests",
    "deploy",
    "Makefile",
    "LICENSE",
    "CHANGELOG.md",
}
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "handler", "base", "misc"}

MODULE_LINES = 400
TEST_MODULE_LINES = 600
FUNCTION_LINES = 50
"""Without the docstring."""

LONG_FUNCTIONS: dict[str, str] = {}
"""`path:function` → why it may be longer than the limit."""
LONG_MODULES: dict[str, str] = {
    "shared/model/resource.py": "the nouns of the whole system in one place, no behaviour",
}

CORE = (
    "shared/model",
    "shared/events",
    "shared/naming",
    "global_cp/decide",
    "global_cp/admission",
    "zone_cp/view",
    "zone_cp/xds",
    "zone_cp/extensions",
    "zone_cp/decide",
    "zone_cp/ads/asked",
    "zone_cp/ads/batch",
    "zone_cp/ads/facts",
    "zone_cp/ads/reach",
    "zone_cp/ads/rpc/connection",
    "zone_cp/ads/rpc/exchange",
    "zone_cp/ads/rpc/frames",
    "zone_cp/ads/subscription",
    "zone_cp/ads/staging",
    "zone_cp/ads/delta",
    "zone_cp/ads/sotw",
)
IMPURE = {
    "anyio",
    "asyncio",
    "concurrent",
    "grpc",
    "http",
    "litestar",
    "logging",
    "multiprocessing",
    "nats",
    "nkeys",
    "os",
    "pathlib",
    "prometheus_client",
    "random",
    "secrets",
    "select",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "structlog",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uuid",
    "uvicorn",
}
IMPURE_MODULES = ("urllib.request", "shared.nats", "shared.process", "shared.api", "shared.commands")
PURITY_EXCEPTIONS = {("shared/events/log.py", "asyncio"): "the log's protocol is asynchronous"}
CLOCK_CALLS = {"now", "utcnow", "today"}

REGISTRY_HOSTS = re.compile(
    r"\b(?:pypi\.org|pythonhosted\.org|npmjs\.org|yarnpkg\.com|ghcr\.io|docker\.io|quay\.io|gcr\.io|crates\.io)\b"
)
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\s|\\n)*[A-Za-z0-9+/=]{40,}")
NKEY_SEED = re.compile(r"\bS[UAOCNX][A-Z2-7]{56}\b")


@cache
def tracked() -> tuple[Path, ...]:
    """Files under version control, as paths below the root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return tuple(Path(name) for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file())


def modules(*tops: str) -> Iterator[Path]:
    """Tracked Python modules below the given top-level entries, without generated code."""
    for path in tracked():
        if path.suffix == ".py" and path.parts[0] in tops and path.parts[:2] != ("shared", "pb"):
            yield path


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


def test_the_top_level_is_fixed() -> None:
    """Nothing stands at the top level beside the owner's entries and dot files."""
    entries = {path.parts[0] for path in tracked() if not path.parts[0].startswith(".")}
    assert entries <= TOP_LEVEL, f"not agreed: {sorted(entries - TOP_LEVEL)}"


def test_no_module_has_a_name_that_says_nothing() -> None:
    """No utils, helpers, common, manager, handler, base: neither module nor package."""
    named = [path for path in modules(*PRODUCT, "tests") if BANNED_NAMES & {path.stem, *path.parts[:-1]}]
    assert not named


def test_no_module_is_longer_than_its_limit() -> None:
    """A module of the product has at most 400 lines, one of the tests 600."""
    long = {
        str(path): lines
        for path in modules(*PRODUCT, "tests")
        if (lines := len((ROOT / path).read_text().splitlines()))
        > (TEST_MODULE_LINES if path.parts[0] == "tests" else MODULE_LINES)
        and str(path) not in LONG_MODULES
    }
    assert not long


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from `def` to its end, docstring not counted."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def test_no_function_is_longer_than_its_limit() -> None:
    """A function of the product has at most 50 lines."""
    long = {
        f"{path}:{node.name}": lines
        for path in modules(*PRODUCT)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := body_lines(node)) > FUNCTION_LINES
    }
    assert not {name: lines for name, lines in long.items() if name not in LONG_FUNCTIONS}
    assert long.keys() >= LONG_FUNCTIONS.keys(), "an exemption is no longer needed"


def core_modules() -> list[Path]:
    """Modules of the pure core."""
    return [
        path
        for path in modules(*PRODUCT)
        if any(str(path) == f"{core}.py" or str(path).startswith(f"{core}/") for core in CORE)
    ]


def impurities(path: Path) -> Iterator[str]:
    """What a module of the core must not contain: imports of the outside world, and reads of the clock."""
    for node in ast.walk(tree(path)):
        match node:
            case ast.Import(names=aliases):
                names = [alias.name for alias in aliases]
            case ast.ImportFrom(module=str(name)):
                names = [name]
            case ast.Call(func=ast.Attribute(attr=called)) if called in CLOCK_CALLS:
                yield f"{path}:{node.lineno}: reads the clock"
                continue
            case ast.Call(func=ast.Name(id="open")):
                yield f"{path}:{node.lineno}: opens a file"
                continue
            case _:
                continue
        for name in names:
            top = name.partition(".")[0]
            outside = top in IMPURE or name.startswith(IMPURE_MODULES)
            if outside and (str(path), top) not in PURITY_EXCEPTIONS:
                yield f"{path}:{node.lineno}: imports {name}"


def test_the_core_is_pure() -> None:
    """The core imports no clock, randomness, network, file system, logs or framework: they are arguments."""
    assert core_modules()
    assert not [fault for path in core_modules() for fault in impurities(path)]


def test_every_lint_exception_names_its_rule() -> None:
    """`noqa` and `type: ignore` say which rule they set aside."""
    blanket = re.compile(r"#\s*(?:noqa(?!: ?[A-Z])|type: ignore(?!\[))")
    found = [
        f"{path}:{number}"
        for path in modules(*PRODUCT, "tests")
        if path.name != "test_house.py"
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if blanket.search(line)
    ]
    assert not found


def test_tracked_files_hold_no_secret_and_no_registry() -> None:
    """No private key, nkey seed or registry host stands in a file under version control."""
    found = []
    for path in tracked():
        try:
            text = (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path}: {what}"
            for what, pattern in (
                ("registry host", REGISTRY_HOSTS),
                ("private key", PRIVATE_KEY),
                ("nkey seed", NKEY_SEED),
            )
            if pattern.search(text)
        ]
    assert not found


SYSTEM_PORTS = 200
"""From a whole system's base on, with what its test uses beside it."""


def test_whole_systems_of_tests_stand_side_by_side() -> None:
    """Two of them that run at once share neither ports nor VIPs, which follow from those (`Loopback.vip_range`), and no
    port is one that the kernel gives to clients.
    """
    bases = {
        str(path): node.value.value
        for path in modules("tests")
        for node in ast.parse((ROOT / path).read_text()).body
        if isinstance(node, ast.Assign)
        and [one.id for one in node.targets if isinstance(one, ast.Name)] == ["BASE_PORT"]
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, int)
    }
    assert len(bases) > 15
    ordered = sorted(bases.values())
    near = [(one, other) for one, other in itertools.pairwise(ordered) if other - one < SYSTEM_PORTS]
    assert not near, {path: base for path, base in bases.items() if base in {*itertools.chain(*near)}}
    assert ordered[-1] + SYSTEM_PORTS < 32_768


HELP = """
import sys
from shared.cli import main
try:
    main(["--help"])
except SystemExit as done:
    assert not done.code, done.code
heavy = {"nats", "grpc", "litestar", "envoy_data_plane", "betterproto2", "cryptography", "uvicorn", "aiohttp"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    """`zonal --help` takes under half a second of processor time and loads no server library."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        shown = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert not shown.returncode, shown.stderr
        assert "apply" in shown.stdout
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.5
