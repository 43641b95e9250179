"""Record of a loaded model: the network, its identity, and the source of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distill.errors import UserError
from distill.models.protocols import SaliencyModel
from distill.stride import Stride, read_stride


@dataclass(frozen=True)
class LoadedModel:
    """A network with its identity and the source of its weights.

    Attributes:
        network: the network.
        identity: {"name", "variant", "arguments"} as JSON values, from which `create_model` builds it.
        reference: the reference it was loaded by, such as a run folder, or its name, such as `teacher/salfom:tiny`.
        notes: what its weight file records about the training; empty if there is no file.
        loaded: one sentence about the weight file it was created from; empty if there is none.
    """

    network: SaliencyModel
    identity: Mapping[str, Any]
    reference: str
    notes: Mapping[str, Any] = field(default_factory=dict)
    loaded: str = ""

    @property
    def stride(self) -> Stride:
        """Stride of the clips it was trained on; 1 if its notes have none."""
        return stride_of(self.notes)


def stride_of(notes: Mapping[str, Any]) -> Stride:
    """Return the training stride in the notes of a weight file or an exported file; 1 if they have none."""
    try:
        return read_stride(notes.get("stride", 1))
    except UserError as error:
        raise UserError(f"stride in the model's notes: {error}") from None
