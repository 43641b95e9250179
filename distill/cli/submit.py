"""`saldistill submit`: write the maps that a benchmark scores."""

from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.evaluation.map_sources import model_maps
from distill.evaluation.references import _maps_without_model
from distill.evaluation.submission import FORMATS, Submission
from distill.evaluation.submission import submit as write_submission
from distill.models.device import resolve_device
from distill.models.references import load_model, stride_of
from distill.models.weight_files import weights_fingerprint
from distill.stride import Stride
from distill.training.sources import videos_of_argument


def submit(
    reference: str,
    data: str,
    out: str | Path,
    *,
    to: str,
    split: str | None = None,
    videos: list[str] | None = None,
    stride: Stride | None = None,
    batch_size: int = 8,
    device: str = "auto",
    first_frames: str = "repeat",
) -> Submission:
    """Write a submission: the maps of a model, a baseline or a folder of maps, of every frame of a split.

    Args:
        reference: as `map_source`.
        data: `dhf1k:ROOT`; a data set other than the benchmark's own is written in the benchmark's form too.
        out: the folder to be sent.
        to: a benchmark, one of submission.FORMATS.
        split: of the benchmark's own data set, the one that it scores when None.
        videos: only these, by name.
        stride: of a model; as in training when None.
        batch_size: of a model.
        device: of a model.
        first_frames: of a model.

    Raises:
        UserError: as `videos_of`, `map_source` and `submission.submit`; or a config instead of a data set.
    """
    dataset, colon, root = data.partition(":")
    own = dataset == to and videos is None
    if not colon and Path(data).suffix in (".yaml", ".yml"):
        raise UserError(
            f"{data}: a submission is of a data set's videos; name it as DATASET:ROOT, such as {to}:ROOT"
        )
    if own and split is None:
        split = FORMATS[to].split
    chosen = videos_of_argument(data, split=split, videos=videos)
    expected = FORMATS[to].published(Path(root), split) if own and split else []
    made_by: dict[str, Any] = {"model": reference, "maps": reference}
    maps = _maps_without_model(reference)
    if maps is None:
        where = resolve_device(device)
        model = load_model(reference, device=where)
        settings: dict[str, Any] = {"stride": stride or stride_of(model), "first_frames": first_frames}
        maps = model_maps(model, batch_size=batch_size, device=where, **settings)
        made_by = {"model": reference, "weights": weights_fingerprint(model), **settings}
    return write_submission(maps, chosen, out, to=to, made_by=made_by, expected=expected)
