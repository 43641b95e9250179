"""Fixtures of the attack suite, and its table of counts."""

import os
import random
import zlib
from collections import Counter
from collections.abc import Iterator

import pytest

from attack import material
from attack.harness import KINDS, Attack, Runner, contents

SEED = int(os.environ.get("ATTACK_SEED", "0"))
SIZE = float(os.environ.get("ATTACK_SIZE", "1"))


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """The warm process that runs the commands."""
    with Runner(tmp_path_factory.mktemp("attack")) as runner:
        yield runner


@pytest.fixture(scope="session")
def good(runner: Runner) -> Iterator[material.Material]:
    """Good inputs, which no command may change."""
    made = material.make(runner, runner.folder / "material")
    before = contents(made.root)
    yield made
    assert contents(made.root) == before, "a command changed its input"


@pytest.fixture
def attack(request: pytest.FixtureRequest, runner: Runner, good: material.Material) -> Attack:
    """What the test of one family attacks with."""
    chance = random.Random(SEED ^ zlib.crc32(request.node.name.encode()))
    return Attack(runner, good, chance, SIZE, request.node.user_properties, cpu_before=runner.cpu)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of counts per family."""
    rows: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for key, value in getattr(report, "user_properties", ()):
                if key == "attack" and getattr(report, "when", "") == "call":
                    rows[report.nodeid.rpartition("::test_")[2]] = Counter(value)
    if not rows:
        return
    terminalreporter.section(f"attack with seed {SEED} and size {SIZE:g}")
    rows["total"] = sum(rows.values(), Counter())
    columns = ["cases", "correct", "refused", "violations", "CPU s"]
    terminalreporter.write_line(f"{'family':<12}" + "".join(f"{name:>12}" for name in columns))
    for family, counts in rows.items():
        broken = {kind: counts[kind] for kind in KINDS if counts[kind]}
        ends = (counts["correct"], counts["refused"], sum(broken.values()))
        numbers = (sum(ends), *ends, counts["seconds"])
        which = ", ".join(f"{number} {kind}" for kind, number in broken.items())
        terminalreporter.write_line(f"{family:<12}" + "".join(f"{each:>12}" for each in numbers) + f"  {which}")
