"""What a device may say, as strict types: a device's answers are data to check, never trusted."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from toolchain.errors import ProtocolError, printable

PROTOCOL = 2
MOST_TEXT = 4096
MARKER = b"\x1eedge1 "
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


def _printable(value: object) -> object:
    """Text from a device may end up in a terminal: control characters are made visible."""
    return printable(value).replace("\n", "\\n") if isinstance(value, str) and len(value) <= MOST_TEXT else value


Text = Annotated[str, BeforeValidator(_printable), Field(max_length=MOST_TEXT)]
Path_ = Annotated[str, Field(max_length=4096, pattern=r"^/[^\x00-\x1f]*$")]


class Message(BaseModel):
    """Strict: no conversion of types; fields that are not known are left out."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Hello(Message):
    protocol: int
    python: Text
    arch: Text
    pid: int
    boot_id: Annotated[str, Field(pattern=r"^[0-9a-f-]{1,64}$")] | None
    oom_kills: Count | None


class Progress(Message):
    done: Count
    total: Count


class Failure(Message):
    kind: Text
    text: Annotated[str, Field(max_length=1 << 16)]


M = TypeVar("M", bound=Message)


def check(kind: type[M], data: object) -> M:
    """`data` as a message of this kind.

    Raises:
        ProtocolError: a field is missing, of the wrong type or out of range.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise ProtocolError(f"the device's {kind.__name__} is not what it must be", got=f"{where}: {first['msg']}") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_line(line: bytes) -> dict[str, Any]:
    """One marked line as an object.

    Raises:
        ProtocolError: not a JSON object.
    """
    try:
        data = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the device sent a line that is not JSON", got=repr(line[:120])) from error
    if not isinstance(data, dict):
        raise ProtocolError("the device sent JSON that is not an object", got=repr(line[:120]))
    return data
