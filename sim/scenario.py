"""A scenario file: what runs, for how long, and what happens when. TOML, checked key by key.

A file may extend another (`extends = "NAME"` or a path): its own keys win, tables are joined, arrays replaced. Anything
can be overridden from outside with `a.b=c`. Every mistake is reported at once with its file, line, key and remedy.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from lattice.config import Config
from lattice.prng import Prng
from lattice.types import SECOND
from sim.faults import KINDS, Act
from sim.files import Unreadable, content, is_file, named
from sim.matrix import read_matrix
from sim.network import LinkSettings
from sim.promises import ALL_CHECKS
from sim.quantities import (
    ConfigError,
    NotExpected,
    Problem,
    Section,
    any_duration,
    bandwidth,
    choice,
    duration_text,
    factor,
    number,
    share,
    size,
    some_duration,
    text,
    truth,
)
from sim.topology import ROOM_DELAY_US, PathSettings, Room, Topology, globe, measured
from sim.trace import read_trace
from sim.world import RegionSettings

SHIPPED: Final = Path(__file__).parent / "scenarios"
NODES_MAX: Final = 20_000
EXTENDS_DEPTH_MAX: Final = 8
NOUGHT_MEANS_NEVER: Final = frozenset({"stall_us"})
STRATEGIES: Final = ("default", "tree", "random", "flood")


@dataclass(frozen=True, slots=True)
class TopologySettings:
    """How many nodes, where, and how they begin."""

    nodes: int = 5
    model: str = "globe"
    path: PathSettings = field(default_factory=PathSettings)
    delay_us: int = ROOM_DELAY_US
    matrix: str = ""
    holes: str = "refuse"
    """What becomes of places between which nothing was measured: "refuse" the file, or "drop" them."""
    row: str = ""
    """Which snapshot of a file that has several; "" is the last."""
    start: str = "converged"
    seeds: int = 3
    over_us: int = SECOND
    late: int = 0


@dataclass(frozen=True, slots=True)
class UserSettings:
    """Synthetic users, or a trace of real requests."""

    rate: int = 0
    """Requests a second, over all sites."""
    trace: str = ""
    speed_ppm: int = 1_000_000


@dataclass(frozen=True, slots=True)
class SwarmSettings:
    """A random subset of faults, at random strength, drawn from the seed."""

    faults_max: int = 0
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SweepSettings:
    """What `sim sweep` varies when nothing else is said."""

    grid: tuple[str, ...] = ()
    seeds: str = "0:10"


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """What is held against the run, beyond what always is."""

    every: int = 0
    """Events between looks at a whole node; 0 chooses by size."""
    off: tuple[str, ...] = ()
    false_positives_max: int | None = None
    availability_min_ppm: int | None = None
    idle_bytes_max: int | None = None
    """Per node and second."""
    detect_within_us: int | None = None
    """From a crash for good until everybody has called it down."""
    converge_within_us: int | None = None
    """The p100 of every change; None is not checked."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the timeline."""

    at_us: int
    lasts_us: int | None
    do: str
    act: Act
    name: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that a run is made of, but its seed."""

    name: str
    purpose: str
    duration_us: int
    settle_us: int
    topology: TopologySettings
    link: LinkSettings
    config: Config
    seal: str
    """ "tagged" (a cheap stand-in) or "sealed" (the real envelope)."""
    certified: bool
    """The cluster has a CA, and only nodes that it certified are listened to."""
    strategy: str
    fanout: int
    """Of the strategy `random`."""
    degree: int
    """Of the strategy `tree`."""
    regions: RegionSettings
    users: UserSettings
    swarm: SwarmSettings
    checks: CheckSettings
    sweep: SweepSettings
    expect: str
    table: Mapping[str, object]
    """The whole as one TOML table, after `extends` and overrides."""
    source: str

    @property
    def asked(self) -> str:
        """What `load` finds it by."""
        return self.name if Path(self.source).parent == SHIPPED else self.source

    def timeline(self, seed: str) -> list[Step]:
        """Fresh acts for one run, the swarm's among them, by time."""
        problems: list[Problem] = []
        rows = self.table.get("timeline", [])
        assert isinstance(rows, list), "it was read before"
        drawn = draw_swarm(self.swarm, self.topology.nodes, self.duration_us, seed)
        steps = [read_step(Section(f"timeline[{i}]", row, problems), i) for i, row in enumerate([*rows, *drawn])]
        assert not problems, problems
        return sorted((step for step in steps if step is not None), key=lambda step: step.at_us)

    def build_topology(self, seed: str) -> Topology:
        settings = self.topology
        match settings.model:
            case "lan":
                return Room(settings.nodes, settings.delay_us)
            case "matrix":
                names, rtt_us = read_matrix(Path(settings.matrix), settings.holes == "drop", settings.row)
                return measured(settings.nodes, names, rtt_us, seed)
        return globe(settings.nodes, settings.path, seed)


def shipped() -> list[tuple[str, str]]:
    """(name, purpose) of every scenario that comes with the simulator."""
    return [
        (path.stem, str(tomllib.loads(path.read_text()).get("purpose", ""))) for path in sorted(SHIPPED.glob("*.toml"))
    ]


def load(name: str, overrides: Sequence[str] = ()) -> Scenario:
    """A shipped scenario by name, or one by its path. Raises `ConfigError` with everything that is wrong."""
    path, table, texts = _joined(name, 0)
    for override in overrides:
        _override(table, override)
    _ground(table, Path())
    problems: list[Problem] = []
    scenario = _read(path, table, problems)
    if problems:
        overridden = {override.partition("=")[0].strip() for override in overrides}
        raise ConfigError(str(path), tuple(_placed(problem, texts, overridden) for problem in problems))
    assert scenario is not None
    return scenario


def from_table(name: str, table: Mapping[str, object]) -> Scenario:
    """A scenario made by a program. Raises `ConfigError`."""
    problems: list[Problem] = []
    scenario = _read(Path(name), dict(table), problems)
    if problems:
        raise ConfigError(name, tuple(problems))
    assert scenario is not None
    return scenario


def _joined(name: str, depth: int) -> tuple[Path, dict[str, object], str]:
    """(its file, the table with what it extends, the file's own text)."""
    path = _find(name)
    if depth > EXTENDS_DEPTH_MAX:
        raise ConfigError(str(path), (Problem("extends", name, "scenarios extend each other in a circle"),))
    try:
        written = content(path).decode()
        table: dict[str, object] = tomllib.loads(written)
    except Unreadable as error:
        raise ConfigError(named(path), (Problem("", None, error.reason),)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), (Problem("", None, f"cannot be read: {error}"),)) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), (Problem("", None, f"no valid TOML: {error}"),)) from None
    except RecursionError:
        raise ConfigError(str(path), (Problem("", None, "no valid TOML: values nest too deep"),)) from None
    _ground(table, path.parent)
    parent = table.pop("extends", None)
    if isinstance(parent, str):
        near = path.parent / parent
        base = _joined(str(near) if is_file(near) else parent, depth + 1)[1]
        base.pop("purpose", None)
        table = _over(base, table)
    elif parent is not None:
        raise ConfigError(str(path), (Problem("extends", str(parent), "expected the name or path of a scenario"),))
    return path, table, written


def _ground(table: Mapping[str, object], folder: Path) -> None:
    """Have files that stand beside a scenario named by their whole paths: a run folder is elsewhere, and so is whoever
    extends it."""
    for part, key, name in _naming(table):
        if is_file(folder / name):
            part[key] = str((folder / name).resolve())


def with_files(table: Mapping[str, object], said: Callable[[Path], str]) -> dict[str, object]:
    """A scenario with what is said of a file in place of each file's name."""
    whole = deepcopy(dict(table))
    for part, key, name in _naming(whole):
        if is_file(Path(name)):
            part[key] = said(Path(name))
    return whole


def _naming(table: Mapping[str, object]) -> Iterator[tuple[dict[str, object], str, str]]:
    """(table, key, name) of every key that names a file."""
    rows = table.get("timeline")
    for part, key in (
        (table.get("topology"), "matrix"),
        (table.get("users"), "trace"),
        *((row, "file") for row in (rows if isinstance(rows, list) else ())),
    ):
        name = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict) and isinstance(name, str) and name:
            yield part, key, name


def _find(name: str) -> Path:
    direct = Path(name)
    if direct.suffix == ".toml" or "/" in name:
        return direct
    path = SHIPPED / f"{name}.toml"
    if is_file(path):
        return path
    known = [known for known, _ in shipped()]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "`edgelattice sim list` shows them; a file ends in .toml"
    raise ConfigError(named(name), (Problem("", None, "there is no scenario of that name", hint),))


def _over(base: Mapping[str, object], table: Mapping[str, object]) -> dict[str, object]:
    joined = dict(base)
    for key, value in table.items():
        known = joined.get(key)
        joined[key] = _over(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return joined


def _override(table: dict[str, object], override: str) -> None:
    path, equals, written = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError("--set", (Problem("", None, f"{override!r}: expected a.b=value"),))
    try:
        value: object = tomllib.loads(f"x = {written}")["x"]
    except tomllib.TOMLDecodeError:
        value = written.strip()
    except RecursionError:
        raise ConfigError("--set", (Problem(path, None, "its value nests too deep"),)) from None
    place: object = table
    for key in keys[:-1]:
        if isinstance(place, list) and key.isdecimal() and int(key) < len(place):
            place = place[int(key)]
        elif isinstance(place, dict):
            place = place.setdefault(key, {})
        else:
            raise ConfigError("--set", (Problem(path, None, "there is no such place in the scenario"),))
    if isinstance(place, dict):
        place[keys[-1]] = value
    else:
        raise ConfigError("--set", (Problem(path, None, "there is no such place in the scenario"),))


def _read(path: Path, table: dict[str, object], problems: list[Problem]) -> Scenario | None:
    top = Section("", table, problems)
    purpose = top.require("purpose", text, "")
    duration_us = top.take("duration", some_duration, 30 * SECOND)
    settle_us = top.take("settle", some_duration, 60 * SECOND)
    expect = top.take("expect", choice("held", "violated"), "held")
    topology = _topology(top.section("topology"))
    link = _link(top.section("link"))
    protocol = top.section("protocol")
    seal = protocol.take("seal", choice("tagged", "sealed"), "tagged")
    certified = protocol.take("certified", truth, False)
    strategy = protocol.take("strategy", choice(*STRATEGIES), "default")
    fanout = protocol.take("fanout", number(1, 1_000), 4)
    degree = protocol.take("degree", number(1, 1_000), 6)
    config = _config(protocol)
    regions = _regions(top.section("regions"), topology.nodes)
    users = _users(top.section("users"))
    swarm = _swarm(top.section("swarm"))
    checks = _checks(top.section("checks"))
    sweep = _sweep(top.section("sweep"))
    rows = table.get("timeline", [])
    top.take("timeline", _rows, ())
    if isinstance(rows, list):
        for index, row in enumerate(rows):
            section = Section(f"timeline[{index}]", row, problems)
            step = read_step(section, index)
            if step is not None and step.at_us > duration_us:
                section.note("at", f"{duration_text(step.at_us)} is after the end, {duration_text(duration_us)}")
            if step is not None and step.do == "key-rotation" and seal != "sealed":
                section.note("do", "needs keys to rotate", 'set protocol.seal = "sealed"')
    top.close()
    return Scenario(
        path.stem, purpose, duration_us, settle_us, topology, link, config, seal, certified, strategy, fanout, degree,
        regions, users, swarm, checks, sweep, expect, table, str(path),
    )  # fmt: skip


def read_step(section: Section, index: int) -> Step | None:
    """One line of the timeline; None (and a note) when its kind is unknown."""
    at_us = section.require("at", any_duration, 0)
    lasts_us = section.take("for", some_duration, None)
    name = section.take("name", text, f"{index}")
    do = section.require("do", choice(*KINDS), "")
    if do not in KINDS:
        return None
    act = KINDS[do].read(section)
    section.close()
    return Step(at_us, lasts_us, do, act, name)


def _rows(value: object) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise NotExpected("[[timeline]] tables", "write [[timeline]] with two brackets")
    return tuple(value)


def _topology(section: Section) -> TopologySettings:
    base = TopologySettings()
    model = section.take("model", choice("globe", "lan", "matrix"), base.model)
    nodes = section.take("nodes", number(1, NODES_MAX), base.nodes)
    matrix = section.take("matrix", text, "")
    holes = section.take("holes", choice("refuse", "drop"), base.holes)
    row = section.take("row", text, "")
    if model == "matrix":
        if not section.has("matrix"):
            section.note("matrix", "is missing: expected the path of a CSV of round trips in milliseconds")
        elif matrix:
            _note_unread(section, "matrix", matrix, lambda path: read_matrix(path, holes == "drop", row))
    settings = TopologySettings(
        nodes=nodes,
        model=model,
        path=PathSettings(
            section.take("fibre_factor", factor, base.path.fibre_factor_ppm),
            section.take("access", any_duration, base.path.access_us),
        ),
        delay_us=section.take("delay", some_duration, base.delay_us),
        matrix=matrix,
        holes=holes,
        row=row,
        start=section.take("start", choice("converged", "cold"), base.start),
        seeds=section.take("seeds", number(1, 64), base.seeds),
        over_us=section.take("over", any_duration, base.over_us),
        late=section.take("late", number(0, NODES_MAX), 0),
    )
    if settings.late >= nodes > 0:
        section.note("late", f"{settings.late} of {nodes} nodes: at least one must be there at the start")
    section.close()
    return settings


def _link(section: Section) -> LinkSettings:
    base = LinkSettings()
    settings = LinkSettings(
        jitter_us=section.take("jitter", any_duration, base.jitter_us),
        jitter_ppm=section.take("jitter_share", share, base.jitter_ppm),
        loss_ppm=section.take("loss", share, 0),
        burst_loss_ppm=section.take("burst_loss", share, 0),
        burst_us=section.take("burst", some_duration, base.burst_us),
        duplicate_ppm=section.take("duplicate", share, 0),
        reorder_ppm=section.take("reorder", share, 0),
        corrupt_ppm=section.take("corrupt", share, 0),
        bandwidth_bit_s=section.take("bandwidth", bandwidth, 0),
        queue_bytes=section.take("queue", size, base.queue_bytes),
    )
    section.close()
    return settings


def _config(section: Section) -> Config:
    """Every field of the engine's own configuration, durations without their unit's suffix."""
    base = Config(rows_kept=False)  # a thousand nodes would keep a million rows
    durations: dict[str, int] = {}
    numbers: dict[str, int] = {}
    switches: dict[str, bool] = {}
    for known in fields(Config):
        default = getattr(base, known.name)
        if isinstance(default, bool):
            switches[known.name] = section.take(known.name, truth, default)
        elif known.name.endswith("_us"):
            reading = any_duration if known.name in NOUGHT_MEANS_NEVER else some_duration
            durations[known.name] = section.take(known.name.removesuffix("_us"), reading, default)
        elif isinstance(default, int):
            numbers[known.name] = section.take(known.name, number(0, 100_000_000), default)
    section.close()
    return replace(base, **durations, **numbers, **switches)  # type: ignore[arg-type]  # names are checked above, by kind


def _regions(section: Section, nodes: int) -> RegionSettings:
    base = RegionSettings()
    settings = RegionSettings(
        section.take("count", number(1, 256), base.count),
        section.take("watchers", _watchers, base.watchers),
        section.take("probe", some_duration, base.probe_us),
    )
    section.close()
    return settings


def _watchers(value: object) -> int:
    return 0 if value == "all" else number(1, NODES_MAX)(value)


def _note_unread(section: Section, key: str, name: str, read: Callable[[Path], object]) -> None:
    try:
        read(Path(name))
    except ValueError as error:
        section.note(key, str(error))


def _users(section: Section) -> UserSettings:
    trace = section.take("trace", text, "")
    if trace:
        _note_unread(section, "trace", trace, read_trace)
    settings = UserSettings(
        section.take("rate", number(0, 1_000_000), 0), trace, section.take("speed", factor, 1_000_000)
    )
    section.close()
    return settings


def _swarm(section: Section) -> SwarmSettings:
    drawn = tuple(name for name, kind in KINDS.items() if kind.swarm)
    settings = SwarmSettings(
        section.take("faults", number(0, 64), 0), section.take_each("kinds", choice(*drawn), drawn)
    )
    section.close()
    return settings


def _sweep(section: Section) -> SweepSettings:
    settings = SweepSettings(section.take_each("grid", text, ()), section.take("seeds", text, "0:10"))
    section.close()
    return settings


def _checks(section: Section) -> CheckSettings:
    settings = CheckSettings(
        every=section.take("every", number(0, 10_000_000), 0),
        off=section.take_each("off", choice(*(check.name for check in ALL_CHECKS)), ()),
        false_positives_max=section.take("false_positives_max", number(0, 10_000_000), None),
        availability_min_ppm=section.take("availability_min", share, None),
        idle_bytes_max=section.take("idle_bytes_max", number(0, 1_000_000_000), None),
        detect_within_us=section.take("detect_within", some_duration, None),
        converge_within_us=section.take("converge_within", some_duration, None),
    )
    section.close()
    return settings


def draw_swarm(settings: SwarmSettings, nodes: int, duration_us: int, seed: str) -> list[dict[str, object]]:
    """Timeline rows for one seed: which faults, when, how long, on whom."""
    if not settings.faults_max:
        return []
    prng = Prng.seeded(f"{seed}/swarm")
    kinds = prng.sample(settings.kinds, 1 + prng.below(len(settings.kinds)))
    rows: list[dict[str, object]] = []
    for number_ in range(1 + prng.below(settings.faults_max)):
        kind = kinds[prng.below(len(kinds))]
        at_us = prng.below(max(1, duration_us * 3 // 4))
        lasts_us = duration_us // 20 + prng.below(duration_us // 2)
        row: dict[str, object] = {"at": f"{at_us}us", "for": f"{lasts_us}us", "do": kind, "name": f"swarm {number_}"}
        if kind not in {"halves", "bridge"}:
            row["nodes"] = 1 + prng.below(max(1, nodes // 2))
        match kind:
            case "loss":
                row["share"] = f"{5 + prng.below(56)}%"
            case "crash" | "crash-loop":
                row["disk"] = ("intact", "intact", "empty", "torn")[prng.below(4)]
            case "clock":
                row[("ahead", "behind")[prng.below(2)]] = f"{1 + prng.below(3_600)}s"
                row["drift_ppm"] = prng.below(200_001) - 100_000
            case "flap" | "clog" | "slow":
                key = {"flap": "every", "clog": "delay", "slow": "cost"}[kind]
                row[key] = f"{20 + prng.below(2_000)}ms"
            case "one-way":
                row["direction"] = ("mute", "deaf")[prng.below(2)]
        rows.append(row)
    return rows


def _placed(problem: Problem, written: str, overridden: set[str]) -> Problem:
    """The problem with its line, when the key stands in the file, and not in what overrides it."""
    dotted = re.sub(r"\[(\d+)\]", r".\1", problem.key)
    if any(f"{dotted}.".startswith(f"{set_}.") or set_.startswith(f"{dotted}.") for set_ in overridden):
        return Problem(f"--set {dotted}", problem.value, problem.expected, problem.hint)
    line = line_of(written, problem.key)
    return problem if line is None else Problem(f"line {line}: {problem.key}", problem.value, problem.expected,
                                                problem.hint)  # fmt: skip


def line_of(written: str, key: str) -> int | None:
    """In which line a key such as `timeline[2].every` stands, or the table it should stand in."""
    path, _, last = key.rpartition(".")
    table, index = path or "", 0
    if "[" in table:
        table, _, number_ = table.rstrip("]").partition("[")
        index = int(number_)
    here, seen, found = "", -1, None
    for count, line in enumerate(written.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            here = stripped.strip("[]# ").partition("]")[0].strip()
            if here == table:
                seen += 1
                if seen == index:
                    found = count
        elif here == table and (not table or max(seen, 0) == index):
            name = stripped.partition("=")[0].strip().strip('"')
            if name == last.partition("[")[0]:
                return count
    return found
