"""One rule, four engines, one run: ours against cel-python, cedarpy and regopy, each prepared as its makers advise.

The rule: POST to /v1/cart and below, of tenants eu and uk, from Germany or France. Ours is timed twice: the rule alone
(a generated function), and a whole decision with it (host, zone, rule, table). Requests alternate between one that
passes and one that does not, and every engine must say so. `pip install -e '.[bench]'` brings the rivals; those that
are not installed are left out and named.
"""

from __future__ import annotations

import importlib
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from lattice.types import Level
from router.decision.decide import decide
from router.decision.layout import SitePlace
from router.decision.plan import plan
from router.decision.predicates import chooser
from router.decision.program import compile_policy
from router.decision.request import Request
from router.policy import parse

POLICY = """edition 1
region fra { at 50 8 endpoint 192.0.2.1:80 }
region iad { at 38 -77 endpoint 192.0.2.2:80 }
route shop for "shop.example.com" {
  rule eu {
    when path in "/v1/cart/**" and method in POST and header("x-tenant") in "eu", "uk" and country in DE, FR
    primary fra
  }
  primary iad
}
"""
FACTS = [
    {"path": "/v1/cart/7", "method": "POST", "tenant": "eu", "country": "DE"},
    {"path": "/v1/cart/7", "method": "POST", "tenant": "eu", "country": "US"},
]
EXPECTED = [True, False]
Ask = Callable[[int], bool]
"""Whether request 0 or 1 passes."""


def ours() -> tuple[Ask, Ask]:
    program = compile_policy(parse(POLICY))
    table = plan(program, dict.fromkeys(program.regions, Level.HEALTHY), SitePlace("here", 0, 0))
    choose = chooser(program.routes[0], (0,))
    requests = [
        Request(
            "198.51.100.7", "shop.example.com", each["path"], each["method"], (("x-tenant", each["tenant"]),),
            each["country"],
        )
        for each in FACTS
    ]  # fmt: skip
    return (
        lambda number: choose(requests[number], requests[number].path, "", None) == 0,
        lambda number: decide(table, requests[number], frozenset()).region == "fra",
    )


def cel() -> Ask:
    celpy: Any = importlib.import_module("celpy")
    environment = celpy.Environment()
    tree = environment.compile(
        '(path == "/v1/cart" || path.startsWith("/v1/cart/")) && method == "POST" && tenant in ["eu", "uk"]'
        ' && country in ["DE", "FR"]'
    )
    program = environment.program(tree)
    inputs = [{name: celpy.celtypes.StringType(value) for name, value in each.items()} for each in FACTS]
    return lambda number: bool(program.evaluate(inputs[number]))


def cedar() -> Ask:
    cedarpy: Any = importlib.import_module("cedarpy")
    policies = cedarpy.PolicySet.from_str(
        """permit(principal, action == Action::"POST", resource) when {
          (context.path == "/v1/cart" || context.path like "/v1/cart/*")
          && ["eu", "uk"].contains(context.tenant) && ["DE", "FR"].contains(context.country) };"""
    )
    entities = cedarpy.Entities.from_json_str("[]")
    requests = [
        {
            "principal": {"type": "User", "id": "any"},
            "action": {"type": "Action", "id": each["method"]},
            "resource": {"type": "Route", "id": "shop"},
            "context": {name: each[name] for name in ("path", "tenant", "country")},
        }
        for each in FACTS
    ]
    return lambda number: bool(cedarpy.is_authorized(requests[number], policies, entities).allowed)


def rego() -> Ask:
    regopy: Any = importlib.import_module("regopy")
    interpreter = regopy.Interpreter()
    interpreter.add_module(
        "shop",
        """package shop
        default allow := false
        cart if input.path == "/v1/cart"
        cart if startswith(input.path, "/v1/cart/")
        allow if {
            cart
            input.method == "POST"
            input.tenant in {"eu", "uk"}
            input.country in {"DE", "FR"}
        }""",
    )
    interpreter.set_input(FACTS[0])
    bundle = interpreter.build("x := data.shop.allow")

    def ask(number: int) -> bool:
        interpreter.set_input(FACTS[number])
        return bool(interpreter.query_bundle(bundle).results[0].bindings["x"])

    return ask


def cost_ns(ask: Ask, seconds: float) -> int:
    """CPU time: the median over batches of the mean of a call."""
    assert [ask(0), ask(1)] == EXPECTED
    count = 1
    while _batch(ask, count) < seconds / 20 * 1e9:
        count *= 2
    return round(statistics.median(_batch(ask, count) / (2 * count) for _ in range(9)))


def _batch(ask: Ask, count: int) -> int:
    start = time.process_time_ns()
    for _ in range(count):
        ask(0)
        ask(1)
    return time.process_time_ns() - start


def measure(seconds: float = 1.0) -> dict[str, float | int | None]:
    """Costs in nanoseconds; and how many times as much each rival takes as our rule, and as our whole decision."""
    rule, whole = ours()
    found: dict[str, float | int | None] = {"rule_ns": cost_ns(rule, seconds), "decision_ns": cost_ns(whole, seconds)}
    of_rule, of_decision = found["rule_ns"], found["decision_ns"]
    assert of_rule
    assert of_decision
    for name, prepare in (("cel", cel), ("cedar", cedar), ("rego", rego)):
        try:
            cost: int | None = cost_ns(prepare(), seconds)
        except ImportError:
            cost = None
        found[f"{name}_ns"] = cost
        found[f"{name}_times"] = None if cost is None else round(cost / of_rule, 1)
        found[f"{name}_times_of_decision"] = None if cost is None else round(cost / of_decision, 1)
    return found


if __name__ == "__main__":
    print(json.dumps(measure()))
