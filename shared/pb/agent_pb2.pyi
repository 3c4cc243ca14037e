from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentMessage(_message.Message):
    __slots__ = ("hello", "observation", "dns_ack")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    DNS_ACK_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    observation: Observation
    dns_ack: DnsAck
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., observation: _Optional[_Union[Observation, _Mapping]] = ..., dns_ack: _Optional[_Union[DnsAck, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("proxy", "dns_version")
    PROXY_FIELD_NUMBER: _ClassVar[int]
    DNS_VERSION_FIELD_NUMBER: _ClassVar[int]
    proxy: str
    dns_version: str
    def __init__(self, proxy: _Optional[str] = ..., dns_version: _Optional[str] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ("cluster", "failing", "reason", "time")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    FAILING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    failing: bool
    reason: str
    time: str
    def __init__(self, cluster: _Optional[str] = ..., failing: _Optional[bool] = ..., reason: _Optional[str] = ..., time: _Optional[str] = ...) -> None: ...

class DnsAck(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class ControlMessage(_message.Message):
    __slots__ = ("dns", "drain")
    DNS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    dns: DnsUpdate
    drain: Drain
    def __init__(self, dns: _Optional[_Union[DnsUpdate, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ...) -> None: ...

class DnsUpdate(_message.Message):
    __slots__ = ("version", "full", "upsert", "remove", "ttl_seconds")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    UPSERT_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    version: str
    full: bool
    upsert: _containers.RepeatedCompositeFieldContainer[DnsName]
    remove: _containers.RepeatedScalarFieldContainer[str]
    ttl_seconds: int
    def __init__(self, version: _Optional[str] = ..., full: _Optional[bool] = ..., upsert: _Optional[_Iterable[_Union[DnsName, _Mapping]]] = ..., remove: _Optional[_Iterable[str]] = ..., ttl_seconds: _Optional[int] = ...) -> None: ...

class DnsName(_message.Message):
    __slots__ = ("name", "ip")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    name: str
    ip: str
    def __init__(self, name: _Optional[str] = ..., ip: _Optional[str] = ...) -> None: ...

class Drain(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
