"""Score models, folders of maps and baselines on several test sets, measure what models cost, and write one page.

    saldistill leaderboard MODEL_OR_MAPS ... --on DATA ... -o DIR

DIR has leaderboard.md, leaderboard.html, leaderboard.csv, pareto.svg and the scores, which a second run keeps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.claims import claim
from distill.errors import UserError
from distill.evaluation.observers import NAME as OBSERVERS
from distill.evaluation.scores import Scores
from distill.files import write_text
from distill.inference.settings import InferenceSettings
from distill.leaderboard.cost import measure_costs
from distill.leaderboard.entries import Entry, TestSet, find_entries, find_test_sets
from distill.leaderboard.leaks import Leaks, check_leaks
from distill.leaderboard.page import (
    Section,
    html_values,
    markdown_page,
    markdown_table,
    method_notes,
    picture_of,
    sections_of,
)
from distill.leaderboard.quality import Result, score_all
from distill.leaderboard.table import Row, as_csv, as_plain, make_rows
from distill.reports.page import write_report

SCORES = "scores"
"""Folder of the scores in a leaderboard's folder."""

PICTURE = "pareto.svg"


@dataclass(frozen=True)
class Leaderboard:
    """A finished leaderboard.

    Attributes:
        folder: where it was written.
        rows: its rows, in the order of the page.
        sections: the test sets with their rows.
        setting: how costs were measured.
    """

    folder: Path
    rows: list[Row]
    sections: list[Section]
    setting: Mapping[str, Any]

    def __str__(self) -> str:
        tables = [f"{section.name}: {section.text}\n{markdown_table(section.rows)}" for section in self.sections]
        return "\n".join([*tables, f"Written to {self.folder}"])

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"rows": [as_plain(row) for row in self.rows], "setting": dict(self.setting), "folder": self.folder}


def make_leaderboard(
    models: Sequence[str],
    data: Sequence[str],
    out: str | Path,
    *,
    scenes: Sequence[str] = (),
    every: int = 1,
    seed: int = 0,
    workers: int = 1,
    rounds: int = 5,
    threads: int | None = None,
    settings: InferenceSettings | None = None,
    command: str = "",
) -> Leaderboard:
    """Make a leaderboard and write it to a folder.

    Scores that the folder has from an earlier run are kept if what they depend on is the same. Costs are measured
    again: they can only be compared within one run.

    Args:
        models: models, folders of maps and baselines, each perhaps as NAME=MODEL.
        data: test sets, DATASET:ROOT or a config, each perhaps as NAME=DATA.
        out: the folder.
        scenes: patterns of videos of the same scene, see `same_scene`.
        every: score every n-th frame in use.
        seed: seed of the scores.
        workers: scoring processes.
        rounds: interleaved rounds of timing.
        threads: CPU threads of the timing; defaults to PyTorch's number.
        settings: how models run to be scored; defaults to their training stride on the device `auto`.
        command: the command, for the page.

    Raises:
        UserError: nothing to compare, a model or data set that cannot be read, two of the same name, nothing that
            can be scored, or `out` holds something else.
    """
    out = Path(out)
    settings = settings or InferenceSettings(stride=None, device="auto", runtime="auto")
    require_own_folder(out)
    entries = find_entries(models, settings)
    tests = find_test_sets(data, scenes)
    with claim(out, "a leaderboard", overwrite=True):
        leaks = leaks_of(entries, tests)
        costs, setting = measure_costs(entries, rounds=rounds, threads=threads)
        options = {"every": every, "seed": seed, "workers": workers}
        results = score_all(entries, tests, out / SCORES, settings, **options)
        rows = make_rows(entries, tests, results, costs, leaks)
        sections = sections_of(rows, tests)
        notes = method_notes(setting, how_of(results), seed)
        write_files(out, rows, sections, notes, command)
    return Leaderboard(out, rows, sections, setting)


def require_own_folder(out: Path) -> None:
    """Check that a folder is new, empty, or that of a leaderboard.

    Raises:
        UserError: it is something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; expected a folder for the leaderboard; choose another name")
    if out.is_dir() and any(out.iterdir()) and not (out / SCORES).is_dir():
        raise UserError(
            f"{out}: has other files and no {SCORES}/ of a leaderboard; expected a new folder, or that of an "
            "earlier leaderboard; choose another name"
        )


def leaks_of(entries: Sequence[Entry], tests: Sequence[TestSet]) -> dict[tuple[str, str], Leaks]:
    """Return the result of the leak check of everything but the observers, by the names of test set and entry."""
    found = {}
    for test in tests:
        for entry in entries:
            if entry.kind != "observers":
                found[test.name, entry.name] = check_leaks(entry.reference, test.videos)
    return found


def how_of(results: Mapping[tuple[str, str], Result]) -> Mapping[str, str]:
    """Return how the scores were computed, from the first that exist.

    Raises:
        UserError: nothing but the observers was scored.
    """
    others = {pair: result for pair, result in results.items() if pair[1] != OBSERVERS}
    scored = [result for result in others.values() if isinstance(result, Scores)]
    if not scored:
        reasons = [result.reason for result in others.values() if not isinstance(result, Scores)]
        raise UserError(f"leaderboard: nothing could be scored; the first reason: {reasons[0]}")
    return scored[0].how


def write_files(
    out: Path, rows: Sequence[Row], sections: Sequence[Section], notes: Sequence[str], command: str
) -> None:
    """Write the page in both forms, the table and the picture; those of an earlier run are replaced."""
    picture = picture_of(sections)
    write_text(out / "leaderboard.csv", as_csv(rows))
    if picture:
        write_text(out / PICTURE, f"{picture}\n")
    else:
        (out / PICTURE).unlink(missing_ok=True)
    page = markdown_page(sections, notes, command, picture=PICTURE if picture else "")
    write_text(out / "leaderboard.md", page)
    shown = [*notes, f"Command: {command}"] if command else notes
    write_report(out / "leaderboard.html", "leaderboard", verdict=None, **html_values(sections, shown, picture))
