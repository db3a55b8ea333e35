"""Conditions, settings, rules and promises: from plain nodes to the syntax tree."""

from __future__ import annotations

from collections.abc import Callable

from lattice.types import SECOND
from router.policy import values
from router.policy.conditions import (
    FIELDS,
    VALUES_MAX,
    WITH_ARGUMENT,
    And,
    Condition,
    Match,
    Not,
    Or,
    Present,
)
from router.policy.errors import did_you_mean, excerpt
from router.policy.reading import Node, Reader, shortened, unquoted
from router.policy.settings import KEYS, Cache, Damp, Hedge, Key, Panic, Retry, Settings, Share, Spill, Stick, Timeouts
from router.policy.span import Span
from router.policy.syntax import Deny, RegionName
from router.policy.windows import Window
from router.policy.words import KEY_READERS, MATCH_READERS, read_window_text, reader


class RuleBuilder(Reader):
    def _condition(self, node: Node) -> Condition:
        """From `either`, `both`, `negated`, `match` or `present`."""
        match node.rule:
            case "either" | "both":
                parts = tuple(self._condition(child) for child in node.children if isinstance(child, Node))
                if len(parts) == 1:
                    return parts[0]
                return Or(parts) if node.rule == "either" else And(parts)
            case "negated":
                inner = next(child for child in node.children if isinstance(child, Node))
                return Not(self._condition(inner))
            case "present":
                field, argument, span = self._field(node.nodes("field")[0])
                if field and field not in WITH_ARGUMENT:
                    self._findings.add(
                        "E126",
                        span,
                        f"{field} is always there",
                        "a header, query parameter or cookie before `present`",
                        f"write: {field} in ...",
                    )
                return Present(field, argument, span)
            case _:
                return self._match(node)

    def _match(self, node: Node) -> Match:
        field, argument, span = self._field(node.nodes("field")[0])
        words = [unquoted(child.first) for child in node.nodes("value")]
        if len(words) > VALUES_MAX:
            self._findings.add(
                "E001", words[VALUES_MAX].span, f"{len(words)} values in one list", f"at most {VALUES_MAX} values"
            )
            words = words[:VALUES_MAX]
        read = MATCH_READERS.get(field, lambda text: text)
        return Match(field, argument, self._values(read, words), span)

    def _field(self, node: Node) -> tuple[str, str, Span]:
        word = node.first
        argument = unquoted(node.words("STRING")[0]) if node.words("STRING") else None
        if word.text not in FIELDS:
            self._findings.add(
                "E125",
                word.span,
                f"{excerpt(word.text)} is nothing a request has",
                f"one of: {', '.join(FIELDS)}",
                did_you_mean(word.text.removeprefix("geo."), FIELDS),
            )
            return "", "", word.span
        if (argument is None) == (word.text in WITH_ARGUMENT):
            wanted = f'{word.text}("...")' if argument is None else word.text
            self._findings.add(
                "E127",
                word.span,
                f"{word.text} {'needs a name' if argument is None else 'takes no name'} in parentheses",
                wanted,
                f"write {wanted}",
            )
            return "", "", word.span
        if argument is None:
            return word.text, "", word.span
        name = self._value(lambda text: values.read_token(text, word.text), argument, "")
        return word.text, name.lower() if word.text == "header" else name, word.span

    def _windows(self, nodes: list[Node], owner: Span) -> tuple[Window, ...]:
        found = (self._value(read_window_text, unquoted(node.value("STRING")), None, owner) for node in nodes)
        return tuple(window for window in found if window is not None)

    def _refusal(self, node: Node) -> Deny:
        texts = node.words("STRING")
        reason = self._value(reader(Deny, "reason"), unquoted(texts[0]), "") if texts else ""
        return Deny(self._value(reader(Deny, "status"), node.value(), 503), reason)

    def _share(self, node: Node) -> Share:
        ppm = self._value(reader(Share, "ppm"), node.value(), 1_000_000)
        return Share(ppm, self._key(node.nodes("key")[0]))

    def _key(self, node: Node) -> Key:
        word, argument = node.first, unquoted(node.children[-1])  # type: ignore[arg-type]  # a token by the grammar
        if word.text not in KEYS:
            self._findings.add(
                "E128",
                word.span,
                f"{excerpt(word.text)} tells no users apart",
                'cookie("name"), header("name"), jwt("claim"), ip(prefix) or path(segments)',
                did_you_mean(word.text, KEYS),
            )
            return Key("ip", count=32, span=word.span)
        said = self._value(KEY_READERS[word.text], argument, None)
        if isinstance(said, int) or word.text in ("ip", "path"):
            return Key(word.text, count=said or 1, span=word.span)
        return Key(word.text, said or "x", span=word.span)

    def _settings(self, node: Node) -> Settings:
        stick = self._once(node, "stick", "stick")
        spill = self._once(node, "spill", "spill")
        panic = self._once(node, "panic", "panic")
        retry = self._once(node, "retry", "retry")
        hedge = self._once(node, "hedge", "hedge")
        timeouts = self._once(node, "timeouts", "timeout")
        cache = self._once(node, "cache", "cache")
        return Settings(
            stick=self._stick(stick) if stick else None,
            spill=Spill(self._value(reader(Spill, "above_ppm"), spill.value(), 1)) if spill else None,
            panic=Panic(self._value(reader(Panic, "below_ppm"), panic.value(), 1)) if panic else None,
            retry=self._retry(retry) if retry else None,
            hedge=self._hedge(hedge) if hedge else None,
            timeouts=self._timeouts(timeouts) if timeouts else None,
            cache=self._cache(cache) if cache else None,
        )

    def _stick(self, node: Node) -> Stick:
        lifetime = self._value(reader(Stick, "lifetime_us"), node.value(), SECOND)
        return Stick(tuple(self._key(key) for key in node.nodes("key")), lifetime, span=node.first.span)

    def _retry(self, node: Node) -> Retry:
        retry = Retry(self._value(reader(Retry, "count"), node.value(), 1))
        budget = self._budget(node, retry.budget_ppm)
        methods = node.nodes("methods")
        chosen = self._values(reader(Retry, "methods"), methods[0].words("WORD")) if methods else retry.methods
        return Retry(retry.count, budget, chosen, span=methods[0].first.span if methods else node.first.span)

    def _hedge(self, node: Node) -> Hedge:
        after = self._value(reader(Hedge, "after_us"), node.value(), SECOND)
        return Hedge(after, self._budget(node, Hedge(after).budget_ppm))

    def _budget(self, node: Node, default: int) -> int:
        budgets = node.nodes("budget")
        return self._value(reader(Retry, "budget_ppm"), budgets[0].value(), default) if budgets else default

    def _timeouts(self, node: Node) -> Timeouts:
        found = self._pairs(node, ("connect", "first-byte", "total"), lambda _: reader(Timeouts, "connect_us"))
        return Timeouts(found.get("connect", 0), found.get("first-byte", 0), found.get("total", 0))

    def _cache(self, node: Node) -> Cache:
        stale = node.words("WORD")
        read = reader(Cache, "stale_us")
        return Cache(stale_us=self._value(read, stale[0], 0) if stale else 0, off=bool(node.words("OFF")))

    def _damp(self, node: Node) -> Damp:
        counts = {"penalty", "suppress", "reuse"}
        found = self._pairs(
            node,
            ("penalty", "suppress", "reuse", "half-life", "max"),
            lambda name: reader(Damp, "penalty" if name in counts else "half_life_us"),
        )
        usual = Damp()
        return Damp(
            found.get("penalty", usual.penalty),
            found.get("suppress", usual.suppress),
            found.get("reuse", usual.reuse),
            found.get("half-life", usual.half_life_us),
            found.get("max", usual.longest_us),
        )

    def _pairs(
        self, node: Node, names: tuple[str, ...], reader: Callable[[str], Callable[[str], int]]
    ) -> dict[str, int]:
        """Values by name, as in `connect 1s total 30s`."""
        found: dict[str, int] = {}
        for pair in node.nodes("pair"):
            name, word = pair.words("WORD")
            if name.text not in names or name.text in found:
                self._findings.add(
                    "E129",
                    name.span,
                    f"{excerpt(name.text)} {'stands here twice' if name.text in found else 'cannot be set here'}",
                    f"{', '.join(names)}, each at most once",
                    did_you_mean(name.text, names),
                )
                continue
            value = self._value(reader(name.text), word, None)
            if value is not None:
                found[name.text] = value
        return found

    def _members(self, node: Node) -> tuple[RegionName, ...]:
        """Regions by name, with their weights."""
        found = []
        for member in node.nodes("member"):
            word = member.nodes("name")[0].first
            weights = member.nodes("weight")
            weight = self._value(reader(RegionName, "weight"), weights[0].value(), 1) if weights else None
            found.append(RegionName(shortened(word), weight, span=word.span))
        return tuple(found)
