"""Resources made at random from the model itself: every field that a type has, with values at and beyond its edges.

Most of what comes out is refused by `validate`; what it accepts must be accepted by an Envoy as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from immutables import Map

from shared.model import codec
from shared.model.policy import SpiffeMatch
from shared.model.resource import Resource
from shared.model.route_policy import BackendRef
from shared.model.target import TargetRef
from shared.model.validate import validate

T = TypeVar("T", bound=Resource)

DURATIONS = ("0s", "1ms", "10ms", "500ms", "1s", "5s", "1m30s", "1h", "24h", "87600h", "1000000h", "1us", "-1s", "1.5s")
NUMBERS = (
    0,
    1,
    2,
    3,
    5,
    50,
    99,
    100,
    101,
    200,
    299,
    404,
    503,
    599,
    600,
    1000,
    65535,
    65536,
    2**31 - 1,
    2**32 - 1,
    2**32,
)
SHARES = (0, 1, 50, 100, 101, 1000, "0.5", "12.5", "99.99", "1e3", "-1", "1000000")
REGEXES = (
    "a+",
    ".*",
    "[a-z]{2,5}",
    "(x|y)",
    "[",
    "(?=a)",
    r"\d+",
    r"\p{Greek}",
    "a{1000}",
    "(a{1,100}){1,100}",
    "*",
    "",
)
NAMES = (
    "x-a",
    "X-Upper",
    "a_b",
    "host",
    ":path",
    ":authority",
    ":status",
    "a b",
    "x\n",
    "",
    "ü",
    "x-" + "l" * 300,
    "te",
)
VALUES = ("v", "", "a b", "%REQ(X)%", "100%", "%", "x\r\ny: z", "\x00", "ü", "v" * 5_000, "%%")
HOSTS = (
    "a.test",
    "*.a.test",
    "A.TEST",
    "a",
    "",
    "a..b",
    "-a.test",
    "1.2.3.4",
    "a.test:80",
    "*",
    "a_b.test",
    "x" * 64 + ".test",
)
PATHS = ("/", "/a", "a", "", "/a b", "/a?b=c", "/%zz", "//", "/ü", "/" + "p" * 500, "/a#b", "/*")
ADDRESSES = (
    "203.0.113.1",
    "2001:db8::1",
    "a.test",
    "a-b.c.test",
    "A.Test",
    "a.test.",
    "unix:///run/a.sock",
    "x" * 63 + ".test",
)
TEXTS = (
    "a",
    "Exact",
    "MeshExternalService",
    "a/b",
    "%START_TIME% %REQ(X?Y):10%\n",
    "%NOPE%",
    "%REQ(",
    "5xx",
    "0",
    "gateway-error",
)
SPIFFE_IDS = (
    "spiffe://default/web",
    "spiffe://default/",
    "spiffe://other/a b",
    "spiffe://",
    "",
    "x",
    "spiffe://default/ü",
)
RETRIES = (
    "5xx",
    "GatewayError",
    "Reset",
    "ConnectFailure",
    "HttpMethodGet",
    "503",
    "Canceled",
    "Internal",
    "999",
    "nope",
)
BY_NAME: dict[str, tuple[Any, ...]] = {
    "name": NAMES,
    "hostname": HOSTS,
    "hostnames": HOSTS,
    "host": HOSTS,
    "server_name": HOSTS,
    "authority": HOSTS,
    "path": PATHS,
    "replace_full_path": PATHS,
    "replace_prefix_match": PATHS,
    "address": ADDRESSES,
    "retry_on": RETRIES,
    "remove": NAMES,
    "send": ("AQI=", "abc", "", "!!"),
    "receive": ("AQI=", "abc", "", "!!"),
}
_DURATION_WORDS = ("timeout", "interval", "duration", "time", "jitter")


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


class Maker:
    """Makes values of types; the same seed makes the same ones. services: names that exist."""

    def __init__(self, seed: int, services: tuple[str, ...]) -> None:
        self._random = random.Random(seed)
        self._services = services

    def resource(self, kind: type[T], name: str, **fixed: Any) -> T:
        """A resource of a kind, valid or not."""
        made: T = self._struct(kind, {"name": name, "mesh": "default", "labels": Map(), **fixed})
        return made

    def _struct(self, kind: Any, fixed: dict[str, Any]) -> Any:
        if kind is TargetRef:
            return TargetRef(kind="MeshExternalService", name=self._random.choice(self._services))
        values = dict(fixed)
        if kind is BackendRef:
            values |= {"kind": "MeshExternalService", "name": self._random.choice(self._services), "labels": Map()}
        if kind is SpiffeMatch:
            values["value"] = self._random.choice(SPIFFE_IDS)
        for name, hint in _hints(kind).items():
            if name in kind.__struct_fields__ and name not in values:
                values[name] = self._value(hint, name)
        return kind(**values)

    def _value(self, hint: Any, name: str) -> Any:
        pick = self._random
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self._value(arguments[0], name)
        if origin in (Union, UnionType):
            others = [one for one in arguments if one is not type(None)]
            if len(others) < len(arguments) and pick.random() < 0.6:
                return None
            return pick.choice(SHARES) if set(others) == {int, str} else self._value(pick.choice(others), name)
        if origin is Literal:
            return pick.choice(arguments)
        if origin is tuple:
            return tuple(self._value(arguments[0], name) for _ in range(pick.choice((0, 1, 1, 1, 2))))
        if origin is Map or hint is Map:
            return Map()
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            if name == "target_ref" and pick.random() < 0.9:
                return self._struct(TargetRef, {})
            return self._struct(hint, {})
        makers: dict[Any, Callable[[], Any]] = {
            bool: lambda: pick.random() < 0.5,
            int: lambda: pick.choice(NUMBERS),
            float: lambda: pick.choice((0.0, 0.5, 1.0, 1e9)),
            str: lambda: self._text(name),
        }
        return makers.get(hint, lambda: None)()

    def _text(self, name: str) -> str:
        if name == "value":
            return self._random.choice((*REGEXES, *VALUES, *PATHS, *HOSTS))
        if name in BY_NAME:
            return str(self._random.choice(BY_NAME[name]))
        if any(word in name for word in _DURATION_WORDS):
            return self._random.choice(DURATIONS)
        return self._random.choice(TEXTS)


def accepted(maker: Maker, kind: type[T], count: int, tries: int) -> Iterator[T]:
    """Up to `count` resources of a kind that `validate` finds no fault in."""
    found = 0
    for _ in range(tries):
        try:
            raw = codec.encode(maker.resource(kind, f"{kind.__name__.lower()}-{found}"))
            made: T = codec.decode(raw, kind)
        except (msgspec.ValidationError, UnicodeEncodeError):
            continue  # a value that no manifest could hold
        faults = validate(made, ("203.0.113.0/24",))
        if not faults:
            found += 1
            yield made
        if found == count:
            return
