"""Plain nodes to the syntax tree: what each word means, and which statements a block lacks or repeats.

A bad value is reported and replaced or left out, and building goes on, so that every mistake is found in one go.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace

from router.policy import values
from router.policy.errors import Findings, excerpt
from router.policy.probe import USUAL_PROBE, Probe, ProbeKind, StatusRange
from router.policy.reading import Node, Value, Word, unquoted
from router.policy.scenario_builder import ScenarioBuilder
from router.policy.span import NOWHERE, Span
from router.policy.syntax import (
    HEALTH_DEFAULT,
    AnyLeft,
    Choice,
    Cidr,
    Deny,
    Group,
    Health,
    Named,
    Nearest,
    Never,
    Otherwise,
    Override,
    Policy,
    Region,
    Route,
    Rule,
    ServePrimary,
    Tier,
    UpstreamEndpoint,
    Zone,
    tier_name,
)
from router.policy.words import EDITION, read_tier_number, reader

_RULE_LINES = (("when", "when"), ("share", "share"), ("refuse", "deny"))


def build(nodes: Iterable[Node], findings: Findings, blocks: tuple[str, ...], *, whole: bool = True) -> Policy:
    """A policy from top-level nodes. What is wrong goes to `findings`; then the result is only good for checking.

    `whole` says that no statement was left out because it could not be read.
    """
    statements = tuple(nodes)
    builder = _Builder(findings)
    if whole and not statements:
        findings.add("E312", NOWHERE, "the policy is empty", "an edition, regions and routes", "begin with: edition 1")
    edition = builder.edition(statements) if whole and statements else EDITION
    return Policy(
        edition=edition,
        regions=tuple(builder.region(node) for node in statements if node.rule == "region"),
        zones=tuple(builder.zone(node) for node in statements if node.rule == "zone"),
        health=tuple(builder.health(node) for node in statements if node.rule == "health"),
        routes=tuple(builder.route(node) for node in statements if node.rule == "route"),
        groups=tuple(builder.group(node) for node in statements if node.rule == "group"),
        nevers=tuple(builder.never(node) for node in statements if node.rule == "never"),
        tests=tuple(builder.scenario(node) for node in statements if node.rule == "test"),
        blocks=blocks,
        file=findings.file,
    )


class _Builder(ScenarioBuilder):
    def edition(self, statements: tuple[Node, ...]) -> int:
        editions = [node for node in statements if node.rule == "edition"]
        for node in editions:
            word = node.words("WORD")[0]
            if word.text != str(EDITION):
                self._findings.add(
                    "E102",
                    word.span,
                    f"edition {word.text[:20]} is not known here",
                    f"edition {EDITION}",
                    "upgrade, or write 1",
                )
        if statements[0].rule != "edition":
            fix = "move the edition to the top" if editions else f"add a first line: edition {EDITION}"
            self._findings.add(
                "E101",
                statements[0].first.span,
                "the policy does not begin with its edition",
                f"edition {EDITION}",
                fix,
            )
        for node in editions[1:]:
            self._findings.add(
                "E101", node.first.span, "the edition is given again", "one edition, at the top", "delete this"
            )
        return EDITION

    def region(self, node: Node) -> Region:
        name, span = self._name(node)
        place = self._at(node, span)
        if place is None:
            self._findings.add(
                "E202",
                span,
                f"region {name} does not say where it is",
                "at LATITUDE LONGITUDE",
                "add a line: at 50.11 8.68",
            )
        endpoints = []
        for line in node.nodes("endpoint"):
            word = line.words("WORD")[0]
            address = self._value(values.read_endpoint, word, None, span)
            if address:
                tls, weights = line.nodes("tls"), line.nodes("weight")
                server = (
                    self._value(reader(UpstreamEndpoint, "tls"), unquoted(tls[0].value("STRING")), None)
                    if tls
                    else None
                )
                weight = self._value(reader(UpstreamEndpoint, "weight"), weights[0].value(), 1) if weights else 1
                endpoints.append(UpstreamEndpoint(*address, server, weight, span=word.span))
        graded_by = self._once(node, "graded_by", "health")
        health, health_span = self._name(graded_by) if graded_by else (HEALTH_DEFAULT, NOWHERE)
        latitude, longitude = place or (0, 0)
        capacity, drain = self._once(node, "capacity", "capacity"), self._once(node, "drain", "drain")
        return Region(
            name,
            latitude,
            longitude,
            tuple(endpoints),
            health,
            capacity_rps=self._value(reader(Region, "capacity_rps"), capacity.value(), None) if capacity else None,
            avoid=self._windows(node.nodes("avoid"), span),
            drain_us=self._value(reader(Region, "drain_us"), drain.value(), None) if drain else None,
            span=span,
            health_span=health_span,
        )

    def group(self, node: Node) -> Group:
        name, span = self._name(node)
        names = node.nodes("names")
        return Group(name, self._members(names[0]) if names else (), span=span)

    def never(self, node: Node) -> Never:
        name, span = self._name(node)
        when = node.nodes("when")
        condition = self._condition(when[0].nodes("either")[0]) if when else None
        if outside := node.nodes("outside"):
            group, group_span = self._name(outside[0])
            return Never(name, condition, group, span=span, group_span=group_span)
        return Never(name, condition, None, self._members(node.nodes("names")[0]), span=span)

    def zone(self, node: Node) -> Zone:
        name, span = self._name(node)
        cidrs = []
        for line in node.nodes("cidr"):
            word = line.words("WORD")[0]
            network = self._value(reader(Cidr, "network"), word, None, span)
            if network:
                cidrs.append(Cidr(network, span=word.span))
        latitude, longitude = self._at(node, span) or (None, None)

        def listed(rule: str, read: Callable[[str], Value]) -> tuple[Value, ...]:
            return self._values(read, [word for line in node.nodes(rule) for word in line.words("WORD")], span)

        demand = self._once(node, "demand", "demand")
        return Zone(
            name,
            tuple(cidrs),
            latitude,
            longitude,
            countries=listed("country", reader(Zone, "countries")),
            continents=listed("continent", reader(Zone, "continents")),
            asns=listed("asn", reader(Zone, "asns")),
            demand_rps=self._value(reader(Zone, "demand_rps"), demand.value(), None) if demand else None,
            span=span,
        )

    def health(self, node: Node) -> Health:
        name, span = self._name(node)
        health = Health(name=name, span=span)

        def line(rule: str) -> list[Word]:
            found = self._once(node, rule, rule)
            return found.words("WORD") if found else []

        probe = self._once(node, "probe", "probe")
        if probe:
            every, timeout = probe.words("WORD")
            health = replace(
                health,
                probe=self._probe(probe, span),
                probe_interval_us=self._value(reader(Health, "probe_interval_us"), every, values.DURATION_US_MAX, span),
                probe_timeout_us=self._value(reader(Health, "probe_timeout_us"), timeout, 1, span),
            )
        if latency := self._once(node, "latency", "latency"):
            above, back = self._band(latency, reader(Health, "latency_us_max"), span)
            health = replace(health, latency_us_max=above, latency_us_back=back)
        if errors := self._once(node, "errors", "errors"):
            above, back = self._band(errors, reader(Health, "errors_ppm_max"), span)
            over_us, samples = self._evidence(errors, span)
            health = replace(
                health,
                errors_ppm_max=above,
                errors_ppm_back=back,
                errors_over_us=over_us,
                errors_samples_min=samples,
            )
        if saturation := self._once(node, "saturation", "saturation"):
            above, back = self._band(saturation, reader(Health, "saturation_ppm_max"), span)
            health = replace(health, saturation_ppm_max=above, saturation_ppm_back=back)
        if oldest := self._once(node, "oldest", "oldest"):
            above, back = self._band(oldest, reader(Health, "oldest_us_max"), span)
            health = replace(health, oldest_us_max=above, oldest_us_back=back)
        for word in line("cooldown"):
            health = replace(health, cooldown_us=self._value(reader(Health, "cooldown_us"), word, 1, span))
        for word in line("probation"):
            health = replace(health, probation_us=self._value(reader(Health, "probation_us"), word, 0, span))
        if damp := self._once(node, "damp", "damp"):
            health = replace(health, damp=self._damp(damp))
        for word in line("fail"):
            fail_after = self._value(reader(Health, "fail_after"), word, 1, span)
            health = replace(health, fail_after=fail_after)
        for word in line("recover"):
            health = replace(health, recover_after_us=self._value(reader(Health, "recover_after_us"), word, 1, span))
        for word in line("unknown"):
            health = replace(
                health, unknown_as=self._value(reader(Health, "unknown_as"), word, Health().unknown_as, span)
            )
        return health

    def _probe(self, node: Node, span: Span) -> Probe:
        by, texts = node.nodes("by"), node.words("STRING")
        kind = self._value(values.read_probe_kind, by[0].value(), ProbeKind.HTTP, span) if by else ProbeKind.HTTP
        target = ""
        if kind is ProbeKind.HTTP:
            target = self._value(values.read_probe_path, unquoted(texts[0]), "/", span) if texts else USUAL_PROBE.target
        elif kind is ProbeKind.GRPC:
            target = self._value(values.read_grpc_service, unquoted(texts[0]), "", span) if texts else ""
        elif texts:
            self._findings.add(
                "E140", texts[0].span, "a TCP probe asks for nothing", "probe tcp every ...", "remove it"
            )
        statuses = tuple(
            StatusRange(*self._value(values.read_status_range, word, (200, 299), span))
            for expected in node.nodes("expected")
            for word in expected.words("WORD")
        )
        containing = [unquoted(found.value("STRING")) for found in node.nodes("containing")]
        for named, found in (("expect", node.nodes("expected")), ("containing", node.nodes("containing"))):
            if found and kind is not ProbeKind.HTTP:
                self._findings.add(
                    "E140", found[0].first.span, f"{named} is for HTTP probes", f"probe {kind.value} ...", "remove it"
                )
        return Probe(kind, target, statuses or USUAL_PROBE.statuses, containing[0].text if containing else "")

    def _band(self, node: Node, read: Callable[[str], int], span: Span) -> tuple[int, int | None]:
        """The threshold that condemns, and the one below which what is condemned may recover."""
        above = self._value(read, node.value(), 1, span)
        below = node.nodes("below")
        return above, self._value(read, below[0].value(), None, span) if below else None

    def _evidence(self, node: Node, span: Span) -> tuple[int, int]:
        """How long the window is, and how many samples it needs."""
        over_us, samples = Health().errors_over_us, Health().errors_samples_min
        for keyword, word in itertools.pairwise(node.children):
            if not isinstance(keyword, Word) or not isinstance(word, Word):
                continue
            if keyword.kind == "OVER":
                over_us = self._value(reader(Health, "errors_over_us"), word, 1, span)
            elif keyword.kind == "SAMPLES":
                samples = self._value(reader(Health, "errors_samples_min"), word, 1, span)
        return over_us, samples

    def route(self, node: Node) -> Route:
        name, span = self._name(node)
        hosts: list[Word] = []
        paths: list[Word] = []
        after_path = False
        for child in node.children:
            if isinstance(child, Word) and child.kind == "PATH":
                after_path = True
            elif isinstance(child, Word) and child.kind == "STRING":
                (paths if after_path else hosts).append(unquoted(child))
        patterns: dict[str, Word] = {}
        for host in hosts:
            pattern = self._value(reader(Route, "hosts"), host, None, span)
            if pattern in patterns:
                self._findings.add(
                    "E313", host.span, f"host {pattern} is given twice", "each host once", "delete this one"
                )
            elif pattern:
                patterns[pattern] = host
        path = self._value(reader(Route, "path"), paths[0], "/", span) if paths else "/**"
        return Route(
            name,
            tuple(patterns),
            path,
            tuple(self._tier(tier) for tier in node.nodes("tier")),
            tuple(self._override(override) for override in node.nodes("override")),
            self._otherwise(node) or Deny(),
            rules=tuple(self._rule(rule) for rule in node.nodes("rule")),
            settings=self._settings(node),
            span=span,
        )

    def _rule(self, node: Node) -> Rule:
        name, span = self._name(node)
        when, share, refuse = (self._once(node, rule, word) for rule, word in _RULE_LINES)
        return Rule(
            name,
            self._condition(when.nodes("either")[0]) if when else None,
            self._windows(node.nodes("during"), span),
            self._share(share) if share else None,
            self._refusal(refuse) if refuse else None,
            tuple(self._tier(tier) for tier in node.nodes("tier")),
            self._otherwise(node),
            self._settings(node),
            span=span,
        )

    def _override(self, node: Node) -> Override:
        name, span = self._name(node)
        return Override(name, tuple(self._tier(tier) for tier in node.nodes("tier")), self._otherwise(node), span=span)

    def _tier(self, node: Node) -> Tier:
        keyword, chosen = node.first, node.children[-1]
        assert isinstance(chosen, Node)
        choice: Choice
        groups = [self._name(of) for of in chosen.nodes("of")]
        group, group_span = groups[0] if groups else (None, NOWHERE)
        if chosen.rule == "names":
            choice = Named(self._members(chosen))
        elif chosen.rule == "nearest":
            counts = chosen.words("WORD")
            count = self._value(reader(Nearest, "count"), counts[0], 1) if counts else 1
            choice = Nearest(count, group, self._to_client(chosen), group_span=group_span)
        else:
            choice = AnyLeft(group, self._to_client(chosen), group_span=group_span)
        name = keyword.text
        if keyword.kind == "TIER":
            word = node.value()
            name = tier_name(self._value(read_tier_number, word, 1, keyword.span))
        return Tier(name, choice, span=keyword.span)

    def _to_client(self, chosen: Node) -> bool:
        """Whether nearest is said to be from where the client is."""
        return any(self._value(_read_client, to.value(), True) for to in chosen.nodes("to"))

    def _otherwise(self, node: Node) -> Otherwise | None:
        found = self._once(node, "otherwise", "otherwise")
        if found is None:
            return None
        denied = found.nodes("deny")
        if not denied:
            return ServePrimary()
        return self._refusal(denied[0])

    def _at(self, node: Node, owner: Span) -> tuple[int, int] | None:
        found = self._once(node, "at", "at")
        if found is None:
            return None
        latitude, longitude = found.words("WORD")
        return (
            self._value(reader(Region, "latitude_e6"), latitude, 0, owner),
            self._value(reader(Region, "longitude_e6"), longitude, 0, owner),
        )


def _read_client(word: str) -> bool:
    if word != "client":
        raise values.BadValueError("E142", f"nearest to {excerpt(word)} is not known", "nearest to client, or nearest")
    return True
