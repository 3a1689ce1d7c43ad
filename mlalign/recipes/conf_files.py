"""The files that a configuration is made of, and the folders in which they are looked for.

A person's own folders (`conf_dir=`, MLALIGN_CONF) come before the package's.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mlalign.core import languages, yaml_files
from mlalign.core.errors import UserError, nearest


def conf_home() -> Path:
    """The configuration that ships with the package.

    It is `mlalign/conf` when installed, and `conf/` beside the package in a checkout.
    """
    package = Path(__file__).parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def search_path(conf_dir: Any, errors: list[str]) -> list[Path]:
    """The folders to search: those in `conf_dir`, else in MLALIGN_CONF, then the package's."""
    if isinstance(conf_dir, str):
        names = [conf_dir]
    elif conf_dir:
        names = list(conf_dir)
    else:
        names = os.environ.get("MLALIGN_CONF", "").split(os.pathsep)

    folders = [Path(name).expanduser().absolute() for name in names if name]
    for folder in folders:
        if not folder.is_dir():
            errors.append(f"conf_dir: there is no folder {folder}")
    return [*folders, conf_home()]


def options(group: str, folders: Iterable[Path]) -> dict[str, Path]:
    """The files of a group by name. In the first folder that has a name, that file is taken.

    A file's name is its path in the group's folder; a recipe's leaves out the family's folder.
    Raises: UserError if one folder has two recipes with the same name.
    """
    files: dict[str, Path] = {}
    for folder in folders:
        own: dict[str, Path] = {}
        for path in sorted((folder / group).rglob("*.yaml")):
            name = str(path.relative_to(folder / group).with_suffix(""))
            if group == "recipe":
                name = path.stem
            if name in own:
                raise UserError(f"recipe: {own[name]} and {path} have the same name; rename one")
            own[name] = path
        files = {**own, **files}
    return files


def language_sets(folders: Sequence[Path]) -> dict[str, list[str]]:
    """The codes in each language set on the search path, by the set's name."""
    sets: dict[str, list[str]] = {}
    for folder in reversed(folders):
        if (folder / "languages").is_dir():
            is_ours = folder == conf_home()
            sets.update(languages.sets(folder / "languages", canonical=is_ours))
    return sets


def texts(folder: str, folders: Sequence[Path], key: str, errors: list[str]) -> dict[str, str]:
    """Language -> text of the files LANGUAGE.j2 in one folder of the search path."""
    by_language: dict[str, str] = {}
    for home in reversed(folders):
        for path in sorted((home / folder).glob("*.j2")):
            try:
                language = languages.normalise(path.stem)
                by_language[language] = path.read_text(encoding="utf-8")
            except (UserError, OSError, UnicodeDecodeError) as error:
                errors.append(f"{key}: {path}: {error}")
    return by_language


def deepspeed_config(
    name: str, folders: Iterable[Path], key: str, errors: list[str]
) -> dict | None:
    """The content of `deepspeed/NAME.yaml`; None, with a message, if it cannot be read."""
    files = options("deepspeed", folders)
    if name not in files:
        errors.append(f"{key}: there is no DeepSpeed configuration {name!r}{nearest(name, files)}")
        return None
    try:
        return yaml_files.read(files[name])
    except UserError as error:
        errors.extend(f"{key}: {message}" for message in error.messages)
        return None
