"""The messages of `adapter.proto`, made from the file itself."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

SERVICE = "zonal.conformance.v1.Adapter"
_HERE = Path(__file__).parent


@cache
def messages() -> dict[str, Any]:
    """Message classes by name: Node, State, TypeState, Resource, ResourceChange, Done."""
    assert any_pb2.DESCRIPTOR.name, "registers what the contract imports"
    well_known = str(Path(protoc.__file__).parent / "_proto")
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "adapter.bin"
        arguments = ["protoc", f"-I{_HERE}", f"-I{well_known}", f"--descriptor_set_out={out}", "adapter.proto"]
        if protoc.main(arguments) != 0:
            raise RuntimeError("adapter.proto does not compile")
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.Default()
    for file in files.file:
        pool.Add(file)
    described = pool.FindFileByName("adapter.proto").message_types_by_name
    return {name: message_factory.GetMessageClass(one) for name, one in described.items()}
