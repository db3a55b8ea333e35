"""Conditions, keys and settings as they are written in canonical text."""

from __future__ import annotations

from router.policy.conditions import And, Condition, Match, Not, Or, Present
from router.policy.grammar import reserved_words
from router.policy.settings import Cache, Hedge, Key, Retry, Settings
from router.policy.values import is_name, write_duration, write_percent

_BARE = frozenset(("zone", "country", "continent", "asn", "port", "method", "upgrade"))
"""Fields whose values are words; the others' are quoted."""


def print_condition(condition: Condition, inside: type | None = None) -> str:
    """A condition with the parentheses it needs, and no more."""
    match condition:
        case Or(parts):
            text = " or ".join(print_condition(part, Or) for part in parts)
        case And(parts):
            text = " and ".join(print_condition(part, And) for part in parts)
        case Not(inner):
            text = print_condition(inner, Not)
            return f"not ({text})" if isinstance(inner, Not) else f"not {text}"
        case Present():
            return f"{_field(condition)} present"
        case Match():
            return f"{_field(condition)} in {', '.join(_value(condition.field, value) for value in condition.values)}"
    return f"({text})" if inside is not None and not (inside is Or and isinstance(condition, And)) else text


def _field(test: Match | Present) -> str:
    return f'{test.field}("{test.argument}")' if test.argument else test.field


def _value(field: str, value: str) -> str:
    bare = field in _BARE and (field != "upgrade" or (is_name(value) and value not in reserved_words()))
    return value if bare else f'"{value}"'


def print_key(key: Key) -> str:
    return f"{key.kind}({key.count})" if key.count else f'{key.kind}("{key.name}")'


def print_settings(settings: Settings) -> list[str]:
    """One line for each setting that there is."""
    lines = []
    if stick := settings.stick:
        lines.append(f"stick by {', '.join(map(print_key, stick.keys))} for {write_duration(stick.lifetime_us)}")
    if settings.spill:
        lines.append(f"spill above {write_percent(settings.spill.above_ppm)}")
    if settings.panic:
        lines.append(f"panic below {write_percent(settings.panic.below_ppm)}")
    if settings.retry:
        lines.append(_retry(settings.retry))
    if settings.hedge:
        lines.append(_hedge(settings.hedge))
    if timeouts := settings.timeouts:
        named = (("connect", timeouts.connect_us), ("first-byte", timeouts.first_byte_us), ("total", timeouts.total_us))
        lines.append("timeout " + " ".join(f"{name} {write_duration(value)}" for name, value in named if value))
    if settings.cache:
        lines.append(_cache(settings.cache))
    return lines


def _retry(retry: Retry) -> str:
    methods = "" if retry.methods == Retry(1).methods else f" methods {', '.join(retry.methods)}"
    budget = "" if retry.budget_ppm == Retry(1).budget_ppm else f" budget {write_percent(retry.budget_ppm)}"
    return f"retry {retry.count}{budget}{methods}"


def _hedge(hedge: Hedge) -> str:
    budget = "" if hedge.budget_ppm == Hedge(1).budget_ppm else f" budget {write_percent(hedge.budget_ppm)}"
    return f"hedge after {write_duration(hedge.after_us)}{budget}"


def _cache(cache: Cache) -> str:
    return "cache off" if cache.off else f"cache stale {write_duration(cache.stale_us)}" if cache.stale_us else "cache"
