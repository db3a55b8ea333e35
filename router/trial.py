"""One site's verdict on a version of the policy that it tries, from what became of its users' requests. Pure.

Two questions are asked of the same outcomes, each by a sequential test of its own:

* *all requests together*: has enough gone well? Only this one can pass the version;
* *each route by itself*: does this one fail? A route that is dead and carries one request in a hundred would drown in
  the others' successes, and is what a bad policy mostly is.

Whichever condemns first, condemns the version, and that is final; a version that has passed can still be condemned, by
a route that had heard little until then. A trial is of one stage: when a rollout advances, every site begins anew.

What counts as a failure is what the user got: a 5xx, or no answer. A request whose first endpoint was lost and whose
second answered is a success, for nobody felt it, and endpoints are lost under any version. What the client caused (it
sent nonsense, or left) says nothing of the policy; neither does what the cache answered. That no route matched says
something only where the version before has one: anybody can ask for a host that was never there.
"""

from __future__ import annotations

from collections.abc import Callable

from lattice.rollouts import RolloutId
from lattice.types import short
from router.sequential_test import Judgement, SequentialTest

FAILURES = frozenset({"relayed_5xx", "failed_502", "failed_504", "shed_503", "looped", "truncated", "internal_error"})
SUCCESSES = frozenset({"relayed_2xx", "relayed_3xx", "relayed_4xx"})


def failed(ending: str, status: int) -> bool | None:
    """Whether a request that ended so (`traffic.ending.Ending.kind`) failed for its user; None if it says nothing.

    `status` is what the decision itself answers when it sends the request nowhere, else 0.
    """
    if ending in SUCCESSES:
        return False
    if ending in FAILURES:
        return True
    return True if ending == "denied" and status >= 500 else None


class Trial:
    """Of one stage of one rollout, at one site."""

    def __init__(
        self,
        rollout: RolloutId,
        stage: int,
        judged: Callable[[Trial], None] = lambda _: None,
        route_before: Callable[[str, str], str] = lambda _host, _path: "",
    ) -> None:
        """`judged` is called within `hear` whenever what the trial says has changed; `route_before` says which route
        the version before has for a host and path, "" for none."""
        self.rollout = rollout
        self.stage = stage
        self.requests = 0
        self.failures = 0
        self.judgement = Judgement.UNDECIDED
        self.condemned_by = ""
        """The route that did, or nothing: all of them together."""
        self._judged = judged
        self._route_before = route_before
        self._whole = SequentialTest()
        self._routes: dict[str, SequentialTest] = {}

    @property
    def label(self) -> str:
        """For people."""
        return f"canary {short(self.rollout)}"

    @property
    def routes(self) -> tuple[str, ...]:
        """Those it has heard of, sorted."""
        return tuple(sorted(self._routes))

    @property
    def over(self) -> bool:
        """Whether no test of those that began is still undecided."""
        tests = (self._whole, *self._routes.values())
        return self.judgement is Judgement.CONDEMNED or all(each.judgement for each in tests)

    def ended(self, route: str, ending: str, status: int) -> None:
        """A request that was decided under this version ended so. `route` is one of the policy's, so they are few."""
        outcome = failed(ending, status)
        if outcome is not None:
            self.hear(route, failed=outcome)

    def found_no_route(self, host: str, path: str) -> None:
        """A request found no route under this version: its user lost one, if the version before has one."""
        route = self._route_before(host, path)
        if route:
            self.hear(route, failed=True)

    def hear(self, route: str, *, failed: bool) -> None:
        """As `ended`, of what says something."""
        self.requests += 1
        self.failures += failed
        if self.judgement is Judgement.CONDEMNED:
            return
        test = self._routes.get(route)
        if test is None:
            test = self._routes[route] = SequentialTest()
        whole = self._whole.hear(failed=failed)
        if test.hear(failed=failed) is Judgement.CONDEMNED:
            self.condemned_by = route
            self._say(Judgement.CONDEMNED)
        elif whole is not self.judgement:
            self._say(whole)

    def _say(self, judgement: Judgement) -> None:
        self.judgement = judgement
        self._judged(self)
