from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentMessage(_message.Message):
    __slots__ = ("hello", "observation", "dns_ack", "tls_checked", "config_dumped", "probed", "listener_lost")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    DNS_ACK_FIELD_NUMBER: _ClassVar[int]
    TLS_CHECKED_FIELD_NUMBER: _ClassVar[int]
    CONFIG_DUMPED_FIELD_NUMBER: _ClassVar[int]
    PROBED_FIELD_NUMBER: _ClassVar[int]
    LISTENER_LOST_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    observation: Observation
    dns_ack: DnsAck
    tls_checked: TlsChecked
    config_dumped: ConfigDumped
    probed: ProbedInbounds
    listener_lost: ListenerLost
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., observation: _Optional[_Union[Observation, _Mapping]] = ..., dns_ack: _Optional[_Union[DnsAck, _Mapping]] = ..., tls_checked: _Optional[_Union[TlsChecked, _Mapping]] = ..., config_dumped: _Optional[_Union[ConfigDumped, _Mapping]] = ..., probed: _Optional[_Union[ProbedInbounds, _Mapping]] = ..., listener_lost: _Optional[_Union[ListenerLost, _Mapping]] = ...) -> None: ...

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

class ProbedInbounds(_message.Message):
    __slots__ = ("inbounds",)
    INBOUNDS_FIELD_NUMBER: _ClassVar[int]
    inbounds: _containers.RepeatedCompositeFieldContainer[ProbedInbound]
    def __init__(self, inbounds: _Optional[_Iterable[_Union[ProbedInbound, _Mapping]]] = ...) -> None: ...

class ProbedInbound(_message.Message):
    __slots__ = ("port", "address", "ready")
    PORT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    port: int
    address: str
    ready: bool
    def __init__(self, port: _Optional[int] = ..., address: _Optional[str] = ..., ready: _Optional[bool] = ...) -> None: ...

class ListenerLost(_message.Message):
    __slots__ = ("name", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DnsAck(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class ControlMessage(_message.Message):
    __slots__ = ("dns", "drain", "check_tls", "config_dump")
    DNS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    CHECK_TLS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_DUMP_FIELD_NUMBER: _ClassVar[int]
    dns: DnsUpdate
    drain: Drain
    check_tls: CheckTls
    config_dump: ConfigDump
    def __init__(self, dns: _Optional[_Union[DnsUpdate, _Mapping]] = ..., drain: _Optional[_Union[Drain, _Mapping]] = ..., check_tls: _Optional[_Union[CheckTls, _Mapping]] = ..., config_dump: _Optional[_Union[ConfigDump, _Mapping]] = ...) -> None: ...

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

class CheckTls(_message.Message):
    __slots__ = ("id", "address", "port", "tls", "sni", "min_version", "max_version", "ciphers", "alpn", "mode", "names", "ca", "ca_path", "client_chain", "client_key", "names_listed")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    SNI_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_VERSION_FIELD_NUMBER: _ClassVar[int]
    CIPHERS_FIELD_NUMBER: _ClassVar[int]
    ALPN_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    CA_FIELD_NUMBER: _ClassVar[int]
    CA_PATH_FIELD_NUMBER: _ClassVar[int]
    CLIENT_CHAIN_FIELD_NUMBER: _ClassVar[int]
    CLIENT_KEY_FIELD_NUMBER: _ClassVar[int]
    NAMES_LISTED_FIELD_NUMBER: _ClassVar[int]
    id: str
    address: str
    port: int
    tls: bool
    sni: str
    min_version: str
    max_version: str
    ciphers: _containers.RepeatedScalarFieldContainer[str]
    alpn: _containers.RepeatedScalarFieldContainer[str]
    mode: str
    names: _containers.RepeatedCompositeFieldContainer[NameMatch]
    ca: bytes
    ca_path: str
    client_chain: bytes
    client_key: bytes
    names_listed: bool
    def __init__(self, id: _Optional[str] = ..., address: _Optional[str] = ..., port: _Optional[int] = ..., tls: _Optional[bool] = ..., sni: _Optional[str] = ..., min_version: _Optional[str] = ..., max_version: _Optional[str] = ..., ciphers: _Optional[_Iterable[str]] = ..., alpn: _Optional[_Iterable[str]] = ..., mode: _Optional[str] = ..., names: _Optional[_Iterable[_Union[NameMatch, _Mapping]]] = ..., ca: _Optional[bytes] = ..., ca_path: _Optional[str] = ..., client_chain: _Optional[bytes] = ..., client_key: _Optional[bytes] = ..., names_listed: _Optional[bool] = ...) -> None: ...

class NameMatch(_message.Message):
    __slots__ = ("kind", "value", "prefix")
    KIND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    kind: str
    value: str
    prefix: bool
    def __init__(self, kind: _Optional[str] = ..., value: _Optional[str] = ..., prefix: _Optional[bool] = ...) -> None: ...

class TlsChecked(_message.Message):
    __slots__ = ("id", "steps")
    ID_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    id: str
    steps: _containers.RepeatedCompositeFieldContainer[TlsStep]
    def __init__(self, id: _Optional[str] = ..., steps: _Optional[_Iterable[_Union[TlsStep, _Mapping]]] = ...) -> None: ...

class TlsStep(_message.Message):
    __slots__ = ("name", "result", "message", "field", "advice", "facts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    result: str
    message: str
    field: str
    advice: str
    facts: _containers.RepeatedCompositeFieldContainer[TlsFact]
    def __init__(self, name: _Optional[str] = ..., result: _Optional[str] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., advice: _Optional[str] = ..., facts: _Optional[_Iterable[_Union[TlsFact, _Mapping]]] = ...) -> None: ...

class TlsFact(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class ConfigDump(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ConfigDumped(_message.Message):
    __slots__ = ("id", "gzip_json", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    GZIP_JSON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    gzip_json: bytes
    error: str
    def __init__(self, id: _Optional[str] = ..., gzip_json: _Optional[bytes] = ..., error: _Optional[str] = ...) -> None: ...
