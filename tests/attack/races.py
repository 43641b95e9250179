"""The same output written by two commands at once: one wins and the other is refused, or both share the work."""

import time

from attack.harness import Attack, contents, is_temporary, judge_message, last_line
from attack.works import Work, works

DELAY = 0.4
"""Largest time between the starts of the two, in seconds."""


def run(attack: Attack, number: int) -> None:
    """Race every command against itself, with another result where the output belongs to one of them."""
    jobs = []
    for work in works(attack.material):
        expected = []
        for argv in (work.argv, work.other):
            folder = attack.runner.new_folder()
            attack.runner.command(*argv, folder=folder)
            expected.append(work.result(folder))
        for index in range(max(1, number // 4) if work.name == "export" else number):
            delay = 0.0 if index % 2 else attack.random.uniform(0, DELAY)
            jobs.append((work, delay, expected))
    attack.each(lambda job: race(attack, *job), jobs)


def race(attack: Attack, work: Work, delay: float, expected: list[object]) -> None:
    """Start two commands on one output."""
    folder = attack.runner.new_folder()
    first = attack.runner.start(work.argv, folder, seconds=120)
    time.sleep(delay)
    second = attack.runner.start(work.other, folder, seconds=120)
    outcomes = [first.wait(), second.wait()]
    codes = sorted(outcome.code for outcome in outcomes)
    ends = "; ".join(f"{outcome.code}: {last_line(outcome.stderr)[:150]}" for outcome in outcomes)
    kind, detail = "", ""
    for outcome in outcomes:
        if "Traceback" in outcome.stderr:
            kind, detail = "traceback", last_line(outcome.stderr)
    if not kind and codes != ([0, 0] if work.shared else [0, 2]):
        kind, detail = ("silent" if codes == [0, 0] else "exit code"), f"the two ended with {ends}"
    if not kind and not work.shared:
        loser = next(outcome for outcome in outcomes if outcome.code)
        kind, detail = judge_message(loser) or ("", "")
    winners = [result for outcome, result in zip(outcomes, expected, strict=True) if outcome.code == 0]
    if not kind and work.result(folder) not in winners:
        kind, detail = "silent", "the output is neither command's, or the loser's"
    if not kind and (left := [name for name in contents(folder) if is_temporary(name)]):
        kind, detail = "leftover", ", ".join(left[:5])
    if not kind:
        kind = "correct"
    attack.add(f"{work.name}, {delay:.2f} s apart", kind, detail, argv=work.argv, folder=folder)
