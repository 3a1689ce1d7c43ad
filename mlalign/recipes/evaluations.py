"""Evaluations: `conf/evaluation/NAME.yaml` says what models are asked, who scores it and what
counts.

    about: {title, origin, paper, licence, note}
    languages: mgsm                        those that it has: a set, or a list
    root: null                             the folder with its files, `${evaluation.root}` in `rows`
    revision: null                         or a commit of the data set on the hub
    rows: {files: [SOURCE], hub: [SOURCE]} sources as in `conf/data`, of the folder or of the hub
    ask: {temperature: 0.0}                settings of `generate`: the policy answers, or
    choices: {normalise: none}             the policy's likelihood of given answers, or neither: reward models
    scorers: [{family: verifier}]          who scores the answers; `judge` compares them with stored ones
    metrics: {accuracy_by: verifier}       settings of the stage that makes the tables
    headline: [accuracy]                   the numbers that lead the report

A file may instead list others: `lists: [NAME, NAME]`.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import reward_models
from mlalign import stages
from mlalign.core import languages, schema, yaml_files
from mlalign.core.errors import UserError, nearest
from mlalign.core.schema import what
from mlalign.core.sources import Source

DEFAULT = "held_out"
OWN = re.compile(r"\$\{evaluation\.(\w+)\}")
ANSWERS, CHOICES, REWARDS = "answers", "choices", "reward models"
# What is measured -> the stage that makes its tables.
TABLES = {ANSWERS: "evaluate", CHOICES: "benchmark", REWARDS: "benchmark"}
MISSING = {
    "root": "set it to the folder with the published files",
    "revision": "set it to a commit of the data set",
    "baseline": "set it to the file of stored answers that the policy is compared with",
}


@dataclasses.dataclass
class About:
    title: str = what(doc="what is measured, in a line")
    origin: Literal["native", "localised", "translated"] = what(doc="where its texts come from")
    paper: str = what("", "authors, year and title")
    licence: str = what("", "of the data")
    note: str = what("", "how it differs from the published evaluation")


@dataclasses.dataclass
class Rows:
    files: list[Source] = what([], "files of a folder that a person has")
    hub: list[Source] = what([], "data sets on the hub, where no folder is given")
    kind: Literal["prompt", "preference", "ranking"] | None = what(None, "by default what is asked")


@dataclasses.dataclass
class Choices:
    normalise: Literal["none", "tokens"] = what("none", "divide the log-likelihood by the length")


@dataclasses.dataclass
class Evaluation:
    """The content of an evaluation's file, checked."""

    about: About
    languages: str | list[str] | None = what(None, "a set or a list; null: whatever the rows have")
    root: str | None = what(None, "the folder with the published files")
    revision: str | None = what(None, "with `rows.hub`: the commit or tag")
    baseline: str | None = what(None, "the stored answers that a judge compares with")
    rows: Rows | None = what(None, "where rows come from; null: the recipe's own held-out prompts")
    ask: dict[str, Any] | None = what(None, "settings of `generate`")
    choices: Choices | None = what(None, "score given answers by the policy's likelihood")
    scorers: list[dict[str, Any]] = what([], "who scores the answers")
    judge: dict[str, Any] | None = what(None, "settings of the scorer `judge`")
    metrics: dict[str, Any] = what({}, "settings of the stage that makes the tables")
    headline: list[str] = what([], "metrics that lead the report")
    # No key of the file: its name.
    name = ""

    @property
    def measures(self) -> str:
        """What is measured: a policy's answers, its choices, or reward models."""
        if self.ask is not None:
            return ANSWERS
        return CHOICES if self.choices is not None else REWARDS

    @property
    def kind(self) -> str:
        """The kind of its rows."""
        assert self.rows is not None
        return self.rows.kind or ("prompt" if self.measures == ANSWERS else "preference")

    @property
    def all_scorers(self) -> list[dict[str, Any]]:
        judge = [] if self.judge is None else [{"family": "judge", "name": "judge", **self.judge}]
        return [*self.scorers, *judge]

    @property
    def label(self) -> dict[str, Any]:
        """What the tables say of where their numbers are from."""
        return {"name": self.name, "origin": self.about.origin, "headline": self.headline}


@dataclasses.dataclass(frozen=True)
class Request:
    """What a person asks for.

    `names` is what `evaluation=` says, `values` are the settings `evaluation.NAME.KEY` with the key
    split at its dots, and `languages` are those of the command line.
    """

    names: Any = DEFAULT
    values: Sequence[tuple[list[str], Any]] = ()
    languages: Any = None


def chosen(
    request: Request, files: Mapping[str, Path], sets: Mapping, errors: list[str]
) -> list[Evaluation]:
    """The evaluations that are asked for, in order; mistakes are appended to `errors`."""
    names = [request.names] if isinstance(request.names, str) else request.names
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        errors.append(f"evaluation: expected a name or a list of names, got {request.names!r}")
        return []
    reading = _Reading(request, files, sets, errors)
    found: dict[str, Evaluation] = {}
    for name, content in reading.contents(names, "evaluation", ()):
        if name not in found and (evaluation := reading.checked(name, content)) is not None:
            found[name] = evaluation
    reading.check_names()
    return list(found.values())


@dataclasses.dataclass
class _Reading:
    """Reading the files of a request."""

    request: Request
    files: Mapping[str, Path]
    sets: Mapping[str, list[str]]
    errors: list[str]
    seen: set[str] = dataclasses.field(default_factory=set)
    misspelt: bool = False

    def contents(
        self, names: Sequence[str], key: str, above: tuple[str, ...]
    ) -> Iterator[tuple[str, dict]]:
        """Name and content of each file, those that a file lists in its place.

        Settings for a file that lists others go to each of these.
        """
        for name in names:
            if name not in self.files:
                self.misspelt = True
                self.errors.append(
                    f"{key}: there is no evaluation {name!r}{nearest(name, self.files)}"
                )
                continue
            if name in above:
                self.errors.append(f"{key}: {' -> '.join([*above, name])} list each other")
                continue
            self.seen.add(name)
            content = self._read(name)
            if content is None:
                continue
            if "lists" not in content:
                for path, value in self._settings((*above, name)):
                    _put(content, path, value)
                yield name, content
                continue
            others = set(content) - {"lists", "about"}
            self.errors.extend(
                f"evaluation {name}: {other}: a file that lists others has no {other}"
                for other in others
            )
            if not isinstance(content["lists"], list):
                self.errors.append(
                    f"evaluation {name}: lists: expected a list of names, got {content['lists']!r}"
                )
                continue
            yield from self.contents(content["lists"], f"evaluation {name}: lists", (*above, name))

    def _read(self, name: str) -> dict | None:
        try:
            content = yaml_files.read(self.files[name])
        except UserError as error:
            self.errors.extend(error.messages)
            return None
        if not isinstance(content, Mapping):
            self.errors.append(
                f"evaluation {name}: expected a mapping with about, rows, ask and so on"
            )
            return None
        return dict(content)

    def _settings(self, names: Sequence[str]) -> Iterator[tuple[list[str], Any]]:
        """What the command line sets for one of these names, the file's own last."""
        for name in names:
            yield from ((path[1:], value) for path, value in self.request.values if path[0] == name)

    def check_names(self) -> None:
        """Report settings of evaluations that are not asked for, unless one that is asked for is
        misspelt.
        """
        if self.misspelt:
            return
        for path, _ in self.request.values:
            if path[0] not in self.seen:
                key = ".".join(["evaluation", *path])
                self.errors.append(
                    f"{key}: {path[0]!r} is not asked for{nearest(path[0], self.seen)}; say"
                    f" evaluation={path[0]}"
                )

    def checked(self, name: str, content: Mapping) -> Evaluation | None:
        """The evaluation that a file describes; None, with messages, if something is wrong with it."""
        found: list[str] = []
        evaluation = schema.build(Evaluation, _filled(content), "", found)
        if evaluation is not None:
            evaluation.name = name
            self._check(evaluation, found)
        # The dataclass itself has no name in front of its keys.
        self.errors.extend(f"evaluation {name}: {message.removeprefix('.')}" for message in found)
        return None if found else evaluation

    def _check(self, evaluation: Evaluation, found: list[str]) -> None:
        _check_combination(evaluation, found)
        if evaluation.ask is not None:
            schema.build(stages.load("generate").Config, evaluation.ask, "ask", found)
        tables = stages.load(TABLES[evaluation.measures])
        cfg = schema.build(tables.Config, evaluation.metrics, "metrics", found)
        if cfg is not None:
            known = tables.gives(cfg, {}).columns or ()
            for metric in evaluation.headline:
                if metric not in known:
                    found.append(f"headline: there is no metric {metric!r}{nearest(metric, known)}")
        for number, scorer in enumerate(evaluation.scorers):
            found += reward_models.problems(scorer, f"scorers[{number}]")
        if evaluation.judge is not None:
            found += reward_models.problems({"family": "judge", **evaluation.judge}, "judge")
        evaluation.languages = self._languages(evaluation, found)
        if evaluation.name == DEFAULT and not found:
            _check_held_out(evaluation, found)
        if evaluation.rows is not None:
            evaluation.rows.files = _sources(evaluation, found)

    def _languages(self, evaluation: Evaluation, found: list[str]) -> list[str] | None:
        """The languages to measure: those that are asked for and that the evaluation has.

        None where nobody asks for any: then all that the rows have.
        """
        try:
            own = (
                None
                if evaluation.languages is None
                else languages.resolve(evaluation.languages, self.sets)
            )
        except UserError as error:
            found.extend(f"languages: {message}" for message in error.messages)
            return None
        asked = self.request.languages
        if asked is None:
            return None
        try:
            wanted = languages.resolve(asked, self.sets)
        except UserError:
            return None  # reported with the settings of the run
        both = wanted if own is None else [code for code in own if code in wanted]
        if not both:
            found.append(
                f"languages: it has none of those that are asked for; it has {', '.join(own or [])}"
            )
        return both


def _check_combination(evaluation: Evaluation, found: list[str]) -> None:
    """Report keys that have no meaning beside each other."""
    if evaluation.ask is not None and evaluation.choices is not None:
        found.append(
            "choices: a policy either answers (`ask`) or chooses (`choices`); leave one out"
        )
    if evaluation.measures != ANSWERS:
        for key in ("scorers", "judge"):
            if getattr(evaluation, key):
                found.append(
                    f"{key}: only answers are scored by others, and nothing is asked (`ask`)"
                )
    if evaluation.rows is None and evaluation.measures != ANSWERS:
        found.append("rows: missing; only answers can be to the recipe's own prompts")


def _check_held_out(evaluation: Evaluation, found: list[str]) -> None:
    """Report settings of the evaluation whose settings are in the recipe."""
    for key in ("rows", "ask", "scorers", "judge", "metrics"):
        if getattr(evaluation, key):
            mend = "write a file of another name; without `rows` it asks the same prompts"
            found.append(
                f"{key}: the recipe's section `measure` says this of held-out rows; {mend}"
            )


def _sources(evaluation: Evaluation, found: list[str]) -> list[Source]:
    """The sources to read: the files of a folder, else data sets of the hub."""
    assert evaluation.rows is not None
    use_hub = (
        evaluation.root is None and evaluation.revision is not None and bool(evaluation.rows.hub)
    )
    sources = evaluation.rows.hub if use_hub else evaluation.rows.files
    if not sources:
        found.append("rows.files: missing; say where the rows come from")
    names = {
        name
        for source in sources
        for name in OWN.findall(f"{source.path} {source.answers} {source.revision}")
    }
    for name in sorted(names):
        if name not in MISSING:
            found.append(
                f"rows: ${{evaluation.{name}}} means nothing; there is {', '.join(MISSING)}"
            )
        elif getattr(evaluation, name) is None:
            found.append(f"{name}: missing; {_mend(evaluation, name)}")
    return sources


def _mend(evaluation: Evaluation, name: str) -> str:
    """How to set what an evaluation lacks."""
    key = f"evaluation.{evaluation.name}"
    mend = f"{MISSING[name]}: {key}.{name}=PATH"
    if name == "root" and evaluation.rows is not None and evaluation.rows.hub:
        mend += f", or {key}.revision to a commit of {evaluation.rows.hub[0].hub} on the hub"
    return mend


def _filled(content: Mapping) -> dict[str, Any]:
    """The content with `${evaluation.root}` and the like replaced where they are set."""

    def filled(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: filled(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [filled(inner) for inner in value]
        if not isinstance(value, str):
            return value
        return OWN.sub(lambda match: str(content.get(match[1]) or match[0]), value)

    return {key: filled(value) for key, value in content.items()}


def _put(tree: dict, path: Sequence[str], value: Any) -> None:
    """Set the value at a path of keys; a whole mapping replaces what was there."""
    for key in path[:-1]:
        inner = tree.get(key)
        tree[key] = dict(inner) if isinstance(inner, Mapping) else {}
        tree = tree[key]
    tree[path[-1]] = value
