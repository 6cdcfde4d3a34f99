"""What kinds of values there are: how each is read from the file, shown again, and described in the JSON Schema.

What a file, a variable or a folder has to hold is looked up while the value is read.
"""
# Without `from __future__ import annotations`: pydantic reads these.

import errno
import os
import re
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from glob import escape
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    PlainSerializer,
    PlainValidator,
    SerializationInfo,
    Strict,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypeAliasType

from exporter import files, values
from exporter.keys import BEGINNING, MASK, InvalidKey, KeySource, Secret
from exporter.operation import OTHER
from exporter.values import ALL_ENVIRONMENTS, InvalidValue, show_duration

TOKEN_LEAST = 16  # characters; a shorter token could be guessed
_RANDOM = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9+_=-]{16,}")  # no name with an extension, no path
_ITSELF = "the secret itself (put it into a file, and name that file here)"
_FOLDER = "relative paths start at the folder of this file"
_Section = TypeVar("_Section")


@dataclass
class LoadContext:
    """What values are read in: `folder` is where relative paths start.

    With `names`, only what these environments need is looked up: the keys of others may be somewhere else. `wanted`
    says whether that holds for the section of an environment or token that was begun last.
    """

    folder: Path
    environ: Mapping[str, str]
    names: Collection[str] = ()
    wanted: bool = True


Info = ValidationInfo[LoadContext]


def adapter_of(section: type[_Section]) -> TypeAdapter[_Section]:
    """Make what reads a section: unknown keys are refused, and no message shows a value."""
    # By another name, as pydantic takes no configuration for a dataclass itself.
    named = cast("type[_Section]", TypeAliasType(section.__name__, section))
    return TypeAdapter(named, config=ConfigDict(extra="forbid", hide_input_in_errors=True))


def not_null(kind: Any) -> GetPydanticSchema:
    """Read an optional key as what it is where it is set: a null in the file does not leave it out."""
    return GetPydanticSchema(lambda _source, handler: handler.generate_schema(kind))


@dataclass(frozen=True, eq=False)
class Text:
    """Written as text: `take` makes the value of it, or `find` does with the context, and `show` the text again."""

    take: Callable[[str], object] | None = None
    schema: Mapping[str, Any] = field(default_factory=dict)
    show: Callable[[Any], str] = str
    find: Callable[[str, Info], object] | None = None

    def __get_pydantic_core_schema__(self, _source: object, _handler: object) -> CoreSchema:
        """Tell pydantic how to read and show it."""
        text = core_schema.str_schema(strict=True)
        shown = core_schema.plain_serializer_function_ser_schema(self.show, when_used="unless-none")
        if self.find is not None:
            return core_schema.with_info_after_validator_function(self.find, text, serialization=shown)
        return core_schema.no_info_after_validator_function(self.take or str, text, serialization=shown)

    def __get_pydantic_json_schema__(self, _schema: object, _handler: object) -> dict[str, Any]:
        """Tell editors how it looks."""
        return {"type": "string", **self.schema}


def _like(expression: str) -> dict[str, str]:
    return {"pattern": f"^{expression}$"}


# What is outside of the file.


def _file(text: str, info: Info) -> Path:
    return info.context.folder / values.check_path(text)


def _key_file(text: str, info: Info, *, least: int = 1, knock: bool = False) -> KeySource:
    return _holding(KeySource(file=_file(text, info), least=least, knock=knock), text, info)


def _key_variable(text: str, info: Info) -> KeySource:
    return _holding(KeySource(variable=values.check_variable(text), knock=True), text, info)


def _key(text: str, info: Info) -> KeySource:
    return _holding(KeySource(inline=Secret(text), knock=True), "", info)


def _holding(source: KeySource, text: str, info: Info) -> KeySource:
    try:
        if info.context.wanted:
            source.read(info.context.environ)
    except InvalidKey as error:
        missing, hint = str(error).endswith((os.strerror(errno.ENOENT), "is not set")), ""
        if missing and source.file and _RANDOM.fullmatch(text) and not text.startswith(BEGINNING):
            raise InvalidValue(f"names no file, and looks like {_ITSELF}", source.file) from None
        if missing and text.startswith(BEGINNING):
            hint = " (looks like the key itself: put it into the file or variable that is named here, or use api_key)"
        elif source.variable:
            hint = "; set it to the key"
        elif missing:
            hint = f"; {_FOLDER}"
        raise InvalidValue(f"{error}{hint}", source.file) from None
    return source


def _show_key(source: KeySource) -> str:
    return str(source.file) if source.file else source.variable or MASK


def _authorities(text: str, info: Info) -> Path:
    path = _file(text, info)
    try:
        if info.context.wanted:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=files.pem(path))
    except (ssl.SSLError, ValueError):
        raise InvalidValue(f"{path}: holds no certificates (expected PEM)", path) from None
    except OSError as error:
        hint = f" ({_FOLDER})" if isinstance(error, FileNotFoundError) else ""
        raise InvalidValue(f"{path}: {error.strerror}{hint}", path) from None
    return path


def _state_file(text: str, info: Info) -> Path:
    path = info.context.folder / values.check_public_path(text)
    try:
        if path.is_dir():
            raise InvalidValue(f"{path}: is a folder (name a file in it, e.g. {path / 'state.db'})", path)
        if not path.parent.is_dir():
            raise InvalidValue(f"{path.parent}: is not a folder (make it first; {_FOLDER})", path.parent)
    except OSError as error:
        raise InvalidValue(f"{path}: {error.strerror} ({_FOLDER})", path) from None
    return path


def _pattern(text: str, info: Info) -> str:
    start = escape(str(info.context.folder.absolute()))
    return os.path.join(start, values.check_pattern(text))  # noqa: PTH118 - Path drops `**/`'s end


# The kinds.


def _show_source(url: str, info: SerializationInfo) -> str:
    masked = info.context and info.context["queries_masked"] and urlsplit(url).query
    return f"{values.show_url(url)}?{MASK}" if masked else url


def _some(found: tuple[Any, ...]) -> tuple[Any, ...]:
    if not found:
        raise InvalidValue("is empty (list at least one)")
    return found


DURATION = _like(f"(?=.){values.DURATION}")
_PATH = _like("([^~].*)?")
_SHOWN_AS_TEXT, _WRITTEN_AS_DURATION = PlainSerializer(show_duration), WithJsonSchema({"type": "string", **DURATION})
Duration = Annotated[float, PlainValidator(values.parse_duration), _SHOWN_AS_TEXT, _WRITTEN_AS_DURATION]
Timeout = Annotated[float, PlainValidator(values.parse_timeout), _SHOWN_AS_TEXT, _WRITTEN_AS_DURATION]
SourceInterval = Annotated[float, PlainValidator(values.parse_source_interval), _SHOWN_AS_TEXT, _WRITTEN_AS_DURATION]
Number = Annotated[float, Strict()]
Count = Annotated[int, Strict()]
Flag = Annotated[bool, Strict()]
PerOperation = Literal["all", "active", "none"]
NOT_EMPTY = AfterValidator(_some)  # pydantic's own counts without the items that are wrong
MIN_ONE_ITEM = Field(json_schema_extra={"minItems": 1})
Name = Annotated[str, Text(values.check_name, _like(f"(?!{ALL_ENVIRONMENTS}$){values.NAME}"))]
NameOrAll = Annotated[str, Text(schema=_like(values.NAME))]
BaseUrl = Annotated[str, Text(values.check_base_url, _like("https?://[^?#@]+"))]
SourceUrl = Annotated[
    str, Text(values.check_source_url, _like("https?://[^#@/?]+([/?][^#]*)?")), PlainSerializer(_show_source)
]
Branch = Annotated[str | None, Text(values.check_branch, _like(values.BRANCH))]
Proxy = Annotated[
    Secret | None,
    Text(
        lambda text: Secret(values.check_proxy(text)),
        _like("https?://[^?#]+"),
        lambda secret: values.mask_proxy(secret.reveal()),
    ),
]
FilePattern = Annotated[str, Text(schema=_like("[^~].*"), find=_pattern)]
CaFile = Annotated[Path | None, Text(schema=_PATH, find=_authorities)]
StateFile = Annotated[Path, Text(schema=_PATH, find=_state_file)]
ApiKeyFile = Annotated[KeySource | None, Text(schema=_PATH, show=_show_key, find=partial(_key_file, knock=True))]
ApiKeyVariable = Annotated[KeySource | None, Text(schema=_like(values.VARIABLE), show=_show_key, find=_key_variable)]
ApiKey = Annotated[KeySource | None, Text(show=_show_key, find=_key)]
BearerTokenFile = Annotated[KeySource | None, Text(schema=_PATH, show=_show_key, find=_key_file)]
TokenFile = Annotated[KeySource, Text(schema=_PATH, show=_show_key, find=partial(_key_file, least=TOKEN_LEAST))]
LabelName = Annotated[str, Text(values.check_label_name, _like(values.LABEL_NAME))]
LabelValue = Annotated[str, Text(values.check_label_value, {"minLength": 1, "maxLength": values.LABEL_BYTES})]
GroupName = Annotated[
    str,
    Text(
        values.check_declared_group,
        {"minLength": 1, "maxLength": values.LABEL_BYTES, **_like(f"(?!{OTHER}$).*")},
    ),
]
RunId = Annotated[str | None, Text(values.check_run_id, _like(values.RUN_ID))]
OperationId = Annotated[str, Text(values.check_operation_id, {"format": "uuid"})]
