"""A dict that starts as another's contents without copying them: what a thousand nodes know alike is kept once.

`base` is shared and never written; what this one changed or removed is its own. It is a `dict` only so that code which
was written for one takes it; of a dict's own storage nothing is used.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Final, TypeVar

K = TypeVar("K")
V = TypeVar("V")
_MISSING: Any = object()
COPIED_MAX: Final = 256
"""So few entries are copied: a dict of one's own is read faster, and fills caches that all share."""


def shared(base: Mapping[K, V]) -> dict[K, V]:
    """A dict that begins as `base`, and may be changed without changing it."""
    return Overlay(base) if len(base) > COPIED_MAX else dict(base)


class Overlay(dict[K, V]):
    """A base, with changes."""

    __slots__ = ("_base", "_changed", "_count", "_touched")

    def __init__(self, base: Mapping[K, V]) -> None:
        super().__init__()
        self._base = base
        self._changed: dict[K, V] = {}
        self._touched: set[K] = set()
        """What was changed or removed: `_changed` alone has the word."""
        self._count = len(base)

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return self._count > 0

    def __contains__(self, key: object) -> bool:
        return key in (self._changed if key in self._touched else self._base)

    def __getitem__(self, key: K) -> V:
        found: V = self.get(key, _MISSING)
        if found is _MISSING:
            raise KeyError(key)
        return found

    def get(self, key: K, default: Any = None) -> Any:
        return (self._changed if key in self._touched else self._base).get(key, default)

    def __setitem__(self, key: K, value: V) -> None:
        self._count += key not in self
        self._touched.add(key)
        self._changed[key] = value

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self._changed.pop(key, None)
        self._touched.add(key)
        self._count -= 1

    def pop(self, key: K, default: Any = _MISSING) -> Any:
        found = self.get(key, _MISSING)
        if found is _MISSING:
            if default is _MISSING:
                raise KeyError(key)
            return default
        del self[key]
        return found

    def setdefault(self, key: K, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def clear(self) -> None:
        self._base, self._count = {}, 0
        self._changed.clear()
        self._touched.clear()

    def __iter__(self) -> Iterator[K]:
        for key in self._base:
            if key not in self._touched:
                yield key
        yield from self._changed

    def keys(self) -> KeysView[K]:  # type: ignore[override]  # dict's own view type cannot be made
        return KeysView(self)

    def values(self) -> ValuesView[V]:  # type: ignore[override]
        return ValuesView(self)

    def items(self) -> ItemsView[K, V]:  # type: ignore[override]
        return ItemsView(self)
