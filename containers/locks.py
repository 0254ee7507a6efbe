"""The exact packages of each image, each file with its hash: `python -m mspipeline.containers.locks` asks the indexes.

Versions are those of `requirements/lock.txt`, with which the tests ran, wherever it has the package. Run from the
repository's root, by `make lock`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from mspipeline.containers.definitions import BUILD_LOCK
from mspipeline.containers.recipes import PLATFORM, PYTHON, RECIPES, Recipe
from mspipeline.errors import ConfigError

REQUIREMENTS = "setup.cfg"
CONSTRAINTS = "requirements/lock.txt"
BUILD = "requirements/images/build.in"


def lock_command(recipe: Recipe, output: Path) -> list[str]:
    """What makes the lock of an image, as a file `output`.

    >>> lock_command(RECIPES["jax"], Path("x"))[-4:]
    ['--extra', 'jax', '--extra', 'mpi']
    """
    extras = [word for extra in recipe.extras for word in ("--extra", extra)]
    index = ["--extra-index-url", recipe.index, "--index-strategy", "unsafe-best-match"] if recipe.index else []
    emit = ["--emit-index-url"] if recipe.index else []  # pip reads it from the lock
    return [*_compile(REQUIREMENTS, output), *extras, *index, *emit]


def _compile(source: str, output: Path) -> list[str]:
    where = ["--python-version", PYTHON, "--python-platform", PLATFORM, "--constraint", CONSTRAINTS]
    form = ["--generate-hashes", "--no-annotate", "--no-header", "--quiet", "--upgrade"]
    return ["uv", "pip", "compile", source, "--output-file", str(output), *where, *form]


def main() -> int:
    """Write every lock; one whose index cannot be reached stays as it was and is named: code 78."""
    program = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if program is None:
        print("error: no uv here; pip install 'mspipeline[dev]'", file=sys.stderr)
        return ConfigError.exit_code
    failed = []
    for recipe in (None, *RECIPES.values()):
        file = Path(BUILD_LOCK if recipe is None else recipe.lock)
        partial = file.with_name(f"{file.name}.partial")
        command = _compile(BUILD, partial) if recipe is None else lock_command(recipe, partial)
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            partial.replace(file)
            continue
        partial.unlink(missing_ok=True)
        failed.append(file)
        print(f"error: {file}: {' '.join(done.stderr.split())[:500]}", file=sys.stderr)
    return ConfigError.exit_code if failed else 0


if __name__ == "__main__":
    sys.exit(main())
