"""The cases of the public xDS conformance lists, against `python -m tests.conformance` from outside.

As in the feature files of the harness that the field has: each case for the four variants and the types it is about,
state set by the adapter, one fresh stream, versions as the harness chose them. `ZONAL_CONFORMANCE=host:port` runs them
against a server that was started by hand.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Generator
from typing import Any

import grpc
import pytest

from tests.conformance.contract import messages
from tests.conformance.outside import SECONDS, TYPES, VARIANTS, Client, Outside, outside, state
from zone_cp.xds.wire import piece

pytestmark = pytest.mark.anyio
variants = pytest.mark.parametrize("variant", VARIANTS)
sotw = pytest.mark.parametrize("variant", VARIANTS[:2])
delta = pytest.mark.parametrize("variant", VARIANTS[2:])
aggregated = pytest.mark.parametrize("variant", VARIANTS[::2])
every = pytest.mark.parametrize("short", ["CDS", "LDS", "RDS", "EDS", "SDS", "RTDS"])
whole = pytest.mark.parametrize("short", ["CDS", "LDS"])
partial = pytest.mark.parametrize("short", ["RDS", "EDS", "SDS", "RTDS"])


@pytest.fixture(scope="module")
def address() -> Generator[str]:
    """Where it listens."""
    if given := os.environ.get("ZONAL_CONFORMANCE"):
        yield given
        return
    command = [sys.executable, "-m", "tests.conformance", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip().rpartition(" ")[2]
        finally:
            process.terminate()
            process.wait(SECONDS)


@pytest.fixture
async def harness(address: str, request: pytest.FixtureRequest) -> Any:
    """A node of its own for each case."""
    async with outside(address, request.node.name) as one:
        yield one


def told(short: str, variant: str, changed: list[str], held: list[str]) -> list[str]:
    """What a response to a change carries: the change; of clusters and listeners in SotW all that is subscribed."""
    return held if short in {"CDS", "LDS"} and variant.startswith("sotw") else changed


@variants
@whole
@pytest.mark.parametrize("names", [(), ("*",)], ids=["empty", "star"])
async def test_a_wildcard_gets_all_and_what_changes(
    harness: Outside, variant: str, short: str, names: tuple[str, ...]
) -> None:
    """In one response, with the version that was set; then an update and an addition; no ACK is answered."""
    await harness.setup(state(short, "1", "A", "B", "C"))
    client = harness.client(variant, short)
    await client.subscribe(short, *names)
    await client.expect(short, "1", "A", "B", "C")
    await client.silent()
    await harness.set(short, "A", "2")
    await client.expect(short, "2", *told(short, variant, ["A"], ["A", "B", "C"]))
    await harness.set(short, "D", "3")
    await client.expect(short, "3", *told(short, variant, ["D"], ["A", "B", "C", "D"]))
    await client.silent()
    await client.close()


@variants
@partial
async def test_only_clusters_and_listeners_have_a_wildcard_without_a_star(
    harness: Outside, variant: str, short: str
) -> None:
    """An empty first request of another type names nothing."""
    await harness.setup(state(short, "1", "A"))
    client = harness.client(variant, short)
    await client.subscribe(short)
    await client.silent()
    await client.subscribe(short, "A")
    await client.expect(short, "1", "A")


@variants
@every
async def test_a_subscription_gets_what_it_names_and_nothing_else(harness: Outside, variant: str, short: str) -> None:
    """An update of what is named is told, of what is not named is not."""
    await harness.setup(state(short, "1", "A", "B", "C", "D"))
    client = harness.client(variant, short)
    await client.subscribe(short, "B", "D")
    await client.expect(short, "1", "B", "D")
    await client.silent()
    await harness.set(short, "A", "2")
    await client.silent()
    await harness.set(short, "B", "3")
    await client.expect(short, "3", *told(short, variant, ["B"], ["B", "D"]))
    await client.silent()


@variants
@every
async def test_subscribing_to_one_after_the_other(harness: Outside, variant: str, short: str) -> None:
    """A name more is answered on the unchanged version."""
    await harness.setup(state(short, "1", "A", "B", "C"))
    client = harness.client(variant, short)
    await client.subscribe(short, "A")
    first = await client.expect(short, "1", "A")
    await client.subscribe(short, "B")
    second = await client.expect(short, "1", *told(short, variant, ["B"], ["A", "B"]))
    assert first.nonce != second.nonce
    await client.silent()


@variants
@every
async def test_what_does_not_exist_yet_is_told_when_it_does(harness: Outside, variant: str, short: str) -> None:
    """Delta says that it is not there; so do clusters and listeners in SotW, by leaving it out."""
    await harness.setup(state(short, "1", "A", "B"))
    client = harness.client(variant, short)
    await client.subscribe(short, "A", "Z")
    got = await client.hear()
    assert (got.version, got.names, got.removed) == ("1", ["A"], ["Z"] if client.delta else [])
    await client.accept(got)
    await client.silent()
    await harness.set(short, "Z", "2")
    await client.expect(short, "2", *told(short, variant, ["Z"], ["A", "Z"]))
    await client.silent()


@variants
@every
async def test_only_what_does_not_exist_is_named(harness: Outside, variant: str, short: str) -> None:
    """Whoever can be told is told at once, and is not left waiting."""
    await harness.setup(state(short, "1", "A"))
    client = harness.client(variant, short)
    await client.subscribe(short, "Z")
    if client.delta:
        await client.expect(short, "1", removed=["Z"])
    elif short in {"CDS", "LDS"}:
        await client.expect(short, "1")
    await client.silent()
    await harness.set(short, "Z", "2")
    await client.expect(short, "2", "Z")
    await client.silent()


@variants
@every
async def test_what_is_removed_is_told_at_once_and_again_when_it_is_back(
    harness: Outside, variant: str, short: str
) -> None:
    """In delta by name, in SotW by absence where a response is the whole state."""
    await harness.setup(state(short, "1", "A", "B"))
    client = harness.client(variant, short)
    await client.subscribe(short, "A", "B")
    await client.expect(short, "1", "A", "B")
    await harness.remove(short, "B", "2")
    if client.delta:
        await client.expect(short, "2", removed=["B"])
    elif short in {"CDS", "LDS"}:
        await client.expect(short, "2", "A")
    await client.silent()
    await harness.set(short, "B", "3")
    await client.expect(short, "3", *told(short, variant, ["B"], ["A", "B"]))
    await client.silent()


@variants
@every
async def test_unsubscribing_from_some(harness: Outside, variant: str, short: str) -> None:
    """Is not answered; updates of what was dropped are not told; what is named again is sent again."""
    await harness.setup(state(short, "1", "A", "B", "C"))
    client = harness.client(variant, short)
    await client.subscribe(short, "A", "B")
    await client.expect(short, "1", "A", "B")
    await client.subscribe(short, drop=["B"])
    await client.silent()
    await harness.set(short, "B", "2")
    await client.silent()
    await harness.set(short, "A", "3")
    await client.expect(short, "3", "A")
    await client.subscribe(short, "B")
    await client.expect(short, "3", *told(short, variant, ["B"], ["A", "B"]))
    await client.silent()


@variants
@every
@pytest.mark.parametrize("last", [(), ("",)], ids=["no name", "the empty name"])
async def test_unsubscribing_from_all(harness: Outside, variant: str, short: str, last: tuple[str, ...]) -> None:
    """Nothing is sent any more: neither an empty list nor the empty name is a wildcard then."""
    await harness.setup(state(short, "1", "A", "B"))
    client = harness.client(variant, short)
    await client.subscribe(short, "A", "B")
    await client.expect(short, "1", "A", "B")
    await client.subscribe(short, *(() if client.delta else last), drop=["A", "B"])
    got = [] if client.delta or not last or short not in {"CDS", "LDS"} else [await client.hear()]
    assert [one.names for one in got] == [[]] * len(got), "the empty name does not exist"
    for one in got:
        await client.accept(one)
    await harness.set(short, "A", "2")
    await harness.set(short, "B", "2")
    await harness.set(short, "C", "2")
    await client.silent()


@aggregated
@pytest.mark.parametrize(("one", "other"), [("CDS", "LDS"), ("RDS", "EDS"), ("EDS", "SDS"), ("LDS", "RDS")])
async def test_several_types_on_one_stream(harness: Outside, variant: str, one: str, other: str) -> None:
    """Each has its own version and nonces; a change of one says nothing about the other."""
    await harness.setup(state(one, "1", "A", "B"), state(other, "7", "A", "B"))
    client = harness.client(variant, one)
    await client.subscribe(one, "B")
    await client.expect(one, "1", "B")
    await client.subscribe(other, "B")
    await client.expect(other, "7", "B")
    await harness.set(one, "B", "2")
    await client.expect(one, "2", "B")
    await harness.set(other, "B", "8")
    await client.expect(other, "8", "B")
    await client.silent()


@aggregated
async def test_additions_are_warmed_in_order_and_removals_come_last(harness: Outside, variant: str) -> None:
    """Clusters and endpoints, their ACK, then listeners and routes; what is gone goes when its users are."""
    order = ("SDS", "CDS", "EDS", "LDS", "RDS")
    await harness.setup(*(state(short, "1", "A") for short in order))
    client = harness.client(variant, "")
    for short in order:
        await client.subscribe(short, "A", "B")
        got = await client.hear()
        assert (got.short, got.names) == (short, ["A"])
        await client.accept(got)
    await client.silent()
    await harness.setup(*(state(short, "2", "B") for short in order))
    first = [await client.hear() for _ in range(3)]
    assert [got.short for got in first] == ["SDS", "CDS", "EDS"]
    assert [got.names for got in first] == [["B"], ["A", "B"] if not client.delta else ["B"], ["B"]]
    await client.silent()
    for got in (first[0], first[2]):
        await client.accept(got)
    await client.silent()
    await client.accept(first[1])
    then = [await client.hear() for _ in range(2)]
    assert [(got.short, got.names) for got in then] == [("LDS", ["B"]), ("RDS", ["B"])]
    assert then[0].removed == (["A"] if client.delta else [])
    await client.silent()
    for got in then:
        await client.accept(got)
    if not client.delta:
        await client.expect("CDS", "2", "B")
        await client.silent()
        return
    removed: list[str] = []
    while len(removed) < 4:
        got = await client.hear()
        assert (got.names, got.removed) == ([], ["A"])
        removed.append(got.short)
        await client.accept(got)
    assert removed.index("RDS") < removed.index("CDS") < min(removed.index("EDS"), removed.index("SDS"))
    await client.silent()


@variants
@every
async def test_a_nack_is_not_answered_until_something_changes(harness: Outside, variant: str, short: str) -> None:
    """The refused version never comes again; the next one does."""
    await harness.setup(state(short, "1", "A"))
    client = harness.client(variant, short)
    await client.subscribe(short, "A")
    await client.expect(short, "1", "A")
    await harness.set(short, "A", "2")
    refused = await client.hear()
    await client.refuse(refused)
    await client.silent()
    await harness.set(short, "Z", "3")
    await client.silent()
    await harness.set(short, "A", "4")
    got = await client.expect(short, "4", "A")
    assert got.versions["A"] != refused.versions["A"]
    await client.silent()


@variants
@whole
async def test_a_first_response_that_is_refused(harness: Outside, variant: str, short: str) -> None:
    """With nothing good to go back to, a client is left alone until there is something new."""
    await harness.setup(state(short, "1", "A"))
    client = harness.client(variant, short)
    await client.subscribe(short)
    await client.refuse(await client.hear())
    await client.silent()
    await harness.set(short, "A", "2")
    await client.expect(short, "2", "A")
    await client.silent()


@sotw
@every
async def test_a_stale_nonce_is_ignored(harness: Outside, variant: str, short: str) -> None:
    """What crossed a response says nothing; the same with the newest nonce counts."""
    await harness.setup(state(short, "1", "A", "B"))
    client = harness.client(variant, short)
    await client.subscribe(short, "A")
    old = await client.expect(short, "1", "A")
    await harness.set(short, "A", "2")
    new = await client.hear()
    await client.say(short, resource_names=["A", "B"], version_info="1", response_nonce=old.nonce)
    await client.silent()
    client.names[short] = ["A", "B"]
    await client.accept(new)
    await client.expect(short, "2", *told(short, variant, ["B"], ["A", "B"]))
    await client.silent()


@delta
@every
async def test_a_stale_nonce_still_subscribes(harness: Outside, variant: str, short: str) -> None:
    """In delta a request's lists count whatever it answers, and they may ride on an ACK."""
    await harness.setup(state(short, "1", "A", "B", "C"))
    client = harness.client(variant, short)
    await client.subscribe(short, "A")
    got = await client.hear()
    await client.say(short, resource_names_subscribe=["B"], response_nonce="of another time")
    await client.expect(short, "1", "B")
    await client.say(short, resource_names_subscribe=["C"], response_nonce=got.nonce)
    await client.expect(short, "1", "C")
    await client.silent()


@delta
@whole
async def test_a_star_stands_beside_names_until_it_is_unsubscribed(harness: Outside, variant: str, short: str) -> None:
    """Names stay, all else goes without a word; a name dropped under the wildcard is answered."""
    await harness.setup(state(short, "1", "A", "B"))
    client = harness.client(variant, short)
    await client.subscribe(short, "*", "A")
    await client.expect(short, "1", "A", "B")
    await client.subscribe(short, drop=["A"])
    await client.expect(short, "1", "A")
    await client.subscribe(short, "A")
    await client.expect(short, "1", "A")
    await client.subscribe(short, drop=["*"])
    await client.silent()
    await harness.set(short, "B", "2")
    await client.silent()
    await harness.set(short, "A", "3")
    await client.expect(short, "3", "A")
    await client.silent()


@delta
@whole
async def test_an_empty_first_request_is_a_star_that_can_be_unsubscribed(
    harness: Outside, variant: str, short: str
) -> None:
    """Naming something does not end it."""
    await harness.setup(state(short, "1", "A", "B"))
    client = harness.client(variant, short)
    await client.subscribe(short)
    await client.expect(short, "1", "A", "B")
    await client.subscribe(short, "A")
    await client.expect(short, "1", "A")
    await harness.set(short, "B", "2")
    await client.expect(short, "2", "B")
    await client.subscribe(short, drop=["*"])
    await harness.set(short, "B", "3")
    await client.silent()


@sotw
@whole
async def test_naming_something_ends_an_empty_wildcard(harness: Outside, variant: str, short: str) -> None:
    """And an explicit star brings it back, beside names."""
    await harness.setup(state(short, "1", "A", "B"))
    client = harness.client(variant, short)
    await client.subscribe(short)
    await client.expect(short, "1", "A", "B")
    await client.subscribe(short, "A")
    await client.silent()
    await harness.set(short, "B", "2")
    await client.silent()
    await client.subscribe(short, "*")
    await client.expect(short, "2", "A", "B")
    await client.silent()


@delta
@every
async def test_a_reconnect_that_reports_what_it_holds(harness: Outside, variant: str, short: str) -> None:
    """Nothing that it has, what has changed, and by name what is gone."""
    await harness.setup(state(short, "1", "A", "B", "C"))
    first = harness.client(variant, short)
    await first.subscribe(short, "A", "B", "C")
    held = (await first.expect(short, "1", "A", "B", "C")).versions
    await first.close()
    second = harness.client(variant, short)
    await second.subscribe(short, "A", "B", "C", **held)
    await second.silent()
    await second.close()
    await harness.set(short, "A", "2")
    await harness.remove(short, "C", "2")
    third = harness.client(variant, short)
    await third.subscribe(short, "A", "B", "C", **held)
    assert await third.gather(2) == (["A"], ["C"])
    await third.silent()


@delta
@whole
async def test_a_wildcard_that_reconnects(harness: Outside, variant: str, short: str) -> None:
    """Is answered, with nothing, when it holds everything."""
    await harness.setup(state(short, "1", "A", "B"))
    first = harness.client(variant, short)
    await first.subscribe(short)
    held = (await first.expect(short, "1", "A", "B")).versions
    await first.close()
    second = harness.client(variant, short)
    await second.subscribe(short, **held, gone="0")
    assert await second.gather(1) == ([], ["gone"])
    await second.silent()


@sotw
@every
async def test_a_new_stream_is_answered_whatever_version_it_reports(harness: Outside, variant: str, short: str) -> None:
    """Nonces and what was returned are a stream's own."""
    await harness.setup(state(short, "1", "A"))
    first = harness.client(variant, short)
    await first.subscribe(short, "A")
    got = await first.expect(short, "1", "A")
    await first.close()
    second = harness.client(variant, short)
    second.names[short] = ["A"]
    await second.say(short, resource_names=["A"], version_info="1", response_nonce=got.nonce)
    await second.expect(short, "1", "A")
    await second.silent()


@variants
@every
async def test_the_version_alone_is_an_update(harness: Outside, variant: str, short: str) -> None:
    """A resource that is given whole again, the same, under another version: it counts as updated."""
    body = {"type_url": TYPES[short], "value": piece(1, "A")}
    await harness.setup(state(short, "1", "B"))
    await harness.set(short, "A", "1", resource=body)
    client = harness.client(variant, short)
    await client.subscribe(short, "A", "B")
    before = await client.expect(short, "1", "A", "B")
    await harness.set(short, "A", "2", resource=body)
    after = await client.expect(short, "2", *told(short, variant, ["A"], ["A", "B"]))
    assert client.delta == (before.versions["A"] != after.versions["A"])
    one = messages()["Resource"](name="A", resource=body)
    await harness.setup(messages()["TypeState"](type_url=TYPES[short], version="3", resources=[one]))
    got = await client.hear()
    assert got.version == "3"
    assert "A" in got.names


@variants
@every
async def test_a_state_that_is_cleared_leaves_nothing_to_the_next_case(
    harness: Outside, variant: str, short: str
) -> None:
    """Not on the open stream, and not to a new one of the same node with the same names and version."""
    await harness.setup(state(short, "1", "A", "B"))
    first = harness.client(variant, short)
    await first.subscribe(short, "A", "B")
    await first.expect(short, "1", "A", "B")
    await harness.clear()
    if first.delta:
        assert (await first.hear()).removed == ["A", "B"]
    elif short in {"CDS", "LDS"}:
        assert (await first.hear()).names == []
    first.drop()
    await harness.setup(state(short, "1", "A"))
    second = harness.client(variant, short)
    await second.subscribe(short, "A")
    await second.expect(short, "1", "A")
    await second.silent()


@variants
@every
async def test_a_client_may_come_before_its_state(harness: Outside, variant: str, short: str) -> None:
    """It waits, and is then told."""
    client = harness.client(variant, short)
    await client.subscribe(short, "A")
    await client.silent()
    await harness.setup(state(short, "5", "A"))
    await client.expect(short, "5", "A")
    await client.silent()


@pytest.mark.parametrize("variant", VARIANTS[1::2])
async def test_streams_of_single_types_of_one_node(harness: Outside, variant: str) -> None:
    """Stand beside each other, two of one type too: each is told, each has its own subscription."""
    await harness.setup(state("CDS", "1", "A", "B"), state("EDS", "1", "A"))
    one, two, endpoints = (harness.client(variant, short) for short in ("CDS", "CDS", "EDS"))
    await one.subscribe("CDS", "A")
    await two.subscribe("CDS")
    await endpoints.subscribe("EDS", "A")
    await one.expect("CDS", "1", "A")
    await two.expect("CDS", "1", "A", "B")
    await endpoints.expect("EDS", "1", "A")
    await harness.set("CDS", "B", "2")
    await two.expect("CDS", "2", *told("CDS", variant, ["B"], ["A", "B"]))
    await one.silent()
    await endpoints.silent()


@aggregated
async def test_another_aggregated_stream_of_a_node_takes_its_place(harness: Outside, variant: str) -> None:
    """The older one ends with a reason."""
    await harness.setup(state("CDS", "1", "A"))
    old, new = harness.client(variant, ""), harness.client(variant, "")
    for one in (old, new):
        await one.subscribe("CDS")
        await one.expect("CDS", "1", "A")
    async with asyncio.timeout(SECONDS):
        assert await old.call.code() == grpc.StatusCode.ABORTED
    await harness.set("CDS", "A", "2")
    await new.expect("CDS", "2", "A")


@variants
async def test_nodes_do_not_hear_of_each_other(harness: Outside, variant: str, address: str) -> None:
    """What is set for one is not set for another, on whatever connection."""
    await harness.setup(state("CDS", "1", "A"))
    async with outside(address, f"{harness.node} other") as others:
        await others.setup(state("CDS", "9", "X"))
        mine, other = harness.client(variant, "CDS"), others.client(variant, "CDS")
        await mine.subscribe("CDS")
        await other.subscribe("CDS")
        await mine.expect("CDS", "1", "A")
        await other.expect("CDS", "9", "X")
        await others.set("CDS", "X", "10")
        await other.expect("CDS", "10", "X")
        await mine.silent()


@pytest.mark.parametrize("variant", VARIANTS[1::2])
@every
async def test_a_stream_of_one_type_need_not_say_which(harness: Outside, variant: str, short: str) -> None:
    """The service says it."""
    await harness.setup(state(short, "1", "A"))
    client: Client = harness.client(variant, short)
    names = {"resource_names_subscribe" if client.delta else "resource_names": ["A"]}
    await client.call.write(client._request(node={"id": harness.node}, **names).SerializeToString())
    client._introduced = True
    client.names[short] = ["A"]
    await client.expect(short, "1", "A")


@aggregated
async def test_an_aggregated_stream_has_to_say_which_type(harness: Outside, variant: str) -> None:
    """INVALID_ARGUMENT."""
    client = harness.client(variant, "")
    await client.call.write(client._request(node={"id": harness.node}).SerializeToString())
    async with asyncio.timeout(SECONDS):
        assert await client.call.code() == grpc.StatusCode.INVALID_ARGUMENT
