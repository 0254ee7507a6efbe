"""A function of a Python file that is not installed: `mspipeline train my_net.py:build`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from mspipeline.errors import ConfigError, nearest
from mspipeline.files import sha256_file


def names_a_file(name: str) -> bool:
    """Whether a model's name is `FILE.py:FUNCTION`.

    >>> names_a_file("nets/my_net.py:build"), names_a_file("unet2d")
    (True, False)
    """
    return name.partition(":")[0].endswith(".py")


def model_settings(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `ModelSettings` for a network as a user names it.

    Of a function in a file: its whole path, for a job may run in another folder, and the hash of what is in it, so that
    an edited network is another run. Raises ConfigError where there is no such file.
    """
    if not names_a_file(name):
        return {"name": name, "arguments": arguments}
    file, _, function = name.partition(":")
    _require(Path(file))
    whole = f"{Path(file).absolute()}:{function}"
    return {"name": whole, "arguments": arguments, "file_sha256": sha256_file(Path(file))}


def function_of(name: str) -> Callable[..., Any]:
    """The function that `FILE.py:FUNCTION` names. Raises ConfigError where there is none, or the file does not load."""
    file, _, function = name.partition(":")
    if not function:
        raise ConfigError(f"{name}: names no function; expected FILE.py:FUNCTION, such as {file}:build")
    module = _module(Path(file))
    own = {each: value for each, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    functions = [each for each, value in own.items() if callable(value) and not each.startswith("_")]
    found = getattr(module, function, None)
    if not callable(found):
        raise ConfigError(f"{file}: has no function {function!r}; {nearest(function, functions)}")
    made: Callable[..., Any] = found
    return made


def _module(file: Path) -> ModuleType:
    _require(file)
    specification = importlib.util.spec_from_file_location(f"mspipeline_model_of_{file.stem}", file)
    if specification is None or specification.loader is None:
        raise ConfigError(f"{file}: is no Python file")
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's file raises when it is run
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ConfigError(
            f"{file}{line}: cannot be loaded ({type(error).__name__}: {error}); correct the file"
        ) from error
    return module


def _require(file: Path) -> None:
    if not file.is_file():
        raise ConfigError(f"{file}: no such file, expected Python with a function that builds a network")
