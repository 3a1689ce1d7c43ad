"""Checks of a source before any of its rows is read: of its settings, and of its list of files."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mlalign.core import languages
from mlalign.core.errors import UserError, nearest
from mlalign.core.sources import Source, find
from mlalign.data import adapters
from mlalign.data.reading import TINY_WORLD_KINDS, files

KINDS_OF_ADAPTER = {
    "xcopa": ("prompt", "demonstration", "preference"),
    "hh_rlhf": ("prompt", "demonstration", "preference"),
    "mgsm": ("prompt",),
    "rewardbench": ("preference", "ranking"),
    "tiny_world": tuple(TINY_WORLD_KINDS),
}


def mistakes(source: Source, kind: str, wanted: list[str] | None) -> Iterator[str]:
    """What is wrong with a source, as messages that begin with the key."""
    kinds = KINDS_OF_ADAPTER.get(source.adapter, (kind,))
    if kind not in kinds:
        yield f"adapter: {source.adapter} gives {' and '.join(kinds)} rows, not {kind}"
    if source.adapter == "tiny_world":
        yield from _tiny_world(source)
        return
    if message := _place_problem(source):
        yield message
        return

    if source.hub and not source.revision and not Path(source.hub).exists():
        yield (
            f"revision: missing; pin {source.hub} to a commit or tag,"
            " so that the same command gives the same rows"
        )
    if source.weight <= 0:
        yield f"weight: must be above 0, got {source.weight}"
    yield from _columns(source, kind)
    yield from _language(source)
    if source.path is not None:
        yield from _errors("path", partial(files, source, wanted))
    if source.answers is not None:
        yield from _errors("answers", partial(find, Source(path=source.answers)))


def _place_problem(source: Source) -> str | None:
    """Why a source names no place to read from; None if it names one."""
    path = source.path
    if path is not None and (path == "None" or path.startswith("None/")):  # ${data.root} is null
        return (
            "path: data.root: missing; set data.root=FOLDER, the folder that holds"
            f" {path.removeprefix('None/')}"
        )
    if (path is None) == (source.hub is None):
        return "path: give either path (files) or hub (a data set on the hub)"
    return None


def _errors(key: str, check: Callable[[], Any]) -> Iterator[str]:
    """The messages of the UserError that a check raises, after the key."""
    try:
        check()
    except UserError as error:
        yield from (f"{key}: {message}" for message in error.messages)


def _tiny_world(source: Source) -> Iterator[str]:
    allowed = ("n", "seed", "mix", "label_noise")
    for key in source.options:
        if key not in allowed:
            yield f"options.{key}: tiny_world has no such option{nearest(key, allowed)}"
    if not isinstance(source.options.get("n"), int):
        yield "options.n: missing; say how many items (each gives one row per language)"


def _columns(source: Source, kind: str) -> Iterator[str]:
    allowed = adapters.own_columns(kind)
    for name, theirs in source.columns.items():
        if name not in allowed:
            yield f"columns.{name}: {kind} rows have no such column{nearest(name, allowed)}"
        elif name == "metadata" and isinstance(theirs, Mapping):
            continue
        elif not isinstance(theirs, str | int) or isinstance(theirs, bool):
            yield f"columns.{name}: expected a column's name or position, got {theirs!r}"


def _language(source: Source) -> Iterator[str]:
    in_config = "{lang}" in (source.config or "")
    if in_config and not source.languages:
        yield "languages: missing; name the configurations that {lang} in `config` stands for"
    is_known = (
        in_config
        or source.language
        or source.adapter == "hh_rlhf"
        or "language" in source.columns
        or "{lang}" in (source.path or "")
    )
    if not is_known:
        yield (
            "language: missing; set it (eng_Latn), name a column (columns: {language: …}),"
            " or put {lang} into the path"
        )
    if source.language:
        yield from _errors("language", partial(languages.normalise, source.language))
    for language in source.languages or []:
        yield from _errors("languages", partial(languages.normalise, language))
