"""What the DNS responder says, checked with dnspython as an independent client."""

from __future__ import annotations

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zone_cp.agent.dns import Forward, Ignore, Reply, failure, matches, verdict
from zone_cp.agent.dns_table import InvalidName, NameTable, wire_name

VIP = "242.0.0.7"


def table() -> NameTable:
    made = NameTable()
    made.replace("1", {"payments.ext.mesh": VIP, "ledger.ext.mesh": "242.128.0.9"})
    return made


def ask(name: str, kind: str = "A", **options: object) -> dns.message.Message:
    query = dns.message.make_query(name, kind, **options)  # type: ignore[arg-type]
    said = verdict(query.to_wire(), table())
    assert isinstance(said, Reply)
    answer = dns.message.from_wire(said.data)
    assert query.is_response(answer)
    return answer


def test_known_name_is_answered() -> None:
    """A name of the table is answered with its VIP, authoritatively, for five seconds."""
    answer = ask("payments.ext.mesh")
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.flags & dns.flags.AA
    assert answer.flags & dns.flags.RA
    (records,) = answer.answer
    assert (records.ttl, [record.to_text() for record in records]) == (5, [VIP])


def test_case_is_echoed() -> None:
    """Names match in any case, and the question comes back in the case it was asked in (0x20)."""
    query = dns.message.make_query("PaYmEnTs.eXt.MESH", "A")
    said = verdict(query.to_wire(), table())
    assert isinstance(said, Reply)
    assert b"\x08PaYmEnTs\x03eXt\x04MESH\0" in said.data
    assert dns.message.from_wire(said.data).answer[0][0].to_text() == VIP


@pytest.mark.parametrize("kind", ["AAAA", "TXT", "HTTPS", "MX", "SRV", "NS", "CNAME", "SOA"])
def test_other_types_are_no_data(kind: str) -> None:
    """A known name has no other records: NOERROR, no answer, an SOA that lets it be cached briefly."""
    answer = ask("payments.ext.mesh", kind)
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.answer == []
    assert answer.authority[0].rdtype == dns.rdatatype.SOA
    assert answer.authority[0][0].minimum == 5


def test_any_is_answered_with_the_address() -> None:
    """ANY gets the one record there is."""
    assert ask("ledger.ext.mesh", "ANY").answer[0][0].to_text() == "242.128.0.9"


def test_edns_is_tolerated() -> None:
    """A query with EDNS0 gets an OPT record back; without, it gets none."""
    assert ask("payments.ext.mesh", use_edns=0, payload=4096).edns == 0
    assert ask("payments.ext.mesh").edns == -1


def test_unknown_edns_version_is_bad_version() -> None:
    """An EDNS version that does not exist yet is answered BADVERS."""
    assert ask("payments.ext.mesh", use_edns=1).rcode() == dns.rcode.BADVERS


def test_other_classes_are_refused() -> None:
    """A known name outside class IN is refused."""
    assert ask("payments.ext.mesh", rdclass=dns.rdataclass.CH).rcode() == dns.rcode.REFUSED


def test_unknown_names_are_forwarded() -> None:
    """Any other name is somebody else's, also below and above a known one."""
    for name in ("example.com", "x.payments.ext.mesh", "ext.mesh", "."):
        query = dns.message.make_query(name, "A").to_wire()
        assert verdict(query, table()) == Forward(query, len(query))


def test_not_a_query() -> None:
    """Responses and fragments are ignored, other opcodes are not implemented, two questions are malformed."""
    query = dns.message.make_query("payments.ext.mesh", "A")
    assert verdict(dns.message.make_response(query).to_wire(), table()) == Ignore()
    assert verdict(b"\0\1\2", table()) == Ignore()
    update = dns.message.make_query("payments.ext.mesh", "A")
    update.set_opcode(dns.opcode.UPDATE)
    for wire, code in ((update.to_wire(), dns.rcode.NOTIMP), (b"\0\1\1\0\0\2" + bytes(6), dns.rcode.FORMERR)):
        said = verdict(wire, table())
        assert isinstance(said, Reply)
        assert said.data[3] & 15 == code


def test_compressed_question_is_malformed() -> None:
    """A pointer in a question's name is refused, never followed."""
    said = verdict(b"\0\1\1\0\0\1" + bytes(6) + b"\xc0\x0c\0\1\0\1", table())
    assert isinstance(said, Reply)
    assert said.data[3] & 15 == dns.rcode.FORMERR


def test_failure_repeats_the_question() -> None:
    """SERVFAIL for a forwarded query repeats its question."""
    query = dns.message.make_query("example.com", "A")
    wire = query.to_wire()
    answer = dns.message.from_wire(failure(wire, len(wire)))
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert query.is_response(answer)


def test_answers_of_others_do_not_match() -> None:
    """An upstream's datagram counts only with our id and our question."""
    query = dns.message.make_query("example.com", "A")
    wire = query.to_wire()
    good = dns.message.make_response(query).to_wire()
    other = dns.message.make_response(dns.message.make_query("evil.example", "A", id=query.id)).to_wire()
    assert matches(wire, len(wire), good, wire[:2])
    assert not matches(wire, len(wire), other, wire[:2])
    assert not matches(wire, len(wire), good, bytes((good[0] ^ 1, good[1])))
    assert not matches(wire, len(wire), wire, wire[:2])


@settings(max_examples=300)
@given(st.binary(max_size=80))
def test_no_bytes_break_it(data: bytes) -> None:
    """Whatever arrives, the verdict is a verdict."""
    verdict(data, table())


@settings(max_examples=300)
@given(st.data())
def test_damaged_queries_do_not_break_it(data: st.DataObject) -> None:
    """A real query with bytes changed and cut off still gets a verdict, and a reply under its own id."""
    wire = bytearray(dns.message.make_query("payments.ext.mesh", "A", use_edns=0).to_wire())
    for at in data.draw(st.lists(st.integers(0, len(wire) - 1), max_size=4)):
        wire[at] = data.draw(st.integers(0, 255))
    cut = bytes(wire[: data.draw(st.integers(0, len(wire)))])
    said = verdict(cut, table())
    if isinstance(said, Reply):
        assert said.data[:2] == cut[:2]
        assert said.data[2] & 0x80


labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
addresses = st.ip_addresses(v=4, network="242.0.0.0/8").map(str)
changes = st.lists(st.tuples(st.dictionaries(names, addresses, max_size=4), st.lists(names, max_size=3)), max_size=6)


@settings(max_examples=60)
@given(changes, st.integers(1, 600))
def test_increments_equal_the_whole(steps: list[tuple[dict[str, str], list[str]]], ttl: int) -> None:
    """A table built by increments answers exactly as one given whole, and as one read back from disk."""
    made, expected = NameTable(), dict[str, str]()
    for number, (upsert, remove) in enumerate(steps):
        # Any of our own names may go too, not only random ones.
        gone = [*remove, *list(expected)[:1]]
        made.update(str(number), upsert, gone, ttl)
        expected = {name: ip for name, ip in expected.items() if name not in gone} | upsert
    whole, loaded = NameTable(), NameTable()
    whole.replace(made.version, expected, made.ttl_seconds)
    loaded.load(made.dump())
    assert made.answers == whole.answers == loaded.answers
    assert dict(made.names) == expected == dict(loaded.names)
    assert loaded.version == made.version


def test_bad_names_are_left_out_with_a_reason() -> None:
    """One bad entry neither stops the others nor goes unmentioned."""
    made = NameTable()
    faults = made.update("2", {"ok.mesh": VIP, "a..b": VIP, "v6.mesh": "::1", "x" * 64: VIP}, ())
    assert dict(made.names) == {"ok.mesh": VIP}
    assert len(faults) == 3


def test_names_are_checked() -> None:
    """What cannot stand in a question has no wire form."""
    for name in ("", "a..b", "x" * 64, "ä.mesh", ".".join(["x" * 60] * 5)):
        with pytest.raises(InvalidName):
            wire_name(name)
    assert wire_name("Ab.Mesh.") == b"\x02ab\x04mesh\0"


def test_foreign_dump_is_refused() -> None:
    """A file of another format, or none at all, leaves the table as it was."""
    made = table()
    for data in (b"", b"{}", b'{"format":2,"version":"9","ttl_seconds":5,"names":{}}'):
        with pytest.raises(ValueError, match=r".*"):
            made.load(data)
    assert len(made) == 2
