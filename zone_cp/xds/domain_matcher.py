"""xds.type.matcher.v3.ServerNameMatcher, which Envoy 1.40 implements and envoy-data-plane 2.2 leaves out.

https://github.com/cncf/xds/blob/main/xds/type/matcher/v3/domain.proto. A list of names costs Envoy an eighth of the
time that a map of names to actions does (10 ms for 10,000 of them), and a fifth of the bytes.
"""

from __future__ import annotations

import betterproto2
from envoy_data_plane.message_pool import default_message_pool
from envoy_data_plane.xds.type.matcher import v3 as tree
from pydantic.dataclasses import dataclass


@dataclass(eq=False, repr=False, config={"extra": "forbid"})
class DomainMatcher(betterproto2.Message):
    """What to do with a set of names: whole ones, or everything below a suffix (`*.default.mes`)."""

    domains: list[str] = betterproto2.field(1, betterproto2.TYPE_STRING, repeated=True)
    on_match: tree.MatcherOnMatch | None = betterproto2.field(2, betterproto2.TYPE_MESSAGE, optional=True)


@dataclass(eq=False, repr=False, config={"extra": "forbid"})
class ServerNameMatcher(betterproto2.Message):
    """The longest match wins. A name must not be in it twice."""

    domain_matchers: list[DomainMatcher] = betterproto2.field(1, betterproto2.TYPE_MESSAGE, repeated=True)


for _name, _message in (("ServerNameMatcher", ServerNameMatcher), ("ServerNameMatcher.DomainMatcher", DomainMatcher)):
    default_message_pool.register_message("xds.type.matcher.v3", _name, _message)
