"""Commands that are killed at random moments: the same command again gives the result of an undisturbed run."""

import signal

from attack.harness import Attack, Outcome, contents, is_temporary, judge_message, last_line
from attack.works import Work, works

KILLED = ("train", "cache build", "predict a folder", "submit", "export", "predict -o")
"""The commands that are killed."""


def run(attack: Attack, number: int) -> None:
    """Kill every command at several moments of its run."""
    jobs = []
    for work in works(attack.material):
        if work.name not in KILLED:
            continue
        folder = attack.runner.new_folder()
        undisturbed = attack.runner.command(*work.argv, folder=folder)
        expected = work.result(folder)
        for index in range(max(1, number // 4) if work.name == "export" else number):
            signal_number = (signal.SIGKILL, signal.SIGTERM)[index % 2]
            moment = undisturbed.seconds * attack.random.uniform(0.02, 1.1)
            jobs.append((work, signal_number, moment, expected))
    attack.each(lambda job: kill(attack, *job), jobs)


def kill(attack: Attack, work: Work, number: signal.Signals, moment: float, expected: object) -> None:
    """Kill a command, and run it again."""
    folder = attack.runner.new_folder()
    killed = attack.runner.start(work.argv, folder, seconds=120).kill_after(moment, number)
    name = f"{work.name}, {number.name} after {moment:.2f} s"
    kind, detail = wrong_end(killed, number)
    if not kind and killed.code != 0:
        again = attack.runner.start(work.argv, folder, seconds=120).wait()
        if again.code != 0:
            kind, detail = "exit code", f"the second run ended with {again.code}: {last_line(again.stderr)}"
    if not kind and work.result(folder) != expected:
        kind, detail = "silent", "the second run's result differs from an undisturbed run's"
    if not kind and (left := [name for name in contents(folder) if is_temporary(name)]):
        kind, detail = "leftover", ", ".join(left[:5])
    attack.add(name, kind or "correct", detail, argv=work.argv, folder=folder)


def wrong_end(outcome: Outcome, number: signal.Signals) -> tuple[str, str]:
    """Return (kind, detail) of what is wrong with how a killed command ended, or empty texts."""
    if outcome.code == 0 or outcome.code == -number == -signal.SIGKILL:
        return "", ""
    if number == signal.SIGTERM and outcome.code == -signal.SIGTERM and outcome.seconds < 0.3:
        return "", ""  # before the command could listen to it
    if number == signal.SIGTERM and outcome.code == 143:
        return judge_message(outcome) or ("", "")
    return "exit code", f"{outcome.code} after {number.name}; last line: {last_line(outcome.stderr)}"
