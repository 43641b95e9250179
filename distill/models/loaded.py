"""A network together with what is known about it: which model it is, and where its weights come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distill.models.protocols import SaliencyModel
from distill.stride import Stride, read_stride


@dataclass(frozen=True)
class LoadedModel:
    """A network and what is known about it.

    Attributes:
        network: the network.
        identity: {"name", "variant", "arguments"} as JSON values: what `create_model` builds it from.
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
        """The stride of the clips it was trained on; 1 if its notes do not say."""
        return stride_of(self.notes)


def stride_of(notes: Mapping[str, Any]) -> Stride:
    """Return the stride of training that the notes of a weight file or an exported file record, else 1."""
    return read_stride(notes.get("stride", 1))
