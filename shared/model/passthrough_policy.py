"""MeshPassthrough: which traffic to undeclared destinations a client's proxy lets out."""

from __future__ import annotations

from typing import Literal, TypeAlias

from shared.model.part import NO_LABELS, Labels, Part
from shared.model.target import TargetRef

PassthroughProtocol: TypeAlias = Literal["tcp", "tls", "grpc", "http", "http2", "mysql"]


class PassthroughMatch(Part, frozen=True, kw_only=True):
    """A destination: a domain (SNI or Host; `*.` as its first label means any one or more), an IP or a range.

    Without `port`, every port is meant.
    """

    type: str
    value: str
    port: int | None = None
    protocol: PassthroughProtocol = "tcp"


class PassthroughConf(Part, frozen=True, kw_only=True):
    """Without a mode it is `Matched` (Kuma's code); `appendMatch` of several policies is added up."""

    passthrough_mode: Literal["All", "Matched", "None"] | None = None
    append_match: tuple[PassthroughMatch, ...] | None = None


class PassthroughSpec(Part, frozen=True, kw_only=True):
    """See `PassthroughConf`."""

    target_ref: TargetRef | None = None
    default: PassthroughConf = PassthroughConf()


class MeshPassthrough(Part, frozen=True, kw_only=True, tag_field="type", tag="MeshPassthrough"):
    """Takes the place of `networking.outbound.passthrough` of the Mesh for the sidecars that it selects."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    spec: PassthroughSpec
