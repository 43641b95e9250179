"""Facts about pretrained models that no run knows, from facts.yaml: terms of data, published scores, limits."""

from pathlib import Path

from pydantic import Field, FiniteFloat

from distill.errors import UserError
from distill.models.pretrained import ScoreRow
from distill.training import config_errors
from distill.training.config_errors import Section


class DataFact(Section):
    """Terms of a data set."""

    folders: list[str]
    """Names of folders by which the root of a source is recognised."""
    title: str
    licence: str
    citation: str


class PublishedScores(Section):
    """Scores from elsewhere."""

    name: str
    means: dict[str, FiniteFloat]


class ScoreFact(Section):
    """A data set that models are scored on."""

    title: str
    published: list[PublishedScores] = Field(default=[])

    def rows(self) -> list[ScoreRow]:
        """Return the published scores as rows of a table."""
        return [ScoreRow(name=each.name, means=dict(each.means)) for each in self.published]


class ModelFact(Section):
    """What is particular to one pretrained model."""

    summary: str
    chosen: list[str] = Field(default=[])
    """What was chosen on which data, in addition to the step of the weights."""


class Facts(Section):
    """The content of facts.yaml."""

    licence: str
    data: dict[str, DataFact]
    scores: dict[str, ScoreFact]
    models: dict[str, ModelFact]
    intended_use: list[str]
    limits: list[str]

    def data_of(self, root: str, where: object) -> DataFact:
        """Return the terms of the data in a folder.

        Raises:
            UserError: if the file does not list it: weights are shipped with the terms of all of their data.
        """
        parts = Path(root).parts
        for fact in self.data.values():
            if set(fact.folders) & set(parts):
                return fact
        known = ", ".join(folder for fact in self.data.values() for folder in fact.folders)
        raise UserError(
            f"{where}: facts.yaml has no licence for the data in {root}; expected a folder called {known}; add an "
            "entry under data"
        )


def read_facts(path: str | Path) -> Facts:
    """Return the content of facts.yaml.

    Raises:
        UserError: the file is invalid; the error lists every mistake.
    """
    return config_errors.load(Facts, path, None)
