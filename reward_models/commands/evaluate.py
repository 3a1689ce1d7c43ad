"""`rm-score evaluate`: preference rows to evidence, language by language.

    rm-score evaluate --model A --model B --input prefs.jsonl --output evidence
    rm-score evaluate --model A --input xcopa/test.*.jsonl --format xcopa --output evidence
    rm-score evaluate --scores scores.jsonl --output evidence

Rows have `chosen` and `rejected` (RewardBench 2: several of them); `language`, `subset`, `section`,
`id` and `group_id` are optional. Written to --output: `results.md` (also printed), `results.csv`,
`results.json`, `heatmap.svg`, and for each scorer its scores without the texts,
`NAME.scores.jsonl`, with `NAME.scores.jsonl.json`, which says what they belong to. Nothing is
scored twice: the same command with one more --model scores only that one.

Exit status: 0 done, 1 some answers have no score (they are counted), 2 a mistake.
"""

import argparse
import re
import sys
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import reward_models
from mlalign.core import formats, languages
from mlalign.core.errors import UserError
from mlalign.core.terminal import say
from reward_models import commands, inputs
from reward_models.evidence import calibration, rewardbench

HELP = "preference rows to accuracy by language, section and benchmark, with intervals"


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument

    def repeated(name: str, metavar: str, meaning: str, kind: type = str) -> None:
        help_ = f"{meaning}; may be repeated"
        add(name, action="append", default=[], type=kind, metavar=metavar, help=help_)

    repeated("--model", "[NAME=]PATH", "model directory or hub id")
    repeated("--scorer", "FILE.yaml", "a scorer as {family, name, settings}", Path)
    repeated("--scores", "[NAME=]FILE", "rows scored already, by `rm-score score`")
    meaning = "a setting of --family or of every --model, such as max_length=512"
    repeated("--set", "KEY=VALUE", meaning)
    families = ", ".join(reward_models.FAMILIES)
    add("--family", help=f"what scores, where no model says: {families}, or module:function")
    help_ = "rows: .jsonl, .jsonl.gz, .parquet, or folders of them"
    add("--input", nargs="+", default=[], metavar="PATH", help=help_)
    help_ = "form of the files (%(default)s)"
    add("--format", choices=formats.NAMES, default=formats.ROWS, help=help_)
    add("--language", help=inputs.LANGUAGE)
    add("--anchor", default="eng_Latn", help="language that the others are compared with")
    help_ = "weights of RewardBench's subsets (rewardbench for English alone, else m_rewardbench)"
    add("--weights", choices=tuple(rewardbench.COUNTS), help=help_)
    add("--replicates", type=_positive, default=1000, help="draws of the bootstrap")
    add("--seed", type=int, default=0, help="of the bootstrap")
    add("--output", type=Path, required=True, metavar="FOLDER")


def run(options: argparse.Namespace) -> int:
    from reward_models.evidence import kept, preferences

    options.anchor = languages.normalise(options.anchor)
    language = languages.normalise(options.language) if options.language else None
    scorers = _scorers(options)
    score_files = _score_files(options.scores)
    _check(options, scorers, score_files)
    dropped: Counter = Counter()
    if scorers:
        source = preferences.Source(preferences.find(options.input), options.format, language)
        new_files, dropped = kept.score(scorers, source, options.output)
        score_files |= new_files

    verdicts = {name: list(kept.read(path)) for name, path in score_files.items()}
    report = _report(verdicts, dropped, _warnings(scorers, verdicts), options)
    options.output.mkdir(parents=True, exist_ok=True)
    _write(report, options.output)
    all_scored = all(verdict.scored for verdict in chain.from_iterable(verdicts.values()))
    return 0 if all_scored else 1


def _check(
    options: argparse.Namespace, scorers: dict[str, Any], score_files: dict[str, Path]
) -> None:
    """Raises: UserError with every mistake in the options."""
    wrong = []
    for name, spec in scorers.items():
        wrong += reward_models.problems(spec, name)
        if name in score_files:
            wrong.append(
                f"{name}: two are named like this; give one another name, as in {name}2=PATH"
            )
    if not scorers and not score_files:
        wrong.append(
            "name what scores: --model PATH_OR_HUB_ID, --family NAME or --scorer FILE.yaml; or what"
            " is scored: --scores FILE"
        )
    elif scorers and not options.input:
        wrong.append("--input is missing: the rows to score")
    elif options.input and not scorers:
        wrong.append("--input is for what scores: name it with --model, --family or --scorer")
    if options.output.is_file():
        wrong.append(f"{options.output}: is a file; --output names a folder")
    if wrong:
        raise UserError(*wrong)


# ------------------------------------------------------------------------------------------ scorers


def _scorers(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name -> spec of every scorer in the options. Raises: UserError."""
    scorers: list[tuple[str, dict[str, Any]]] = []
    for text in options.model:
        name, path = _split(text)
        scorers.append((name or _name_of_model(path), _spec(options, path)))
    if options.family and not options.model:
        scorers.append((options.family, _spec(options, None)))
    for file in options.scorer:
        spec = commands.read_scorer(file)
        scorers.append((_safe(str(spec.get("name", file.stem))), spec))
    return _distinct(scorers)


def _spec(options: argparse.Namespace, model: str | None) -> dict[str, Any]:
    scorer = argparse.Namespace(model=model, set=options.set, family=options.family)
    return commands.scorer_settings(scorer)


def _score_files(texts: list[str]) -> dict[str, Path]:
    """Name -> file of scores; the default name is the file's without its endings."""
    ending = re.compile(r"(\.scores)?\.(jsonl(\.gz)?|parquet)$")
    named_files = []
    for text in texts:
        name, path = _split(text)
        default = _safe(ending.sub("", Path(path).name))
        named_files.append((name or default, Path(path)))
    return _distinct(named_files)


def _name_of_model(path: str) -> str:
    """The last part of a directory's path (of `X/model` that is X); of a hub id both parts."""
    place = Path(path).resolve()
    if not place.exists():
        return _safe(path.replace("/", "__"))
    folder = place.parent if place.name == "model" else place
    return _safe(folder.name)


def _split(text: str) -> tuple[str | None, str]:
    """(name, path) of `NAME=PATH`; the name is None for a path alone."""
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return None, text
    return _safe(name), path


def _safe(name: str) -> str:
    """The name, changed so that it can be that of a file."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("._") or "scorer"


def _distinct(named: list[tuple[str, Any]]) -> dict[str, Any]:
    """Name -> value. Raises: UserError if two have one name."""
    messages = []
    for name, n in Counter(name for name, _ in named).items():
        if n > 1:
            messages.append(
                f"{name}: two are named like this; name them apart: {name}1=PATH {name}2=PATH"
            )
    if messages:
        raise UserError(*messages)
    return dict(named)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return value


# ------------------------------------------------------------------------------------------ results


def _warnings(scorers: dict[str, dict[str, Any]], verdicts: dict[str, list]) -> list[str]:
    """Warnings about comparing margins, which are in raw scores, across languages."""
    from reward_models.evidence.verdicts import UNKNOWN

    warnings = []
    for name, spec in scorers.items():
        if not spec.get("path"):
            continue
        codes = {verdict.language for verdict in verdicts[name]} - {UNKNOWN}
        warning = calibration.warning(codes, calibration.card_of(None, spec))
        if warning:
            warnings.append(f"{name}: margins and {warning}")
    return warnings


def _report(
    verdicts: dict[str, list], dropped: Counter, warnings: list[str], options: argparse.Namespace
) -> Any:
    """The report on scorers by name, from the verdicts of each."""
    from reward_models.evidence import evaluation, measures, rendering
    from reward_models.evidence.verdicts import UNKNOWN

    rows_by_scorer = []
    for own in verdicts.values():
        rows_by_scorer.append(Counter(verdict.language for verdict in own))
    rows: Counter = Counter()
    for own_rows in rows_by_scorer:
        rows |= own_rows  # the most rows that any scorer has in a language

    only_english = set(rows) <= {"eng_Latn", UNKNOWN}
    default_weights = "rewardbench" if only_english else "m_rewardbench"
    weights = options.weights or default_weights
    plan = measures.Plan(options.anchor, weights, options.replicates, seed=options.seed)

    notes = [*_dropped_notes(dropped), *warnings, *_row_notes(rows, verdicts, plan.anchor)]
    if any(own_rows != rows for own_rows in rows_by_scorer):
        notes.append("the scorers were given different rows: their numbers do not compare")
    measured = {name: evaluation.evaluate(own, plan) for name, own in verdicts.items()}
    rows_in_order = dict(sorted(rows.items()))
    return rendering.Report(measured, rows_in_order, plan, notes, _chance(verdicts))


def _dropped_notes(dropped: Counter) -> list[str]:
    notes = []
    for (reason, language), n in sorted(dropped.items()):
        notes.append(f"{n} rows dropped: {reason} ({language})")
    return notes


def _row_notes(rows: Counter, verdicts: dict[str, list], anchor: str) -> list[str]:
    """Notes on rows that have no place in some of the results."""
    from reward_models.evidence.verdicts import UNKNOWN

    notes = []
    if UNKNOWN in rows:
        notes.append(
            f"{rows[UNKNOWN]} rows name no language and stand under {UNKNOWN}; if all are in one,"
            " say so with --language CODE"
        )
    subsets = set()
    for verdict in chain.from_iterable(verdicts.values()):
        if verdict.subset and not verdict.section:
            subsets.add(verdict.subset)
    unknown = rewardbench.unknown(subsets)
    if unknown:
        notes.append(
            f"subsets in no section, counted in the overall accuracy only: {', '.join(unknown)}"
        )
    if anchor not in rows:
        notes.append(
            f"no rows in {anchor}: no gap to it, no agreement with it (another language can take"
            " its place: --anchor CODE)"
        )
    return notes


def _chance(verdicts: dict[str, list]) -> float:
    """The accuracy of a random scorer: the mean share of chosen answers in scored rows."""
    shares = []
    for verdict in chain.from_iterable(verdicts.values()):
        if verdict.scored:
            n_chosen = len(verdict.chosen)
            shares.append(n_chosen / (n_chosen + len(verdict.rejected)))
    return sum(shares) / len(shares) if shares else 0.5


def _write(report: Any, folder: Path) -> None:
    from mlalign.core import durable
    from reward_models.evidence import figures, rendering

    text = rendering.markdown(report)
    contents = {
        "results.md": text,
        "results.csv": rendering.to_csv(report),
        "heatmap.svg": figures.of_report(report),
    }
    for name, content in contents.items():
        with durable.whole(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    durable.write_json(folder / "results.json", rendering.to_json(report))
    say(text)
    say(f"{folder}: {', '.join([*contents, 'results.json'])}", file=sys.stderr)
