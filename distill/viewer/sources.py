"""Find out what a path is (run folder, scores, target store, video), and open it for the viewer."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from distill.data.clips import Video
from distill.data.sets.folder import find_media
from distill.data.video.names import natural
from distill.data.video.synthetic import PREFIX
from distill.errors import UserError
from distill.evaluation.references import RUN_FILES, resolve_source
from distill.evaluation.scores import Scores, read_scores
from distill.inference.folders import is_folder_of_videos
from distill.inference.settings import InferenceSettings
from distill.models.pretrained import DEFAULT_MODEL
from distill.reports.scores import short_names
from distill.targets.store import TargetStore
from distill.training.config import RunConfig, load_config
from distill.training.sources import videos_of_argument, videos_of_source
from distill.training.teacher_section import TeacherSection
from distill.training.terms import TEACHER
from distill.viewer.layers import Layer, PredictedLayer, StoredLayer, TruthLayer
from distill.viewer.scoring import ComputedScores, FileScores
from distill.viewer.shown import ShownVideo, plain_video, same_video, shown
from distill.viewer.view import View

log = logging.getLogger(__name__)

MOST_SOURCES = 3
"""Sources of scores whose maps are computed, so that the panels fit on a page."""

BATCH = 4
"""Maps computed at a time; with more, the viewer waits longer after a jump."""

DATA = "data"
"""Key in `Scores.how` of the data that were scored."""


def open_view(path: str, *, models: Sequence[str] = (), data: str | None = None, device: str = "auto") -> View:
    """Open a run folder, scores, a target store, a video, or a folder of videos for viewing.

    Args:
        path: what to view.
        models: models, folders of maps or baselines to show in addition; for a video, in place of `stream-small`.
        data: DATASET:ROOT with the videos and the ground truth; by default what the path refers to.
        device: device to predict on.

    Raises:
        UserError: it is none of these, or cannot be read; or the model or the data do not exist.
    """
    place = Path(path)
    kind = _kind(place)
    load = partial(_predicted, device=device)
    if place.name in ("store.json", "scores.json", "scores.csv", "videos.csv") and place.is_file():
        place = place.parent
    if kind == "target store":
        return _open_store(place, models, data, load)
    if kind == "scores":
        return _open_scores(place, models, data, load)
    if kind == "run folder":
        return _open_run(place, models, data, load)
    return _open_videos(path, models, data, load)


Load = Callable[..., PredictedLayer]
"""Loads a reference of a model as a layer with a title."""


def _kind(path: Path) -> str:
    """Return what a path is, by its files."""
    if str(path).startswith(PREFIX):
        return "video"
    if path.is_file():
        return {
            "store.json": "target store",
            "scores.json": "scores",
            "scores.csv": "scores",
            "videos.csv": "scores",
        }.get(path.name, "video")
    if not path.is_dir():
        raise UserError(f"{path}: does not exist; expected a run folder, scores, a target store or a video")
    if (path / "store.json").is_file():
        return "target store"
    if any((path / name).exists() for name in RUN_FILES):
        return "run folder"
    return "scores" if _score_folders(path) else "video"


def _score_folders(path: Path) -> list[Path]:
    """Return the folders of scores that a folder is or contains."""
    if (path / "scores.json").is_file():
        return [path]
    return sorted(each.parent for each in path.glob("*/scores.json"))


def _predicted(reference: str, title: str, videos: Sequence[Video] = (), *, device: str) -> PredictedLayer:
    """Return a layer of the maps of a model, a folder of maps or a baseline."""
    settings = InferenceSettings(stride=None, batch_size=BATCH, device=device, runtime="auto")
    return PredictedLayer(resolve_source(reference, settings, videos=videos).maps, title)


def _model_layers(
    models: Sequence[str], load: Load, taken: Sequence[Layer], videos: Sequence[Video] = ()
) -> list[Layer]:
    """Return the layers of `--model`, titled by the shortest unique ends of their names."""
    titles = {layer.title for layer in taken}
    return [
        load(model, f"{title} (--model)" if title in titles else title, videos)
        for model, title in zip(models, short_names(models), strict=True)
    ]


def _labelled(data: str | None) -> dict[str, Video]:
    """Return the videos of `--data` by name, and by data set and name."""
    videos = videos_of_argument(data) if data else []
    return {f"{each.dataset}/{each.name}": each for each in videos} | {each.name: each for each in videos}


def _view(
    title: str,
    kind: str,
    videos: Sequence[ShownVideo],
    layers: Sequence[Layer],
    *,
    truth: bool,
    notes: Sequence[str] = (),
) -> View:
    """Return a view whose scores are computed."""
    scored = [layer for layer in layers if layer.scored]
    scores = ComputedScores(scored) if truth and scored else None
    shown_layers = [*([TruthLayer()] if truth else []), *layers]
    return View(title, kind, videos, shown_layers, scores, notes=list(notes))


# ----------------------------------------------------------------------------------------------- videos


def _open_videos(path: str, models: Sequence[str], data: str | None, load: Load) -> View:
    """Open a video, a folder of frames, or a folder of videos."""
    place = Path(path)
    if not path.startswith(PREFIX) and is_folder_of_videos(place):
        media = dict(sorted(find_media(place).items(), key=lambda item: natural(item[0])))
    else:
        media = {place.stem if place.is_file() else place.name: place}
    by_path = {video.path.resolve(): video for video in _labelled(data).values()}

    def find(name: str, file: Path) -> Video:
        video, labelled = plain_video(file, name), by_path.get(file.resolve())
        return video if labelled is None else same_video(video, labelled)

    videos, notes = [], []
    for name, file in media.items():
        try:
            video = find(name, file)
        except UserError as error:
            if len(media) == 1:
                raise
            notes.append(str(error))
            continue
        videos.append(shown(video))
    if not videos:
        raise UserError(notes[0])
    truth = any(each.has_truth for each in videos)
    if data and not truth:
        notes.append(f"{data}: has no ground truth of {path}")
    layers = _model_layers(models or [DEFAULT_MODEL], load, [], [videos[0].video])
    kind = "video" if len(videos) == 1 else "videos"
    return _view(path, kind, videos, layers, truth=truth, notes=notes)


# ----------------------------------------------------------------------------------------------- target stores


def _open_store(path: Path, models: Sequence[str], data: str | None, load: Load) -> View:
    """Open a target store with the videos that it was built from."""
    store, labelled = TargetStore.open(path), _labelled(data)
    places = {name: Path(note["path"]) for name, note in store.notes.get("videos", {}).items()}

    def find(name: str) -> Video:
        if name in labelled:
            return labelled[name]
        if name not in places or not (str(places[name]).startswith(PREFIX) or places[name].exists()):
            where = f"{places[name]}: does not exist" if name in places else f"{path}: has no path of {name}"
            raise UserError(f"{where}; --data DATASET:ROOT says where the videos are")
        return plain_video(places[name], name)

    videos = [ShownVideo(name, list(frames), partial(find, name)) for name, frames in store.plan.videos.items()]
    notes = []
    if not store.complete:
        notes.append(f"{path}: has {store.count_committed()} of {store.plan.num_records} maps")
    layers: list[Layer] = [StoredLayer(store)]
    layers += _model_layers(models, load, layers)
    truth = any(each.name in labelled for each in videos)
    return _view(str(path), "target store", videos, layers, truth=truth, notes=notes)


# ----------------------------------------------------------------------------------------------- run folders


def _open_run(path: Path, models: Sequence[str], data: str | None, load: Load) -> View:
    """Open a run: its validation and test videos, its teacher's maps and its model's."""
    config_file = path / "config.yaml"
    notes: list[str] = []
    config = load_config(config_file) if config_file.is_file() else None
    if data:
        videos = [shown(video) for video in videos_of_argument(data)]
    elif config is None:
        raise UserError(f"{path}: has no config.yaml that names its videos; give them with --data DATASET:ROOT")
    else:
        videos = _videos_of_run(config)
        if not videos:
            raise UserError(
                f"{config_file}: has neither validation nor test videos; give some with --data DATASET:ROOT"
            )
    layers: list[Layer] = []
    for teacher in config.teacher_sections if config else []:
        layer = _teacher_layer(teacher, videos, load, notes)
        layers += [layer] if layer else []
    try:
        layers.append(load(str(path), "this run", [videos[0].video]))
    except UserError as error:
        notes.append(str(error))  # it has no weights yet
    layers += _model_layers(models, load, layers)
    truth = any(each.has_truth for each in videos)
    return _view(str(path), "run folder", videos, layers, truth=truth, notes=notes)


def _videos_of_run(config: RunConfig) -> list[ShownVideo]:
    """Return the validation and test videos, with all frames of the ranges that are scored."""
    return [
        shown(video, group=group)
        for group, sources in (("validation", config.data.validation), ("test", config.data.test))
        for source in sources
        for video in videos_of_source(source)
    ]


def _teacher_layer(
    teacher: TeacherSection, videos: Sequence[ShownVideo], load: Load, notes: list[str]
) -> Layer | None:
    """Return a teacher's stored maps if they cover a shown frame, otherwise those that its model predicts."""
    title = teacher.name if teacher.name == TEACHER else f"teacher {teacher.name}"
    why = ""
    if teacher.store and TargetStore.exists(teacher.store):
        store = TargetStore.open(teacher.store)
        if any(_covers(store, video) for video in videos):
            return StoredLayer(store, title)
        why = f"{teacher.store}: has no map of these frames, which the run does not train on"
    elif teacher.store:
        why = f"{teacher.store}: does not exist"
    if teacher.model:
        try:
            layer = load(teacher.model, f"{title} (predicted)", [videos[0].video])
        except UserError as error:
            why = "; ".join(filter(None, (why, str(error))))
        else:
            notes += [f"{why}; {title} predicts them now"] if why else []
            return layer
    notes.append(f"no maps of the {title}: {why}")
    return None


def _covers(store: TargetStore, video: ShownVideo) -> bool:
    return not set(video.frames).isdisjoint(store.plan.videos.get(video.name, ()))


# ----------------------------------------------------------------------------------------------- scores


def _open_scores(path: Path, models: Sequence[str], data: str | None, load: Load) -> View:
    """Open the scores of one or several models, with the data that they name."""
    folders = _score_folders(path)
    if not folders:
        raise UserError(f"{path}: no scores.json; expected a folder that `saldistill evaluate -o` wrote")
    results = [read_scores(folder) for folder in folders]
    named = dict(zip(short_names([each.name for each in results]), results, strict=True))
    scores, notes = FileScores(named), []
    data = data or results[0].how.get(DATA)
    labelled: Mapping[str, Video] = {}
    try:
        labelled = _labelled(data)
    except UserError as error:
        notes.append(f"no frames: {error}; --data DATASET:ROOT says where the videos are")
    if not data:
        notes.append("These scores do not name their data; --data DATASET:ROOT shows the frames.")

    def find(name: str) -> Video:
        if name in labelled:
            return labelled[name]
        raise UserError(f"{name}: not in {data}" if data else f"{name}: the data are unknown; give --data")

    videos = [ShownVideo(name, frames, partial(find, name)) for name, frames in scores.frames().items()]
    pictures = any(each.name in labelled for each in videos)
    layers: list[Layer] = _layers_of_scores(named, load, notes) if pictures else []
    layers += _model_layers(models, load, layers) if pictures else []
    if pictures:
        layers = [TruthLayer(), *layers]
    return View(str(path), "scores", videos, layers, scores, pictures=pictures, notes=notes)


def _layers_of_scores(named: Mapping[str, Scores], load: Load, notes: list[str]) -> list[Layer]:
    """Return the maps of the first scored models that can be loaded."""
    layers: list[Layer] = []
    for title, scores in named.items():
        if len(layers) == MOST_SOURCES:
            notes.append(f"{title}: its maps are not shown, since there are {MOST_SOURCES} others")
            continue
        try:
            layers.append(load(scores.name, title))
        except UserError as error:
            notes.append(f"no maps of {title}: {error}")
    return layers
