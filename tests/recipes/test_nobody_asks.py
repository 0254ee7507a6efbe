"""Outside `mspipeline.recipes` nobody asks which recipe it is: there is no branch on a kind or on a recipe's class."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from mspipeline.recipes.catalogue import RECIPES, built_in

ROOT = Path(__file__).parents[2]
OWN = ROOT / "mspipeline" / "recipes"
MODULES = sorted(
    path
    for room in ("mspipeline", "jobs", "slurm", "benchmarks")
    for path in (ROOT / room).rglob("*.py")
    if not path.is_relative_to(OWN)
)
FIELDS = {"cascade"}
"""Fields of settings and records that are one recipe's own: whether they are there tells which recipe it is."""


def questions(text: str) -> Iterator[str]:
    """Each place of a module where it is asked which recipe something is, in words."""
    tree = ast.parse(text)
    classes = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mspipeline.recipes")
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            literals = {each.value for side in sides for each in ast.walk(side) if isinstance(each, ast.Constant)}
            fields = {side.attr for side in sides if isinstance(side, ast.Attribute)}
            if literals & {*RECIPES, *built_in()} or (fields & FIELDS and None in literals):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("isinstance", "issubclass"):
                named = {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)}
                if named & classes:
                    yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.If | ast.IfExp | ast.NamedExpr):
            test = node.value if isinstance(node, ast.NamedExpr) else node.test
            if isinstance(test, ast.Attribute) and test.attr in FIELDS:
                yield f"line {node.lineno}: {ast.unparse(test)}"
        elif isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant) and node.value.value in RECIPES:
            yield f"line {node.lineno}: case {node.value.value!r}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_outside_asks_which_recipe_it_is(path: Path) -> None:
    assert list(questions(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        'manifest.kind == "patches3d"',
        'recipe.get("kind") in ("slices2d", "x")',
        "record.cascade is not None",
        "isinstance(recipe, SliceSchema)",
        "1 if record.cascade else 2",
        "if cascade := record.cascade: pass",
        'match kind:\n    case "slices2d": pass',
    ],
)
def test_each_form_of_the_question_is_found(line: str) -> None:
    text = f"from mspipeline.recipes.slices2d.schema import SliceSchema\n{line}\n"
    assert len(list(questions(text))) == 1
