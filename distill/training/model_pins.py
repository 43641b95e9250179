"""Pin the models of a run config that are in repositories of the Hugging Face Hub to the commits they have now."""

from distill.models.hub import pinned
from distill.training.config import RunConfig


def pin_models(config: RunConfig) -> RunConfig:
    """Return a config whose `model.weights` and `teacher.model` name commits, so that the run can be repeated.

    Raises:
        UserError: a repository does not exist or cannot be reached.
    """
    weights = config.model.weights
    pinned_teachers = config.with_each_teacher(
        lambda teacher: {} if teacher.model is None else {"model": pinned(teacher.model)}
    )
    model = config.model.model_copy(update={"weights": None if weights is None else pinned(weights)})
    return pinned_teachers.model_copy(update={"model": model})
