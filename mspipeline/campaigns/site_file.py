"""Site files: built-in ones by their name, any other by its path."""

from __future__ import annotations

from pathlib import Path

from mspipeline.campaigns.schedulers import scheduler_named, site_folders
from mspipeline.campaigns.site import Site
from mspipeline.config import read_config
from mspipeline.errors import ConfigError, nearest


def load_site(name_or_path: str) -> Site:
    """A built-in site by its name, or one from a TOML file.

    Raises ConfigError where there is no such site, its file does not fit, or its scheduler does not take it.
    """
    built_in = built_in_sites()
    path = built_in.get(name_or_path) or Path(name_or_path)
    if name_or_path not in built_in and path.suffix != ".toml" and not path.exists():
        raise ConfigError(
            f"unknown site {name_or_path!r}; {nearest(name_or_path, list(built_in))}, or the path of a site's TOML file"
        )
    site = read_config(path, Site)
    try:
        scheduler_named(site.executor).validate(site)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return site


def built_in_sites() -> dict[str, Path]:
    """The files of the built-in sites by name."""
    return {path.stem: path for folder in site_folders() for path in sorted(folder.glob("*.toml"))}
