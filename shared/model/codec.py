"""JSON of the model: one encoder and one decoder, deterministic, strict, through the tagged union only."""

from __future__ import annotations

from functools import cache
from itertools import chain
from typing import Any, TypeVar, get_args, get_origin

import msgspec
from immutables import Map

T = TypeVar("T")

_TEXTS = dict[str, str]
_TEXT = {str}


def _encode_unknown(value: Any) -> Any:
    if isinstance(value, Map):
        return dict(sorted(value.items()))
    raise NotImplementedError(f"no JSON form for {type(value).__name__}")


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return Map({key: _freeze(item) for key, item in value.items()})
    if isinstance(value, list):
        return tuple(_freeze(item) for item in value)
    return value


def _decode_unknown(wanted: Any, value: Any) -> Any:
    items = _items_of(wanted)
    if items is _TEXTS and type(value) is dict and _TEXT.issuperset(map(type, chain(value, value.values()))):
        return Map(value)  # labels of what is read a million times: half the time
    if items is None:
        return _freeze(msgspec.convert(value, dict[str, Any]))
    return Map(msgspec.convert(value, items, dec_hook=_decode_unknown))


@cache
def _items_of(wanted: Any) -> Any:
    """The dict that a Map is decoded from; None for one of free JSON. Raises NotImplementedError for any other type."""
    if (get_origin(wanted) or wanted) is not Map:
        raise NotImplementedError(f"cannot decode {wanted!r}")
    arguments = get_args(wanted)
    if arguments == (str, str):
        return _TEXTS
    return None if not arguments or arguments[1] is Any else dict[arguments[0], arguments[1]]  # type: ignore[valid-type]


def _pack_unknown(value: Any) -> Any:
    if isinstance(value, Map):
        return dict(value)
    raise NotImplementedError(f"no MessagePack form for {type(value).__name__}")


_packer = msgspec.msgpack.Encoder(enc_hook=_pack_unknown)
_encoder = msgspec.json.Encoder(enc_hook=_encode_unknown, order="deterministic")


def encode(value: Any) -> bytes:
    """Canonical JSON: keys of maps sorted, fields in declaration order, defaults omitted, no white space."""
    return _encoder.encode(value)


def decoder(wanted: Any) -> msgspec.json.Decoder[Any]:
    """A strict JSON decoder of one type; build it once per module."""
    return msgspec.json.Decoder(wanted, dec_hook=_decode_unknown)


def pack(value: Any) -> bytes:
    """MessagePack, for what one program keeps for itself: half the time of JSON, keys of maps in any order."""
    return _packer.encode(value)


def unpacker(wanted: Any) -> msgspec.msgpack.Decoder[Any]:
    """A strict MessagePack decoder of one type; build it once per module."""
    return msgspec.msgpack.Decoder(wanted, dec_hook=_decode_unknown)


def decode(data: bytes | str, wanted: Any) -> Any:
    """Decode JSON strictly; `msgspec.ValidationError` carries the path of the first fault."""
    return msgspec.json.decode(data, type=wanted, dec_hook=_decode_unknown)


def convert(value: Any, wanted: Any) -> Any:
    """Turn plain Python data (from YAML) into `wanted`, as strictly as `decode`."""
    return msgspec.convert(value, wanted, dec_hook=_decode_unknown)


def to_plain(value: Any) -> Any:
    """Plain dicts, lists and scalars: for YAML and tables."""
    return msgspec.json.decode(encode(value))
