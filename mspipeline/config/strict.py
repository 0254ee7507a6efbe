"""What every configuration is, and how it is read: a misspelt key, a wrong type or a value out of range is one line.

The line names the file, the key, what was expected and the nearest valid key. TOML is read here alone.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from mspipeline.errors import ConfigError, nearest
from mspipeline.files import read_text

Scalar = bool | int | float | str


class Strict(BaseModel):
    """Base of every configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Settings = TypeVar("Settings", bound=Strict)


def read_config(path: Path, schema: type[Settings]) -> Settings:
    """The settings in a TOML file (or JSON, by its ending).

    Raises ConfigError where the file is missing, not TOML, or does not fit `schema`.
    """
    try:
        text = read_text(path)
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeError, OSError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as a configuration file: {error}") from error
    return parse(document, schema, where=str(path))


def parse(document: Mapping[str, Any], schema: type[Settings], *, where: str) -> Settings:
    """`document` as `schema`; `where` names its source in the error line.

    A schema says which versions of a file it reads by the literals of its field `schema_version`. Raises ConfigError
    where the document does not fit; of a newer version, that alone is said, whatever else is strange to this one.
    """
    newest = _newest_version(schema)
    version = document.get("schema_version") if isinstance(document, Mapping) else None
    if newest is not None and type(version) is int and version > newest:
        raise ConfigError(
            f"{where}: schema version {version}, expected at most {newest}; it is of a newer version of the suite: "
            "use that one"
        )
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        problems = [_say(problem, schema) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(problems)) from error


def _newest_version(schema: type[BaseModel]) -> int | None:
    """The newest version that a schema reads; None where its documents have none."""
    field = schema.model_fields.get("schema_version")
    return None if field is None else max(get_args(field.annotation), default=None)


def _say(problem: Any, schema: type[BaseModel]) -> str:
    """One validation problem in words."""
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        # Our own validators name what they received, and a whole table is no answer to anybody.
        named = problem["type"] in ("missing", "value_error") or isinstance(problem["input"], Mapping)
        received = "" if named else f"; received: {problem['input']!r}"
        return f"{location}{': ' if location else ''}{message[0].lower()}{message[1:]}{received}"
    owner = _owner(schema, problem["loc"][:-1])
    key = str(problem["loc"][-1])
    return f"unknown key {location!r}" + (f"; {nearest(key, list(owner.model_fields))}" if owner else "")


def _owner(schema: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The settings class at a location inside `schema`, where it can be told."""
    for part in location:
        if not isinstance(part, str) or part not in schema.model_fields:
            continue  # a list index or a mapping's key: the class stays that of its values
        annotation = schema.model_fields[part].annotation
        inner = [annotation, *getattr(annotation, "__args__", ())]
        classes = [c for c in inner if isinstance(c, type) and issubclass(c, BaseModel)]
        if not classes:
            return None
        schema = classes[0]
    return schema


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` words of a command line as a mapping; values are read as TOML, and as plain text where they are not.

    >>> parse_assignments(["size=[64, 64, 48]", "brain=mask"])
    {'size': [64, 64, 48], 'brain': 'mask'}
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"--set {assignment}: expected KEY=VALUE, e.g. --set base_width=16")
        try:
            values[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key] = text
    return values
