"""A recipe as a Dockerfile and as an Apptainer definition, from one list of values; `generated/` has all of them.

`python -m mspipeline.containers.definitions` writes `generated/` anew.

Labels follow the OCI's annotation keys (https://specs.opencontainers.org/image-spec/annotations) and those that
`image_facts` reads. What is known only when an image is built enters as build arguments, and is empty without them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mspipeline import __version__
from mspipeline.containers.bases import Base, base_named
from mspipeline.containers.image_facts import BACKEND, REVISION, VERSION
from mspipeline.containers.recipes import CACHES, ENVIRONMENT, PREFIX, RECIPES, Recipe
from mspipeline.files import write_bytes

FOLDER = Path(__file__).parent
LOCKS = "requirements/images"
BUILD_LOCK = f"{LOCKS}/build.txt"
"""What makes a wheel of the suite; it stays behind in the first stage."""
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
FOLDERS = ("mspipeline", "jobs", "slurm", "benchmarks", "containers")
"""What of the repository enters the first stage."""
ENTRY = f"{PREFIX}/bin/mspipeline"
_OCI = "org.opencontainers.image"
_WHEELS = "/build/wheels"
_LOCKED = "--quiet --disable-pip-version-check --no-cache-dir --require-hashes --only-binary :all:"
_PACKAGES = (
    "python3 -m venv /build/venv",
    f"/build/venv/bin/python -m pip install {_LOCKED} -r /src/{BUILD_LOCK}",
    f"python3 -m venv {PREFIX}",
    f"{PREFIX}/bin/python -m pip install {_LOCKED} -r /src/@LOCK@",
)
_SUITE = (
    f"/build/venv/bin/python -m pip wheel --no-index --no-deps --no-build-isolation --wheel-dir {_WHEELS} /src",
    f"{PREFIX}/bin/python -m pip install --no-index --no-deps {_WHEELS}/*.whl",
    f"{PREFIX}/bin/python -m pip uninstall --yes pip",
)


def labels(recipe: Recipe) -> dict[str, str]:
    """The labels of an image; `${NAME}` in a value is a build argument."""
    return {
        f"{_OCI}.title": f"mspipeline-{recipe.name}",
        f"{_OCI}.description": recipe.title,
        f"{_OCI}.authors": "the authors of mspipeline",
        f"{_OCI}.vendor": "mspipeline",
        f"{_OCI}.licenses": "Apache-2.0",
        VERSION: __version__,
        REVISION: "${REVISION}",
        f"{_OCI}.created": "${CREATED}",
        f"{_OCI}.source": "${SOURCE}",
        f"{_OCI}.url": "${SOURCE}",
        f"{_OCI}.base.name": "${BASE}",
        f"{_OCI}.base.digest": "${BASE_DIGEST}",
        BACKEND: recipe.label,
        **({} if recipe.oldest_driver is None else {"org.mspipeline.oldest-driver": recipe.oldest_driver}),
    }


def dockerfile(recipe: Recipe, base: Base) -> str:
    """The Dockerfile of an image, for docker, podman and buildah."""
    return _rendered("Dockerfile.jinja", recipe, base)


def apptainer_definition(recipe: Recipe, base: Base) -> str:
    """The definition of the same image, for apptainer and singularity."""
    return _rendered("apptainer.def.jinja", recipe, base)


def definitions() -> dict[str, str]:
    """Every generated file by its name in `generated/`."""
    found = {}
    for name, recipe in RECIPES.items():
        base = base_named(recipe.base)
        found[f"{name}.Dockerfile"] = dockerfile(recipe, base)
        found[f"{name}.def"] = apptainer_definition(recipe, base)
    return found


def _rendered(template: str, recipe: Recipe, base: Base) -> str:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # these files are no web pages, and their values are ours
    )
    return environment.get_template(template).render(
        recipe=recipe,
        base=base,
        prefix=PREFIX,
        caches=CACHES,
        entry=ENTRY,
        environment=ENVIRONMENT,
        labels=labels(recipe),
        locks=LOCKS,
        build_lock=BUILD_LOCK,
        files=FILES,
        folders=FOLDERS,
        packages=tuple(line.replace("@LOCK@", recipe.lock) for line in _PACKAGES),
        suite=_SUITE,
        arguments_of=_as_apptainer_arguments,
    )


def _as_apptainer_arguments(values: Mapping[str, str]) -> dict[str, str]:
    """Build arguments as Apptainer writes them: `{{ NAME }}` for `${NAME}`."""
    return {name: re.sub(r"\$\{(\w+)\}", r"{{ \1 }}", value) for name, value in values.items()}


def main() -> None:
    """Write `generated/`; a definition whose recipe is gone is removed."""
    wanted = definitions()
    for path in (FOLDER / "generated").iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        write_bytes(FOLDER / "generated" / name, text.encode())


if __name__ == "__main__":
    main()
