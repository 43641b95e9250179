"""Identity of a model in a file: the network, its variant, and its arguments."""

from typing import Annotated

from pydantic import BaseModel, Field, FiniteFloat, field_validator

from distill.limits import MAX_ARGUMENT_LENGTH, MAX_MODEL_ARGUMENT, check_limit

Name = Annotated[str, Field(pattern=r"^[!-~]{1,100}$")]
Number = bool | int | FiniteFloat
Argument = Number | Name | list[Number]
"""A model argument in a file: plain values only, which the model's signature must declare (`create_model`)."""


class Identity(BaseModel):
    """The model that a file holds: what `rebuild` builds it from."""

    name: Name
    variant: Name
    arguments: dict[Name, Argument]

    @field_validator("arguments")
    @classmethod
    def _bounded(cls, arguments: dict[str, Argument]) -> dict[str, Argument]:
        for key, value in arguments.items():
            if isinstance(value, list):
                check_limit(len(value), MAX_ARGUMENT_LENGTH, f"length of {key}")
            numbers = value if isinstance(value, list) else [value]
            for number in numbers:
                if not isinstance(number, str):
                    check_limit(abs(number), MAX_MODEL_ARGUMENT, key)
        return arguments
