"""Laws of the language: what is printed parses back, what is cut joins again, any text is a policy or a diagnosis."""

from __future__ import annotations

import itertools
import json
import re
from difflib import get_close_matches
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy import PolicyError, blocks, parse, print_policy
from router.policy.check import HOSTS_MAX
from router.policy.errors import DIAGNOSTICS_MAX
from router.policy.json_form import JsonPolicyError, from_json, to_json
from router.policy.parser import STATEMENTS_MAX, TEXT_BYTES_MAX
from router.policy.syntax import Policy
from router.policy.values import (
    DURATION_US_MAX,
    BadValueError,
    read_duration,
    read_endpoint,
    read_host_pattern,
    write_duration,
)
from tests.router.policy.policy_strategies import policies
from tests.router.policy.test_json_form import WHOLE_TEXT

VECTORS = Path(__file__).parents[2] / "vectors" / "policy"
SOURCES = [path.read_text(encoding="utf-8").partition("-" * 10)[0] for path in sorted(VECTORS.glob("*.policytest"))]
WHOLE = (VECTORS / "whole-language.policytest").read_text(encoding="utf-8").partition("-" * 10)[0]
MUTANTS = 2_000


@given(policies())
def test_what_is_printed_parses_back_to_the_same(policy: Policy) -> None:
    text = print_policy(policy)
    assert parse(text) == policy
    assert print_policy(parse(text)) == text


def test_a_protocol_may_be_a_word_of_the_language() -> None:
    text = (
        "edition 1\nregion a { at 1 2 endpoint 192.0.2.1:1 }\n"
        'route r for "*" { rule r { when upgrade in "for", websocket deny 403 } primary a }\n'
    )
    assert parse(print_policy(parse(text))) == parse(text)


@given(policies(), st.randoms(use_true_random=False))
def test_blocks_join_to_the_text_whatever_stands_between_statements(policy: Policy, random: Random) -> None:
    fillers = ["\n", "\n\n", "  # why\n", "# above\n# it\n", "\r\n", "\t"]
    pieces = [piece + "".join(random.choices(fillers, k=2)) for piece in print_policy(policy).split("\n\n")]
    text = random.choice(["", "# head\n", "\n"]) + "\n".join(pieces) + random.choice(["", "# tail", "\n# tail\n"])
    parts = blocks(text)
    assert "".join(parts) == text
    assert len(parts) == len(blocks(print_policy(policy)))
    assert parse(text).blocks == parts
    assert parse(text) == policy


def test_a_comment_belongs_to_the_statement_it_stands_above_or_beside() -> None:
    text = (
        "# one\nedition 1 # beside\n\n# above\nregion a {\n at 1 2 endpoint 192.0.2.1:1\n}"
        ' route r for "*" { primary a }\n# end'
    )
    assert blocks(text) == (
        "# one\nedition 1 # beside\n",
        "\n# above\nregion a {\n at 1 2 endpoint 192.0.2.1:1\n}",
        ' route r for "*" { primary a }\n# end',
    )


def test_one_changed_statement_is_one_changed_block() -> None:
    changed = blocks(WHOLE.replace("primary nrt", "primary iad"))
    assert len(set(blocks(WHOLE)) - set(changed)) == 1


def test_a_text_of_comments_has_one_block_or_none() -> None:
    assert blocks("") == ()
    assert blocks("# nothing\n") == ("# nothing\n",)


def mutated(source: str, random: Random) -> str:
    """One to three small accidents: a slip of the finger, a bad paste, a cut-off file."""
    for _ in range(random.randint(1, 3)):
        at = random.randint(0, len(source))
        end = min(len(source), at + random.randint(1, 12))
        accident = random.randrange(6)
        if accident == 0:
            source = source[:at] + source[end:]
        elif accident == 1:
            source = source[:at] + random.choice('{}",#\n\r\t\0é"\ud800\u202e0%/:.-[]*') + source[at:]
        elif accident == 2:
            source = source[:at] + source[at:end] * 2 + source[end:]
        elif accident == 3:
            source = source[:at]
        elif accident == 4:
            source = source[:at] + "".join(random.sample(source[at:end], end - at)) + source[end:]
        else:
            source = source[:at] + random.choice(("zone", " 1e9 ", "9" * 5_000, " nearest 0 ", "::", "}")) + source[at:]
    return source


def test_every_mutated_policy_parses_or_is_diagnosed() -> None:
    random = Random("mutated policies")
    refused = 0
    for number in range(MUTANTS):
        text = mutated(SOURCES[number % len(SOURCES)] if number % 2 else WHOLE, random)
        try:
            policy = parse(text)
        except PolicyError as error:
            refused += 1
            rendered = error.render(text)
            rendered.encode("utf-8")
            for diagnostic in error.diagnostics:
                assert diagnostic.message
                assert diagnostic.expected
                assert diagnostic.line <= text.count("\n") + 1
            assert all(len(line) < 800 for line in rendered.split("\n"))
        else:
            assert parse(print_policy(policy)) == policy
            assert "".join(policy.blocks) == text
    assert MUTANTS // 2 < refused < MUTANTS  # or the accidents are too mild, or too wild, to prove anything


@given(st.text())
def test_any_text_parses_or_is_diagnosed(text: str) -> None:
    with pytest.raises(PolicyError):  # a random text with an edition, a region and a route will not be seen
        parse(text)


def test_after_each_word_of_the_language_what_does_not_follow_is_diagnosed() -> None:
    words = re.findall(r'"[^"\n]*"|[{}(),]|[^\s{}()",#]+', WHOLE_TEXT)
    expected: list[str] = []
    for count, wrong in itertools.product(range(len(words)), ("}", "{")):
        try:
            parse(" ".join([*words[:count], wrong]))
        except PolicyError as error:
            expected += [diagnostic.expected for diagnostic in error.diagnostics]
    assert all(expected)
    assert len(expected) > len(words), "hardly a brace was right"


@pytest.mark.parametrize(
    ("begun", "expected"),
    [
        ("region a { at 1", "a longitude in degrees (8.68)"),
        ("region a { endpoint 192.0.2.1:1 tls", 'a host in quotes ("shop.example.com")'),
        ("region a { avoid during", 'a window in quotes ("Mon-Fri 22:00-06:00 Europe/Berlin")'),
        ("group a {", "names of regions or '}'"),
        ("zone a { country DE,", "a country (DE)"),
        ('health a { probe "/" expect 200,', "a status (200, or 200-299)"),
        ("health a { saturation above", "a percentage (95%)"),
        ("health a { damp penalty", "a value"),
        ('route a for "*" { rule b { when zone in', "a value"),
        ('route a for "*" { stick by cookie("uid"),', "a key (cookie(\"uid\")) or 'path'"),
        ('route a for "*" { stick by ip(24) for', "a duration (12h)"),
        ('route a for "*" { retry 2 methods GET,', "a method (GET)"),
        ('route a for "*" { hedge after', "a duration (50ms)"),
        ('route a for "*" { timeout', "connect, first-byte or total"),
        ('route a for "*" { primary fra,', "the name of a region"),
        ('test "a" { given method', "a value or '('"),
        ('test "a" { at', 'a moment in quotes ("2027-03-28T03:30:00+02:00")'),
        ('test "a" { set fra', "a level (down) or 'saturation'"),
        ('test "a" { repeat', "a number of times (20)"),
        ('test "a" { expect load', "the name of a region or '<='"),
        ('test "a" { expect switches <=', "a number or a percentage"),
    ],
)
def test_what_is_expected_is_said_by_the_statement_that_it_stands_in(begun: str, expected: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(f"edition 1\n{begun} {{")
    said = [diagnostic.expected for diagnostic in caught.value.diagnostics if diagnostic.column == len(begun) + 2]
    assert expected in said


def test_carets_point_at_what_is_wrong() -> None:
    with pytest.raises(PolicyError) as caught:
        parse("edition 1\nregion fra {\n\tat 50 8\n\tendpiont 192.0.2.1:80\n}\n", "site/edge.policy")
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, diagnostic.line, diagnostic.column, diagnostic.width) == ("E004", 4, 2, 8)
    assert diagnostic.file == "site/edge.policy"
    assert diagnostic.hint == "did you mean 'endpoint'?"
    assert "4 | \tendpiont 192.0.2.1:80\n  | \t^^^^^^^^\n" in caught.value.render("\n\n\n\tendpiont 192.0.2.1:80")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#" * (TEXT_BYTES_MAX + 1), "bytes long"),
        ("é" * (TEXT_BYTES_MAX // 2 + 1), "bytes long"),
        ("zone a{}" * (STATEMENTS_MAX + 1), "statements"),
        ("zone a {\n}\n" * 50_000, "bytes long"),
    ],
)
def test_a_text_past_a_limit_is_one_diagnostic(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        parse(text)
    assert [diagnostic.code for diagnostic in caught.value.diagnostics] == ["E001"]


@pytest.mark.parametrize(
    "kind", ["group g{} {{ fra }}", 'test "t{}" {{ expect region fra }}', "never n{} {{ serves fra }}"]
)
def test_too_many_statements_of_a_kind_are_refused_where_there_is_no_route(kind: str) -> None:
    many = "\n".join(kind.format(number) for number in range(257))
    with pytest.raises(PolicyError, match="the policy has 257 ") as caught:
        parse("edition 1\nregion fra { at 1 2 endpoint 192.0.2.1:1 }\n" + many)
    assert sorted(diagnostic.code for diagnostic in caught.value.diagnostics) == ["E001", "E312"]


def test_who_names_too_many_hosts_is_told_so_and_no_more() -> None:
    hosts = " ".join(f'"h{number}"' for number in range(HOSTS_MAX))
    routes = f'route a for {hosts} {{ primary fra }}\nroute b for "h1" {{ primary fra }}\n'  # which is never reached
    with pytest.raises(PolicyError) as caught:
        parse("edition 1\nregion fra { at 1 2 endpoint 192.0.2.1:1 }\n" + routes)
    assert [diagnostic.code for diagnostic in caught.value.diagnostics] == ["E001"]


@pytest.mark.parametrize("opening", ["(", "{", "not (", "route r { "])
def test_deep_nesting_is_refused_by_a_named_limit_before_it_is_parsed(opening: str) -> None:
    text = 'edition 1\nroute r for "*" { rule a { when ' + opening * 20_000
    with pytest.raises(PolicyError) as caught:
        parse(text)
    assert "E006" in [diagnostic.code for diagnostic in caught.value.diagnostics]


def test_too_many_diagnostics_are_counted_not_listed() -> None:
    text = "edition 1\n" + "".join(f"zone z{n} {{ 10.0.0.1/8 }}\n" for n in range(DIAGNOSTICS_MAX + 7))
    with pytest.raises(PolicyError) as caught:
        parse(text)
    assert len(caught.value.diagnostics) == DIAGNOSTICS_MAX
    assert caught.value.left_out == 7 + 2  # and that there is neither region nor route
    assert caught.value.render(text).endswith("... and 9 more, once these are mended")


@pytest.mark.parametrize(
    "wrong",
    [
        "group g { " + ",".join(f"x{number}" for number in range(500)) + " }",
        'route b for "b" { primary ' + ",".join(f"x{number}" for number in range(500)) + " }",
        'route b for "b" { ' + "".join(f"primary any of x{number}\n" for number in range(500)) + " }",
        'route b for "b" { ' + "".join(f"zone x{number} {{ primary any }}\n" for number in range(500)) + " }",
        'route b for "b" { rule r { when zone in ' + ",".join(f"x{number}" for number in range(500)) + " deny 403 } }",
        'test "t" { ' + "".join(f"expect rule x{number}\n" for number in range(500)) + " }",
        'route b for "b" { rule r { ' + 'during "10:00-11:00 Berlin"\n' * 500 + " deny 403 } }",
        "".join(f"region y{number} {{ health x{number} }}\n" for number in range(500)),
    ],
)
def test_what_was_meant_is_searched_for_where_it_is_shown(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[str] = []

    def counted(word: str, known: list[str], **options: Any) -> list[str]:
        searches.append(word)
        return get_close_matches(word, known, **options)

    monkeypatch.setattr("router.policy.errors.difflib.get_close_matches", counted)
    names = "".join(f"region fra{number} {{ at 1 1 endpoint 192.0.2.1:{1 + number} }}\n" for number in range(20))
    with pytest.raises(PolicyError) as caught:
        parse(f"edition 1\n{names}zone eu {{ 10.0.0.0/8 }}\n{wrong}\n")
    assert caught.value.left_out >= 450
    assert len(searches) <= DIAGNOSTICS_MAX


@pytest.mark.parametrize("dress", ["::ffff:192.0.2.1", "::FFFF:C000:0201", "0:0:0:0:0:ffff:c000:201"])
def test_an_ipv4_address_in_ipv6_dress_reads_alike_under_every_python(dress: str) -> None:
    """Endpoints are hashed by their text, and hosts compared by it, at sites with different ones."""
    assert read_endpoint(f"[{dress}]:443") == ("192.0.2.1", 443)
    assert read_host_pattern(f"[{dress}]") == "[::ffff:192.0.2.1]"
    with pytest.raises(BadValueError, match="nothing can be reached"):
        read_endpoint("[::ffff:0.0.0.0]:443")


@given(st.integers(1_000, DURATION_US_MAX))
def test_a_duration_is_written_as_it_is_read(duration_us: int) -> None:
    assert read_duration(write_duration(duration_us)) == duration_us


def test_each_thing_that_is_expected_is_an_action() -> None:
    policy = 'edition 1 region fra { at 1 1 endpoint 192.0.2.1:80 } route all for "*" { primary fra }'
    played = 'test "t" { given host "h" repeat 100 { step 1s expect region fra route all } }'
    with pytest.raises(PolicyError, match="the test has 2101 actions, repeats multiplied out"):
        parse(f"{policy} {played.replace('route all', ' '.join(['route all'] * 19))}")
    assert len(parse(f"{policy} {played.replace('route all', ' '.join(['route all'] * 17))}").tests) == 1
    written = json.loads(to_json(parse(f"{policy} {played}")))
    repeat = next(action for action in written["tests"][0]["actions"] if action["is"] == "Repeat")
    repeat["count"] = 1_000
    with pytest.raises(JsonPolicyError, match="the test has 3001 actions"):
        from_json(json.dumps(written))
