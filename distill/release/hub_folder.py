"""Write a model as the files of a repository of the Hugging Face Hub.

model.safetensors   the weights
model.onnx          the exported network, unless it cannot be exported
config.yaml         the config of the run, without the folders of the machine
saldistill.json     the network, and the size and SHA-256 of each file above
README.md           the model card, which people may edit
"""

import logging
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distill.errors import UserError, reason_of
from distill.files import file_hash, write_json, write_text
from distill.limits import MAX_GRAPH_BYTES
from distill.models.hub import FORMAT, MANIFEST, HubFile, HubManifest, is_hub_reference
from distill.models.identity import Identity
from distill.models.loaded import LoadedModel
from distill.models.networks import PACKAGES
from distill.models.onnx import OnnxModel
from distill.models.pretrained import PretrainedModel, checked_file, is_pretrained, pretrained_model
from distill.models.references import load_model, notes_with_run
from distill.models.weight_files import save_model
from distill.release.hub_card import HubCard
from distill.release.public_values import public
from distill.runtimes.export import export
from distill.training.config import load_config
from distill.training.yaml_text import dump_yaml

log = logging.getLogger(__name__)

WEIGHTS, ONNX, CONFIG, CARD = "model.safetensors", "model.onnx", "config.yaml", "README.md"

WRITTEN = (WEIGHTS, ONNX, CONFIG, MANIFEST, CARD)
"""Files that a push writes, or removes if the model no longer has them."""

HEADER = "# Config of the run. Paths outside its working folder are reduced to their last part.\n"


@dataclass(frozen=True)
class HubFolder:
    """A folder that was written.

    Attributes:
        model: the model.
        files: name -> bytes of each file.
        no_onnx: why there is no .onnx file; empty if there is one.
    """

    model: LoadedModel
    files: dict[str, int]
    no_onnx: str


def write_hub_folder(
    run: str | Path, repository: str, folder: Path, *, onnx: bool = True, licence: str | None = None
) -> HubFolder:
    """Write the files of a repository into an empty folder.

    Args:
        run: run folder, weight file, pretrained model or repository.
        repository: OWNER/NAME, for the card.
        folder: the folder.
        onnx: also export the network; if that is impossible, a line in the log says why.
        licence: licence of the weights; defaults to that in their notes.

    Raises:
        UserError: there are no weights, or the config of the run is invalid.
    """
    model = load_trained(run)
    record = pretrained_model(str(run)) if is_pretrained(run) else None
    notes = {**public(notes_with_run(model)), **({"licence": licence} if licence else {})}
    licence = notes.get("licence") or (record.licence if record else None)
    no_onnx = "it was left out" if not onnx else ""
    if record is not None:
        shutil.copyfile(checked_file(record.weights), folder / WEIGHTS)
    else:
        save_model(model, folder / WEIGHTS, notes=notes)
    if onnx:
        no_onnx = write_graph(model, folder / ONNX, record, notes, licence)
    command = write_config(config_of(run), folder / CONFIG)
    files = {
        name: HubFile(sha256=file_hash(folder / name), bytes=(folder / name).stat().st_size)
        for name in (WEIGHTS, ONNX, CONFIG)
        if (folder / name).exists()
    }
    manifest = HubManifest(
        format=FORMAT,
        model=Identity.model_validate(dict(model.identity)),
        weights=WEIGHTS,
        onnx=ONNX if ONNX in files else None,
        config=CONFIG if CONFIG in files else None,
        files=files,
        made_with=f"saldistill {version('saldistill')}",
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    card = HubCard(repository, model, notes, licence, manifest, command, record, no_onnx)
    write_text(folder / CARD, str(card))
    return HubFolder(model, {name: (folder / name).stat().st_size for name in (*files, MANIFEST, CARD)}, no_onnx)


def load_trained(run: str | Path) -> LoadedModel:
    """Load a model whose weights can be shared.

    Raises:
        UserError: it is an exported file, has random weights, or as `load_model`.
    """
    expected = "expected a run folder, a weight file or a pretrained model"
    text = str(run)
    if text.startswith(tuple(f"{each}/" for each in PACKAGES)) and not Path(run).exists():
        raise UserError(f"{text}: is a network with random weights; {expected}")
    if Path(run).suffix == ".onnx" and not is_hub_reference(text):
        raise UserError(f"{text}: is an exported file; {expected}, which is exported again")
    model = load_model(run)
    assert not isinstance(model.network, OnnxModel)
    return model


def write_graph(
    model: LoadedModel, path: Path, record: PretrainedModel | None, notes: dict[str, Any], licence: str | None
) -> str:
    """Write the .onnx file; return why there is none, or an empty text."""
    if record is not None:
        shutil.copyfile(checked_file(record.onnx), path)
        return ""
    size = sum(each.numel() * each.element_size() for each in model.network.parameters())
    reason = f"its weights take {size / 2**20:,.0f} MB, over the limit of {MAX_GRAPH_BYTES / 2**20:,.0f} MB"
    if size <= MAX_GRAPH_BYTES:
        try:
            report = export(model, path, notes=notes, licence=licence)
        except ModuleNotFoundError:
            raise  # the message names the package to install
        except Exception as error:  # the exporter raises errors of many types
            if isinstance(error, OSError) and error.errno is not None:
                raise
            reason = reason_of(error).replace(str(path), ONNX)
        else:
            log.info("%s", str(report).replace(str(path), ONNX))
            return ""
    log.warning("%s: no .onnx file, because the network cannot be exported: %s", model.reference, reason)
    return f"the network cannot be exported ({reason})"


def config_of(run: str | Path) -> Path | None:
    """Return the config of a run folder, or of the run whose best weights a file is; None if there is none."""
    path = Path(run)
    folder = path.parent if path.name == "best.safetensors" else path
    config = folder / CONFIG
    return config if config.is_file() else None


def write_config(source: Path | None, path: Path) -> str:
    """Write the config of a run without the folders of the machine; return the command that repeats the run.

    Raises:
        UserError: the config is invalid.
    """
    if source is None:
        return ""
    config = load_config(source)
    write_text(path, HEADER + dump_yaml(public(config.model_dump(mode="json"))))
    return f"saldistill {'distill' if config.teacher_sections else 'train'} {CONFIG}"
