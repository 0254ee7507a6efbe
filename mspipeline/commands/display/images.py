"""Images: what there is of each."""

from __future__ import annotations

from typing import Any

from mspipeline.commands.display.table import print_json, table
from mspipeline.console import stdout
from mspipeline.containers.bases import base_named
from mspipeline.containers.build import checkout
from mspipeline.containers.recipes import RECIPES


def print_images(*, as_json: bool) -> None:
    """Each image: its backend, the oldest driver, how many packages its lock has, what it begins with."""
    root = checkout()
    rows: list[dict[str, Any]] = []
    for name, recipe in RECIPES.items():
        lock, base = root / recipe.lock, base_named(recipe.base)
        rows.append(
            {
                "name": name,
                "backend": recipe.backend,
                "oldest_driver": recipe.oldest_driver,
                "packages": lock.read_text(encoding="utf-8").count("==") if lock.is_file() else None,
                "base": base.reference,
                "base_digest": base.digest,
                "title": recipe.title,
            }
        )
    if as_json:
        print_json(rows)
        return
    shown = table(["image", "backend", "driver from", "packages", "base"], words=3)
    for row in rows:
        base_text = row["base"] if row["base_digest"] else f"{row['base']} (no digest: give --base)"
        packages = "no lock" if row["packages"] is None else str(row["packages"])
        shown.add_row(row["name"], row["backend"] or "-", row["oldest_driver"] or "-", packages, base_text)
    stdout.print(shown)
