"""What a leaderboard compares (models, folders of maps, baselines), and the test sets that it compares them on."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from distill.data.clips import Video
from distill.errors import UserError
from distill.evaluation.map_folder import MapFolder
from distill.evaluation.observers import NAME as OBSERVERS
from distill.evaluation.references import ResolvedSource, folder_name, resolve_source, same_scene
from distill.inference.settings import InferenceSettings
from distill.models.loaded import LoadedModel
from distill.paths import path_inside
from distill.shipped import shipped_argument
from distill.training.config import ScoredSource, load_config
from distill.training.sources import scored_videos, videos_of_argument

NAMED = re.compile(r"([^=/:]+)=(.+)", flags=re.DOTALL)
"""NAME=REFERENCE; a `=` inside a path or an address is part of it."""


@dataclass(frozen=True)
class Entry:
    """One subject of a leaderboard.

    Attributes:
        name: its name in the tables.
        reference: what `saldistill evaluate` takes.
        source: where its maps come from; None for the observers.
    """

    name: str
    reference: str
    source: ResolvedSource | None

    @property
    def model(self) -> LoadedModel | None:
        """The model, if it is one."""
        return None if self.source is None else self.source.model

    @property
    def kind(self) -> str:
        """What it is: "model", "maps", "baseline" or "observers"."""
        if self.source is None:
            return OBSERVERS
        if self.source.model is not None:
            return "model"
        return "maps" if isinstance(self.source.maps, MapFolder) else "baseline"


@dataclass(frozen=True)
class TestSet:
    """Videos that all entries are scored on.

    Attributes:
        name: its name in the tables.
        data: the argument that selects the videos.
        videos: the videos, all with ground truth.
    """

    __test__ = False  # not for pytest, in spite of its name

    name: str
    data: str
    videos: list[Video]

    @property
    def unit(self) -> str:
        """What the scores are averaged over: "image" or "video"."""
        return "image" if all(video.num_frames == 1 for video in self.videos) else "video"


def split_name(argument: str) -> tuple[str | None, str]:
    """Return the name, None if there is none, and the rest of NAME=REST, with shipped paths resolved."""
    match = NAMED.fullmatch(argument)
    return (match[1].strip(), shipped_argument(match[2])) if match else (None, argument)


def find_entries(arguments: Sequence[str], settings: InferenceSettings) -> list[Entry]:
    """Return the entries of arguments MODEL or NAME=MODEL; the observers, who are always scored, come first.

    Raises:
        UserError: there is none, a model cannot be loaded, or two have the same name.
    """
    entries = [Entry(OBSERVERS, OBSERVERS, None)]
    for argument in arguments:
        name, reference = split_name(argument)
        if reference == OBSERVERS:
            continue
        source = resolve_source(
            reference, replace(settings, runtime=None)
        )  # the runtime is chosen for each test set
        entries.append(Entry(name or reference, reference, source))
    if len(entries) == 1:
        raise UserError("leaderboard: expected at least one model, folder of maps or baseline; name one")
    require_distinct([entry.name for entry in entries], "models", "NAME=MODEL")
    return entries


def find_test_sets(arguments: Sequence[str], scenes: Sequence[str] = ()) -> list[TestSet]:
    """Return the test sets of arguments DATA or NAME=DATA.

    DATA is DATASET:ROOT, or a config; its test sources of different names are separate test sets.

    Args:
        arguments: the arguments.
        scenes: patterns of `same_scene`, for the videos of all sets.

    Raises:
        UserError: there is none, one has no video with ground truth, or two have the same name.
    """
    if not arguments:
        raise UserError("leaderboard: expected at least one test set; add --on DATA, e.g. --on dhf1k:@sample")
    found: list[TestSet] = []
    for argument in arguments:
        name, data = split_name(argument)
        if Path(data).suffix in (".yaml", ".yml"):
            found += _sets_of_config(name, data)
        else:
            videos = [video for video in videos_of_argument(data) if video.truth is not None]
            found.append(TestSet(name or data.partition(":")[0], data, videos))
    for each in found:
        if not each.videos:
            raise UserError(f"{each.data}: no video has ground truth to score against; choose other data")
    require_distinct([each.name for each in found], "test sets", "NAME=DATA")
    merged = iter(same_scene([video for each in found for video in each.videos], list(scenes)))
    return [replace(each, videos=list(islice(merged, len(each.videos)))) for each in found]


def _sets_of_config(name: str | None, data: str) -> list[TestSet]:
    """Return the test sets of a config.

    Raises:
        UserError: it has no test videos, or several sets for one name.
    """
    sources: dict[str, list[ScoredSource]] = {}
    for source in load_config(data).data.test:
        sources.setdefault(source.label, []).append(source)
    if not sources:
        raise UserError(f"{data}: data.test is empty; give the data as DATASET:ROOT")
    if name is not None and len(sources) > 1:
        raise UserError(
            f"{name}={data}: the config has {len(sources)} test sets ({', '.join(sources)}) and keeps their names; "
            f"leave out '{name}='"
        )
    return [TestSet(name or label, data, scored_videos(parts)) for label, parts in sources.items()]


def require_distinct(names: Sequence[str], what: str, form: str) -> None:
    """Check that all names differ, also as names of folders.

    Raises:
        UserError: two are equal.
    """
    for name in names:
        path_inside("", folder_name(name), "leaderboard")
    counts = Counter(map(folder_name, names))
    if twice := [name for name in names if counts[folder_name(name)] > 1]:
        raise UserError(f"{twice[0]}: two {what} have this name; expected distinct names; give one with {form}")
