"""`rm-score evaluate`: preference rows to evidence, language by language.

    rm-score evaluate --model A --model B --input prefs.jsonl --output evidence
    rm-score evaluate --model A --input xcopa/test.*.jsonl --format xcopa --output evidence
    rm-score evaluate --scores scores.jsonl --output evidence

Rows have `chosen` and `rejected` (RewardBench 2: several of them); `language`, `subset`, `section`,
`id` and `group_id` are read where they are. Written to --output: `results.md` (also printed),
`results.csv`, `results.json`, `heatmap.svg`, and for each scorer its scores without the texts,
`NAME.scores.jsonl`, with `NAME.scores.jsonl.json`, which says what they are of. What is scored
already is not scored again, so that the same command with one --model more scores only that one.

Exit status: 0 done, 1 some answers have no score (they are counted), 2 a mistake.
"""

import argparse
import re
import sys
from collections import Counter
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
    def repeated(name: str, metavar: str, told: str, kind: type = str) -> None:
        parser.add_argument(
            name,
            action="append",
            default=[],
            type=kind,
            metavar=metavar,
            help=f"{told}; may be repeated",
        )

    repeated("--model", "[NAME=]PATH", "model directory or hub id")
    repeated("--scorer", "FILE.yaml", "a scorer as {family, name, settings}", Path)
    repeated("--scores", "[NAME=]FILE", "rows scored already, by `rm-score score`")
    repeated(
        "--set", "KEY=VALUE", "a setting of --family or of every --model, such as max_length=512"
    )
    parser.add_argument(
        "--family",
        help=(
            f"what scores, where no model says: {', '.join(reward_models.FAMILIES)}, or"
            " module:function"
        ),
    )
    parser.add_argument(
        "--input",
        nargs="+",
        default=[],
        metavar="PATH",
        help="rows: .jsonl, .jsonl.gz, .parquet, or folders of them",
    )
    parser.add_argument(
        "--format",
        choices=formats.NAMES,
        default=formats.ROWS,
        help="the set that --input is in the form of",
    )
    parser.add_argument("--language", help=inputs.LANGUAGE)
    parser.add_argument(
        "--anchor", default="eng_Latn", help="language that the others are compared with"
    )
    weights = (
        "weights of RewardBench's subsets; if not given, rewardbench for English alone, else"
        " m_rewardbench"
    )
    parser.add_argument("--weights", choices=tuple(rewardbench.COUNTS), help=weights)
    parser.add_argument("--replicates", type=_positive, default=1000, help="draws of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")


def run(options: argparse.Namespace) -> int:
    from reward_models.evidence import kept, preferences

    options.anchor = languages.normalise(options.anchor)
    language = languages.normalise(options.language) if options.language else None
    scorers, ready = _scorers(options), _named_files(options.scores)
    _check(options, scorers, ready)
    dropped: Counter = Counter()
    if scorers:
        source = preferences.Source(preferences.find(options.input), options.format, language)
        scored, dropped = kept.score(scorers, source, options.output)
        ready |= scored
    verdicts = {name: list(kept.read(path)) for name, path in ready.items()}
    report = _report(verdicts, dropped, _warnings(scorers, verdicts), options)
    options.output.mkdir(parents=True, exist_ok=True)
    _write(report, options.output)
    return int(any(not v.scored for own in verdicts.values() for v in own))


def _check(options: argparse.Namespace, scorers: dict[str, Any], ready: dict[str, Path]) -> None:
    wrong = [p for name, told in scorers.items() for p in reward_models.problems(told, name)]
    wrong += [
        f"{name}: two are named like this; give one another name, as in {name}2=PATH"
        for name in scorers
        if name in ready
    ]
    if not scorers and not ready:
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
    """Name -> `{family, …}` of everything that shall score. Raises: UserError."""
    found: list[tuple[str, dict[str, Any]]] = []
    common = {"set": options.set, "family": options.family}
    for text in options.model:
        name, path = _named(text)
        found.append(
            (
                name or _name_of_model(path),
                commands.scorer_settings(argparse.Namespace(model=path, **common)),
            )
        )
    if options.family and not options.model:
        found.append(
            (options.family, commands.scorer_settings(argparse.Namespace(model=None, **common)))
        )
    for file in options.scorer:
        told = commands.read_scorer(file)
        found.append((_safe(str(told.get("name", file.stem))), told))
    return _distinct(found)


def _named_files(texts: list[str]) -> dict[str, Path]:
    """Name -> file of scores; the name is told, or the file's without its endings."""
    ending = re.compile(r"(\.scores)?\.(jsonl(\.gz)?|parquet)$")
    found = [
        (name or _safe(ending.sub("", Path(path).name)), Path(path))
        for name, path in map(_named, texts)
    ]
    return _distinct(found)


def _name_of_model(path: str) -> str:
    """The last part of a directory's path (of `X/model` that is X); of a hub id both parts."""
    place = Path(path).resolve()
    if not place.exists():
        return _safe(path.replace("/", "__"))
    return _safe(place.parent.name if place.name == "model" else place.name)


def _named(text: str) -> tuple[str | None, str]:
    """`NAME=PATH`, or a path alone."""
    name, equals, path = text.partition("=")
    return (_safe(name), path) if equals and not Path(text).exists() else (None, text)


def _safe(name: str) -> str:
    """A name that can be that of a file."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("._") or "scorer"


def _distinct(found: list[tuple[str, Any]]) -> dict[str, Any]:
    names = Counter(name for name, _ in found)
    twice = [name for name, n in names.items() if n > 1]
    if twice:
        raise UserError(
            *(
                f"{name}: two are named like this; name them apart: {name}1=PATH {name}2=PATH"
                for name in twice
            )
        )
    return dict(found)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return value


# ------------------------------------------------------------------------------------------ results


def _warnings(scorers: dict[str, dict[str, Any]], verdicts: dict[str, list]) -> list[str]:
    """What to say of margins, which are in raw scores, before those of several languages are
    compared.
    """
    from reward_models.evidence.verdicts import UNKNOWN

    out = []
    for name, told in scorers.items():
        languages_of = {v.language for v in verdicts[name]} - {UNKNOWN}
        if told.get("path") and (
            warning := calibration.warning(languages_of, calibration.card_of(None, told))
        ):
            out.append(f"{name}: margins and {warning}")
    return out


def _report(
    verdicts: dict[str, list], dropped: Counter, warnings: list[str], options: argparse.Namespace
) -> Any:
    from reward_models.evidence import evaluation, measures, rendering
    from reward_models.evidence.verdicts import UNKNOWN

    rows: Counter = Counter()
    for own in verdicts.values():
        rows |= Counter(v.language for v in own)
    subsets = {v.subset for own in verdicts.values() for v in own if v.subset}
    weights = options.weights or (
        "rewardbench" if set(rows) <= {"eng_Latn", UNKNOWN} else "m_rewardbench"
    )
    plan = measures.Plan(options.anchor, weights, options.replicates, seed=options.seed)
    notes = [
        f"{n} rows dropped: {reason} ({language})"
        for (reason, language), n in sorted(dropped.items())
    ] + warnings
    if UNKNOWN in rows:
        notes.append(
            f"{rows[UNKNOWN]} rows name no language and stand under {UNKNOWN}; if all are in one,"
            " say so with --language CODE"
        )
    if unknown := [s for s in rewardbench.unknown(subsets) if _in_no_section(s, verdicts)]:
        notes.append(
            f"subsets in no section, counted in the overall accuracy only: {', '.join(unknown)}"
        )
    if plan.anchor not in rows:
        notes.append(
            f"no rows in {plan.anchor}: no gap to it, no agreement with it (another language can"
            " take its place: --anchor CODE)"
        )
    if (
        len({tuple(sorted(Counter(v.language for v in own).items())) for own in verdicts.values()})
        > 1
    ):
        notes.append("the scorers were given different rows: their numbers do not compare")
    measured = {name: evaluation.evaluate(own, plan) for name, own in verdicts.items()}
    coins = [
        len(v.chosen) / (len(v.chosen) + len(v.rejected))
        for own in verdicts.values()
        for v in own
        if v.scored
    ]
    chance = sum(coins) / len(coins) if coins else 0.5
    return rendering.Report(measured, dict(sorted(rows.items())), plan, notes, chance)


def _in_no_section(subset: str, verdicts: dict[str, list]) -> bool:
    return any(v.subset == subset and not v.section for own in verdicts.values() for v in own)


def _write(report: Any, folder: Path) -> None:
    from mlalign.core import durable
    from reward_models.evidence import figures, rendering

    text = rendering.markdown(report)
    shown = {
        "results.md": text,
        "results.csv": rendering.to_csv(report),
        "heatmap.svg": figures.of_report(report),
    }
    for name, content in shown.items():
        with durable.whole(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    durable.write_json(folder / "results.json", rendering.to_json(report))
    say(text)
    say(f"{folder}: {', '.join([*shown, 'results.json'])}", file=sys.stderr)
