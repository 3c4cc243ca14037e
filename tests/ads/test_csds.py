"""CSDS tells an admin what every connected proxy was sent, holds and has refused."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from envoy_data_plane.envoy.admin.v3 import ClientResourceStatus
from envoy_data_plane.envoy.service.status import v3 as status
from envoy_data_plane.envoy.type.matcher.v3 import NodeMatcher, StringMatcher
from grpc import aio

from shared.events.state import Position
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse, Node, Status
from tests.ads.stream_pair import LONG, SHORT, snapshot, wire_version
from tests.ads.test_server import ADS, SECONDS, World, answer, ask, world

CSDS = "/envoy.service.status.v3.ClientStatusDiscoveryService"
SOTW_ADS = ADS.replace("Delta", "Stream")
ADMIN = (("authorization", "Bearer token-of-admin"),)
Acked, Nacked = ClientResourceStatus.ACKED, ClientResourceStatus.NACKED
pytestmark = pytest.mark.anyio


async def fetch(it: World, request: status.ClientStatusRequest, metadata: Any = ADMIN) -> status.ClientStatusResponse:
    call: Any = it.channel.unary_unary(f"{CSDS}/FetchClientStatus")
    return status.ClientStatusResponse.parse(await call(bytes(request), metadata=metadata, timeout=SECONDS))


def shown(config: status.ClientConfig) -> dict[tuple[str, str], tuple[str, str]]:
    """Type and name to version and status."""
    return {
        (LONG[one.type_url], one.name): (one.version_info, one.config_status.name or "")
        for one in config.generic_xds_configs
    }


async def connect(it: World, proxy: str) -> Any:
    """A delta client that holds a cluster and a secret, has refused a listener and waits for an assignment."""
    it.server.offer(proxy, snapshot(1, CDS=["c"], SDS=["s"], LDS={"l": "1"}))
    call = it.call(ADS, proxy)
    await ask(call, "CDS", proxy)
    await ask(call, "SDS", resource_names_subscribe=["s"])
    await ask(call, "EDS", resource_names_subscribe=["missing"])
    await ask(call, "LDS")
    for _ in range(4):
        got = await answer(call)
        await call.write(_reply(got.type_url, got.nonce, ""))
    await it.server.acked(proxy, Position(1, 0), SECONDS)
    it.server.offer(proxy, snapshot(2, CDS=["c"], SDS=["s"], LDS={"l": "2"}))
    got = await answer(call)
    await call.write(_reply(got.type_url, got.nonce, "address in use"))
    await it.server.acked(proxy, Position(2, 0), SECONDS)
    return call


def _reply(type_url: str, nonce: str, error: str) -> bytes:

    detail = Status(code=13, message=error) if error else None
    return DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce, error_detail=detail).SerializeToString()


async def test_every_connected_proxy_is_told_with_what_it_holds_and_refused() -> None:
    """Accepted, refused with Envoy's reason, and asked for without there being any; in both protocols."""
    async with world() as it:
        await connect(it, "p")
        it.server.offer("q", snapshot(1, CDS=["x"]))
        sotw = it.call(SOTW_ADS, "q")

        await sotw.write(DiscoveryRequest(node=Node(id="q"), type_url=SHORT["CDS"]).SerializeToString())
        async with asyncio.timeout(SECONDS):
            DiscoveryResponse.FromString(await sotw.read())
        found = {
            config.node.id: config for config in (await fetch(it, status.ClientStatusRequest())).config if config.node
        }
        assert shown(found["p"]) == {
            ("CDS", "c"): (wire_version("CDS", "c"), "SYNCED"),
            ("SDS", "s"): (wire_version("SDS", "s"), "SYNCED"),
            ("EDS", "missing"): ("", "NOT_SENT"),
            ("LDS", "l"): (wire_version("LDS", "l", "1"), "ERROR"),
        }
        assert shown(found["q"]) == {("CDS", "x"): (wire_version("CDS", "x"), "STALE")}
        by_name = {one.name: one for one in found["p"].generic_xds_configs}
        failure = by_name["l"].error_state
        assert failure is not None
        assert (failure.details, failure.version_info) == ("address in use", wire_version("LDS", "l", "2"))
        assert by_name["c"].client_status == Acked
        assert by_name["l"].client_status == Nacked
        assert by_name["c"].xds_config is not None
        assert by_name["s"].xds_config is None, "a secret is told by version alone"


async def test_proxies_are_chosen_by_node_id_and_contents_can_be_left_out() -> None:
    """node_matchers and exclude_resource_contents, on the streaming method."""
    async with world() as it:
        await connect(it, "p")
        call: Any = it.channel.stream_stream(f"{CSDS}/StreamClientStatus")(metadata=ADMIN)
        for exact, ids in (("p", ["p"]), ("other", [])):
            matcher = NodeMatcher(node_id=StringMatcher(exact=exact))
            await call.write(bytes(status.ClientStatusRequest(node_matchers=[matcher], exclude_resource_contents=True)))
            async with asyncio.timeout(SECONDS):
                got = status.ClientStatusResponse.parse(await call.read())
            assert [config.node.id for config in got.config if config.node] == ids
            assert not any(one.xds_config for config in got.config for one in config.generic_xds_configs)


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer token-of-p"),)], ids=["no token", "a proxy's"])
async def test_only_an_admin_is_told(metadata: Any) -> None:
    """A proxy's own token opens nothing."""
    async with world() as it:
        await connect(it, "p")
        with pytest.raises(aio.AioRpcError) as refused:
            await fetch(it, status.ClientStatusRequest(), metadata)
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
