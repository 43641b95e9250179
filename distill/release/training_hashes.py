"""Hash the data that a pretrained model was trained on, for the leak check of others."""

from collections.abc import Iterable

from distill.data.picture_hashes import VideoHashes, hash_videos
from distill.errors import UserError
from distill.models.training_hashes import TrainingHashes
from distill.training.config import RunConfig
from distill.training.sources import videos_of_source


def hash_training_data(configs: Iterable[RunConfig]) -> TrainingHashes:
    """Return the hashes of all training videos of some runs: a model's own, its initial weights' and its teachers'.

    Raises:
        UserError: a video is missing or cannot be read: a model without hashes of all of its data is not shipped.
    """
    sources = (source for config in configs for source in config.data.train)
    paths = dict.fromkeys(video.path for source in sources for video in videos_of_source(source))
    hashes: list[VideoHashes] = []
    for each in hash_videos(list(paths), progress="hashing training videos"):
        if isinstance(each, UserError):
            raise each
        hashes.append(each)
    return TrainingHashes.of(hashes)
