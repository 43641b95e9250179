"""The README.md of a repository of the Hugging Face Hub: the metadata that the hub reads, and the model card."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.data.fit import fit_of
from distill.data.text import plural
from distill.evaluation.metrics import METRICS
from distill.models.cost import count_weights, gflops_if_known
from distill.models.hub import PREFIX, HubManifest
from distill.models.loaded import LoadedModel
from distill.models.pretrained import PretrainedModel
from distill.models.protocols import is_streaming
from distill.reports import model_card
from distill.training.yaml_text import dump_yaml

LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "cc0-1.0"),
    *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
    *("unlicense", "openrail", "other"),
)
"""Identifiers of licences that the hub knows and that weights are likely to have."""

TASK = "image-segmentation"
"""Task of the hub that is closest: it has none for saliency. Both return a map of each picture."""

ABOUT = (
    "predicts where people look in videos, a saliency map for each frame. It was made with SalDistill "
    "(`pip install saldistill`)"
)


@dataclass(frozen=True)
class HubCard:
    """What a card states.

    Attributes:
        repository: OWNER/NAME.
        model: the network, in evaluation mode.
        notes: the notes of its weight file.
        licence: licence of the weights; None if it is unknown.
        manifest: the files.
        command: command that repeats the training with the config in the repository; empty without a config.
        record: record of a pretrained model.
        no_onnx: why there is no .onnx file; empty if there is one.
    """

    repository: str
    model: LoadedModel
    notes: Mapping[str, Any]
    licence: str | None
    manifest: HubManifest
    command: str = ""
    record: PretrainedModel | None = None
    no_onnx: str = ""

    def __str__(self) -> str:
        identity = self.manifest.model
        summary = f"{self.record.summary} " if self.record else ""
        sections = {"Use": self._use(), **self._about_training(), "Files": self._files()}
        return (
            f"---\n{dump_yaml(self.metadata())}---\n\n# {self.repository.partition('/')[2]}\n\n"
            f"{summary}The network `{identity.name}:{identity.variant}` {ABOUT}. "
            f"Licence of the weights: {self.licence or 'not stated'}.\n"
            + "".join(f"\n## {title}\n\n{content}" for title, content in sections.items() if content)
        )

    def metadata(self) -> dict[str, Any]:
        """Return the metadata that the hub reads."""
        found: dict[str, Any] = {}
        if self.licence is not None:
            identifier = self.licence.lower().replace(" ", "-")
            found["license"] = identifier if identifier in LICENCES else "other"
            if identifier not in LICENCES:
                found["license_name"] = self.licence
        tags = ["saliency", "video-saliency", "saliency-prediction", "eye-tracking", "video"]
        return {
            **found,
            "library_name": "saldistill",
            "pipeline_tag": TASK,
            "tags": [*tags, *(["onnx"] if self.manifest.onnx else [])],
        }

    def _use(self) -> str:
        reference = f"{PREFIX}{self.repository}"
        return (
            f"```\nsaldistill predict {reference} VIDEO.mp4 -o overlay.mp4\n```\n\n"
            f'```python\nimport distill\n\nmodel = distill.load("{reference}")\n'
            'maps = model.predict("video.mp4")  # (frames, h, w), float32 in [0, 1]\n```\n\n'
            f"This loads the newest version. To keep one, add its commit: `{reference}@COMMIT`.\n"
        )

    def _about_training(self) -> dict[str, str]:
        """Return the sections on scores, cost and data: those of the record, or what the notes know."""
        if self.record is None:
            return {"Input and cost": self._cost(), "Validation": self._validation(), "Training": self._training()}
        training = self.record.training
        return {
            "Scores": model_card.scores(self.record.scores),
            "Cost": model_card.cost(self.record),
            "Data": model_card.data(training.data),
            "What was chosen on what": model_card.listed([f"Weights: {training.best}.", *training.chosen]),
            "Intended use": model_card.listed(self.record.intended_use),
            "Known limits": model_card.listed(self.record.limits),
            "Training": model_card.how_trained(self.record),
        }

    def _cost(self) -> str:
        network = self.model.network
        height, width = network.size
        streaming = is_streaming(network)
        gflops = gflops_if_known(self.model, mode="step" if streaming else "clip")
        given = (
            "one frame at a time" if is_streaming(network) else f"clips of {plural(network.num_frames, 'frame')}"
        )
        reach = network.reach if is_streaming(network) else network.num_frames
        maps = "x".join(map(str, network.map_size))
        lines = [
            f"{count_weights(network) / 1e6:.2f} M weights"
            + ("" if gflops is None else f", {gflops / 2:.3f} GMACs per map"),
            f"Input: {given}, {height} x {width} (height x width), RGB, fit `{fit_of(network)}`, trained at a "
            f"stride of {self.model.stride}",
            f"Output: maps of {maps.replace('x', ' x ')}, each of which depends on {plural(reach, 'frame')}",
        ]
        return model_card.listed([f"{line}." for line in lines])

    def _validation(self) -> str:
        scores = {name: value for name, value in (self.notes.get("validation") or {}).items() if value is not None}
        if not scores:
            return "Not scored.\n"
        head = [METRICS[name].title if name in METRICS else name for name in scores]
        table = model_card.markdown_table(head, [[f"{value:.4f}" for value in scores.values()]], "r" * len(head))
        return f"On the validation videos of the run, which also chose these weights:\n\n{table}"

    def _training(self) -> str:
        notes = self.notes
        lines = [f"Weights after {plural(notes['step'], 'step')}"] if notes.get("step") else []
        if lines and notes.get("ema"):
            lines[0] += f", averaged over the steps (EMA, decay {notes['ema']})"
        lines += [f"Trained on {_source(each)}" for each in notes.get("trained_on") or ()]
        text = model_card.listed([f"{line}." for line in lines])
        if self.command:
            text += (
                "\nTo repeat the run, set the folders of the data in config.yaml, which has those of the original "
                f"machine without their parents:\n\n```\n{self.command}\n```\n"
            )
        return text or "Not documented in the weight file.\n"

    def _files(self) -> str:
        rows = [
            [f"`{name}`", f"{file.bytes / 1e6:.2f}", f"`{file.sha256}`"]
            for name, file in self.manifest.files.items()
        ]
        table = model_card.markdown_table(["file", "MB", "SHA-256"], rows, "lrl")
        return table + (f"\nThere is no .onnx file: {self.no_onnx}.\n" if self.no_onnx else "")


def _source(source: Mapping[str, Any]) -> str:
    """Return a training source of the notes as text, e.g. `dhf1k (split train)`."""
    details = [f"split {source['split']}"] if source.get("split") else []
    details += [plural(len(source["videos"]), "video")] if source.get("videos") else []
    name = source.get("name") or source.get("dataset") or "a data set"
    return f"{name} ({', '.join(details)})" if details else str(name)
