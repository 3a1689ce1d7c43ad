"""Evaluations: `conf/evaluation/NAME.yaml` says what models are asked and how answers are scored.

    about: {title, origin, paper, licence, note}
    languages: mgsm                 those that it has: a set, or a list
    root: null                      the folder with its files, `${evaluation.root}` in `rows`
    revision: null                  or a commit of the data set on the hub
    rows: {files: [SOURCE], hub: [SOURCE]}
                                    sources as in `conf/data`, of the folder or of the hub
    ask: {temperature: 0.0}         settings of `generate`: the policy answers, or
    choices: {normalise: none}      the policy's likelihood of given answers, or neither: then
                                    reward models are measured
    scorers: [{family: verifier}]   who scores the answers
    judge: {…}                      the judge that compares the answers with stored ones
    metrics: {accuracy_by: verifier}
                                    settings of the stage that makes the tables
    headline: [accuracy]            the numbers that lead the report

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
# What an evaluation measures.
ANSWERS = "answers"
CHOICES = "choices"
REWARDS = "reward models"
# What is measured -> the stage that makes its tables.
TABLES = {ANSWERS: "evaluate", CHOICES: "benchmark", REWARDS: "benchmark"}
# What can be referred to as `${evaluation.NAME}` -> what to do where it is missing.
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
        if self.rows.kind is not None:
            return self.rows.kind
        return "prompt" if self.measures == ANSWERS else "preference"

    @property
    def all_scorers(self) -> list[dict[str, Any]]:
        """The scorers, and the judge as one of them."""
        if self.judge is None:
            return self.scorers
        return [*self.scorers, {"family": "judge", "name": "judge", **self.judge}]

    @property
    def label(self) -> dict[str, Any]:
        """What the tables say about the origin of their numbers."""
        return {"name": self.name, "origin": self.about.origin, "headline": self.headline}


@dataclasses.dataclass(frozen=True)
class Request:
    """What a person asks for.

    `names` is what `evaluation=` says. `values` are the settings `evaluation.NAME.KEY` of the
    command line, with the key split at its dots, and `languages` are the languages that it gives.
    """

    names: Any = DEFAULT
    values: Sequence[tuple[list[str], Any]] = ()
    languages: Any = None


def chosen(
    request: Request, files: Mapping[str, Path], sets: Mapping, errors: list[str]
) -> list[Evaluation]:
    """The evaluations that are asked for, in order; mistakes are appended to `errors`.

    files: name -> file of each evaluation there is. sets: name -> codes of each language set.
    """
    names = [request.names] if isinstance(request.names, str) else request.names
    are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not are_names or not names:
        errors.append(f"evaluation: expected a name or a list of names, got {request.names!r}")
        return []

    reader = _Reader(request, files, sets, errors)
    evaluations: dict[str, Evaluation] = {}
    for name, content in reader.contents(names, "evaluation", ()):
        if name in evaluations:
            continue
        evaluation = reader.checked(name, content)
        if evaluation is not None:
            evaluations[name] = evaluation
    reader.check_names()
    return list(evaluations.values())


@dataclasses.dataclass
class _Reader:
    """Reads and checks the files of a request."""

    request: Request
    files: Mapping[str, Path]
    sets: Mapping[str, list[str]]
    errors: list[str]
    seen: set[str] = dataclasses.field(default_factory=set)
    has_misspelt: bool = False

    def contents(
        self, names: Sequence[str], key: str, above: tuple[str, ...]
    ) -> Iterator[tuple[str, dict]]:
        """Name and content of each file; a file that lists others stands for these.

        Settings for a file that lists others go to each of them. `above` are the files that list
        these names.
        """
        for name in names:
            if name not in self.files:
                self.has_misspelt = True
                hint = nearest(name, self.files)
                self.errors.append(f"{key}: there is no evaluation {name!r}{hint}")
                continue
            if name in above:
                self.errors.append(f"{key}: {' -> '.join([*above, name])} list each other")
                continue

            self.seen.add(name)
            content = self._read(name)
            if content is None:
                continue
            if "lists" in content:
                yield from self._listed(name, content, above)
                continue
            for path, value in self._settings((*above, name)):
                _set(content, path, value)
            yield name, content

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

    def _listed(
        self, name: str, content: Mapping, above: tuple[str, ...]
    ) -> Iterator[tuple[str, dict]]:
        """The contents of the files that a file lists."""
        place = f"evaluation {name}"
        for key in content:
            if key not in ("lists", "about"):
                self.errors.append(f"{place}: {key}: a file that lists others has no {key}")
        names = content["lists"]
        if not isinstance(names, list):
            self.errors.append(f"{place}: lists: expected a list of names, got {names!r}")
            return
        yield from self.contents(names, f"{place}: lists", (*above, name))

    def _settings(self, names: Sequence[str]) -> Iterator[tuple[list[str], Any]]:
        """What the command line sets for these names; the last name has the last word."""
        for name in names:
            for path, value in self.request.values:
                if path[0] == name:
                    yield path[1:], value

    def check_names(self) -> None:
        """Report settings of evaluations that are not asked for.

        If a name is misspelt, that explains them, and only that is reported.
        """
        if self.has_misspelt:
            return
        for path, _ in self.request.values:
            name = path[0]
            if name not in self.seen:
                key = ".".join(["evaluation", *path])
                hint = nearest(name, self.seen)
                self.errors.append(f"{key}: {name!r} is not asked for{hint}; say evaluation={name}")

    def checked(self, name: str, content: Mapping) -> Evaluation | None:
        """The evaluation that a file describes; None, with messages, if something is wrong."""
        errors: list[str] = []
        evaluation = schema.build(Evaluation, _filled(content), "", errors)
        if evaluation is not None:
            evaluation.name = name
            self._check(evaluation, errors)
        # Keys of the dataclass itself begin with a dot: nothing stands in front of them.
        for message in errors:
            self.errors.append(f"evaluation {name}: {message.removeprefix('.')}")
        return None if errors else evaluation

    def _check(self, evaluation: Evaluation, errors: list[str]) -> None:
        _check_combination(evaluation, errors)
        if evaluation.ask is not None:
            schema.build(stages.load("generate").Config, evaluation.ask, "ask", errors)
        tables = stages.load(TABLES[evaluation.measures])
        cfg = schema.build(tables.Config, evaluation.metrics, "metrics", errors)
        if cfg is not None:
            metrics = tables.gives(cfg, {}).columns or ()
            for metric in evaluation.headline:
                if metric not in metrics:
                    hint = nearest(metric, metrics)
                    errors.append(f"headline: there is no metric {metric!r}{hint}")

        for number, scorer in enumerate(evaluation.scorers):
            errors += reward_models.problems(scorer, f"scorers[{number}]")
        if evaluation.judge is not None:
            errors += reward_models.problems({"family": "judge", **evaluation.judge}, "judge")
        evaluation.languages = self._languages(evaluation, errors)
        if evaluation.name == DEFAULT and not errors:
            _check_held_out(evaluation, errors)
        if evaluation.rows is not None:
            evaluation.rows.files = _sources(evaluation, evaluation.rows, errors)

    def _languages(self, evaluation: Evaluation, errors: list[str]) -> list[str] | None:
        """The languages to measure: those that are asked for and that the evaluation has.

        None if nobody asks for any: then it is all languages of the rows.
        """
        own = None
        if evaluation.languages is not None:
            try:
                own = languages.resolve(evaluation.languages, self.sets)
            except UserError as error:
                errors.extend(f"languages: {message}" for message in error.messages)
                return None

        if self.request.languages is None:
            return None
        try:
            wanted = languages.resolve(self.request.languages, self.sets)
        except UserError:
            return None  # reported with the settings of the run
        if own is None:
            return wanted
        both = [code for code in own if code in wanted]
        if not both:
            errors.append(
                f"languages: it has none of those that are asked for; it has {', '.join(own)}"
            )
        return both


def _check_combination(evaluation: Evaluation, errors: list[str]) -> None:
    """Report keys that have no meaning beside each other."""
    if evaluation.ask is not None and evaluation.choices is not None:
        errors.append(
            "choices: a policy either answers (`ask`) or chooses (`choices`); leave one out"
        )
    if evaluation.measures == ANSWERS:
        return
    for key in ("scorers", "judge"):
        if getattr(evaluation, key):
            errors.append(f"{key}: only answers are scored by others, and nothing is asked (`ask`)")
    if evaluation.rows is None:
        errors.append("rows: missing; only answers can be to the recipe's own prompts")


def _check_held_out(evaluation: Evaluation, errors: list[str]) -> None:
    """Report settings of `held_out`, whose settings are in the recipe."""
    for key in ("rows", "ask", "scorers", "judge", "metrics"):
        if getattr(evaluation, key):
            mend = "write a file of another name; without `rows` it asks the same prompts"
            errors.append(
                f"{key}: the recipe's section `measure` sets this for held-out rows; {mend}"
            )


def _sources(evaluation: Evaluation, rows: Rows, errors: list[str]) -> list[Source]:
    """The sources to read: the files of a folder, else data sets of the hub."""
    use_hub = evaluation.root is None and evaluation.revision is not None and bool(rows.hub)
    sources = rows.hub if use_hub else rows.files
    if not sources:
        errors.append("rows.files: missing; say where the rows come from")

    names: set[str] = set()
    for source in sources:
        names.update(OWN.findall(f"{source.path} {source.answers} {source.revision}"))
    for name in sorted(names):
        if name not in MISSING:
            known = ", ".join(MISSING)
            errors.append(f"rows: ${{evaluation.{name}}} means nothing; there is {known}")
        elif getattr(evaluation, name) is None:
            errors.append(f"{name}: missing; {_mend(evaluation, rows, name)}")
    return sources


def _mend(evaluation: Evaluation, rows: Rows, name: str) -> str:
    """How to set what an evaluation lacks."""
    key = f"evaluation.{evaluation.name}"
    mend = f"{MISSING[name]}: {key}.{name}=PATH"
    if name == "root" and rows.hub:
        mend += f", or {key}.revision to a commit of {rows.hub[0].hub} on the hub"
    return mend


def _filled(content: Mapping) -> dict[str, Any]:
    """The content with `${evaluation.root}` and the like replaced where they are set."""

    def own_setting(match: re.Match) -> str:
        return str(content.get(match[1]) or match[0])

    def filled(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: filled(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [filled(inner) for inner in value]
        return OWN.sub(own_setting, value) if isinstance(value, str) else value

    return {key: filled(value) for key, value in content.items()}


def _set(tree: dict, path: Sequence[str], value: Any) -> None:
    """Set the value at a path of keys; a whole mapping replaces what was there."""
    for key in path[:-1]:
        inner = tree.get(key)
        tree[key] = dict(inner) if isinstance(inner, Mapping) else {}
        tree = tree[key]
    tree[path[-1]] = value
