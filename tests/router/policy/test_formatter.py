"""`fmt`: the same policy, every comment kept, and nothing left to do the second time."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from router.policy import PolicyError, format_policy, parse, print_policy
from router.policy.syntax import Policy
from tests.router.policy.rule_strategies import whole_policies

VECTORS = Path(__file__).parents[2] / "vectors" / "policy"


def disordered(text: str, random: Random) -> str:
    """The same words with other spaces, line breaks and comments between them."""
    found = []
    for token in re.findall(r'"[^"\n]*"|[{}(),]|[^\s{}()",]+', text):
        filler = random.choice((" ", " ", "  ", "\n", "\n\n\n", " # why not\n", "\t"))
        found.append(token + filler)
    return "".join(found)


@profile(max_examples=min(25, profile().max_examples))
@given(whole_policies(), st.integers(0, 1 << 32))
def test_formatting_changes_no_meaning_and_is_done_once(policy: Policy, seed: int) -> None:
    text = disordered(print_policy(policy), Random(seed))
    done = format_policy(text)
    assert parse(done) == policy
    assert format_policy(done) == done
    assert done.count("# why not") == text.count("# why not")


def test_the_golden_file_of_the_formatter() -> None:
    text = """

edition   1   # first
region fra{at 50.11 8.68
endpoint 192.0.2.1:443}   # one line
# above
route all for "*"   {
# inside
rule r { when method in GET ,POST and
( path in "/a/**"
or header( "x" ) present )
primary nearest( 2 ) }
   primary   nearest


   otherwise deny 503
      }
# end"""
    assert (
        format_policy(text)
        == """edition 1  # first
region fra { at 50.11 8.68
  endpoint 192.0.2.1:443 }  # one line
# above
route all for "*" {
  # inside
  rule r { when method in GET, POST and
      (path in "/a/**"
      or header("x") present)
    primary nearest 2 }
  primary nearest

  otherwise deny 503
}
# end
"""
    )


def test_what_does_not_hold_is_not_touched() -> None:
    with pytest.raises(PolicyError):
        format_policy("edition 1\nroute")


def test_every_policy_of_the_vectors_formats() -> None:
    for path in sorted(VECTORS.glob("*.policytest")):
        source = path.read_text(encoding="utf-8").partition("-" * 10)[0]
        try:
            policy = parse(source)
        except PolicyError:
            continue
        assert parse(format_policy(source)) == policy
