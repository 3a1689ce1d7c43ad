"""`rm-score check`: is this model fit to score these rows? Loads no weights.

    rm-score check --model PATH --input rows.jsonl
    rm-score check --model PATH --input rows.jsonl --set max_length=512 --json

Shows a rendered conversation of each language with its token ids, what truncation cuts, tokens per
character and per word, and what is wrong or may be: BOS and EOS doubled or missing, padding traps,
another chat template than the card's, a missing head, pairs that are equal, empty answers,
languages that the model was not trained in. Control characters in texts are made visible.

Exit status: 0 fine, 1 warnings, 2 errors.
"""

import argparse
import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mlalign.core.terminal import say
from reward_models import card as cards
from reward_models import commands, inputs
from reward_models.evidence import preflight, preflight_rows
from reward_models.evidence.preflight import Finding, Subject
from reward_models.evidence.preflight_rows import Looked, Sample, visible

HELP = "look at model and rows before scoring"
LEVELS = ("error", "warning", "note")
SHOWN_LANGUAGES = 20
SHOWN_TOKENS = (16, 8)  # at the beginning and the end


def arguments(parser: argparse.ArgumentParser) -> None:
    commands.add_scorer(parser)
    inputs.add_options(parser, "rows of any shape")
    add = parser.add_argument
    add("--limit", type=int, default=10_000, help="rows to look at; 0: all (%(default)s)")
    help_ = "languages whose first conversation is shown (%(default)s)"
    add("--samples", type=int, default=3, help=help_)
    add("--json", action="store_true", help="everything as JSON")


def run(options: argparse.Namespace) -> int:
    settings = commands.scorer_settings(options)
    path = settings.get("path")
    card = cards.read(path, settings.get("revision")) if path else None
    subject = preflight.of_model(settings, card)

    dropped: Counter = Counter()
    rows = inputs.read(options, dropped)
    looked = preflight_rows.look(itertools.islice(rows, options.limit or None), subject)
    if next(rows, None) is not None:
        text = f"only the first {options.limit:,} were looked at; --limit 0 looks at all"
        looked.findings.append(Finding("note", "rows", text))
    looked.findings += [Finding("note", "rows", line) for line in inputs.dropped_lines(dropped)]

    findings = [*subject.findings, *looked.findings]
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    if options.json:
        say(json.dumps(_document(subject, looked, findings), ensure_ascii=True, indent=1))
    else:
        for line in _lines(subject, looked, findings, options.samples):
            say(line)
    levels = {finding.level for finding in findings}
    if "error" in levels:
        return 2
    return 1 if "warning" in levels else 0


def _document(subject: Subject, looked: Looked, findings: list[Finding]) -> dict[str, Any]:
    samples = {language: dataclasses.asdict(s) for language, s in looked.samples.items()}
    return {
        "model": subject.facts,
        "languages": preflight_rows.table(looked),
        "samples": samples,
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }


def _lines(
    subject: Subject,
    looked: Looked,
    findings: list[Finding],
    n_samples: int,
) -> Iterator[str]:
    yield from _model_lines(subject.facts)
    yield ""
    yield from _table_lines(preflight_rows.table(looked))
    for language in sorted(looked.samples)[:n_samples]:
        yield ""
        yield from _sample_lines(language, looked.samples[language])
    yield ""
    for finding in findings:
        yield f"{finding.level}: {finding.where}: {visible(finding.text, 1000)}"
    counts: Counter[str] = Counter(finding.level for finding in findings)
    yield ", ".join(f"{counts[level]} {level}{_plural(counts[level])}" for level in LEVELS)


def _plural(n: int) -> str:
    return "" if n == 1 else "s"


def _model_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    adapter = f", adapter on {facts['base']}" if facts.get("base") else ""
    yield f"model      {facts.get('path', '-')} ({facts['family']}{adapter})"

    weights = facts.get("weights")
    if weights:
        shapes = {name: "x".join(map(str, shape)) for name, shape in weights["head"].items()}
        head = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none here"
        size = f"{weights['parameters']:,} numbers as {', '.join(weights['dtypes'])}"
        used = f"read as {weights['used_as']}: {weights['bytes'] / 2**30:.3g} GiB"
        yield f"weights    {size}; {used}; head: {head}"

    tokenizer = facts.get("tokenizer")
    if tokenizer:
        tokens = [(name.upper(), *tokenizer[name]) for name in ("bos", "eos", "pad")]
        special = ", ".join(f"{name} {number} {text!r}" for name, number, text in tokens)
        size = f"{tokenizer['class']}, {tokenizer['tokens']} tokens"
        template = tokenizer.get("template_hash", "none")
        yield f"tokenizer  {size}; {special}; template {template}"
    if facts.get("max_length"):
        yield f"length     conversations are cut to {facts['max_length']} tokens"
    if facts.get("outputs"):
        yield f"outputs    {', '.join(facts['outputs'])}"


def _table_lines(table: Mapping[str, Mapping]) -> Iterator[str]:
    """The table of languages, those that lose most first."""
    head = f"{'language':<12}{'rows':>8}{'answers':>9}{'median':>8}{'max':>8}{'cut':>8}"
    yield f"{head}{'tok/char':>10}{'tok/word':>10}{'x English':>11}"

    def order(language: str) -> tuple[float, float, str]:
        numbers = table[language]
        truncated = numbers["truncated_frac"] or 0
        length = numbers["tokens_per_character"] or 0
        return -truncated, -length, language

    ordered = sorted(table, key=order)
    for language in ordered[:SHOWN_LANGUAGES]:
        numbers = table[language]
        cells = [
            _n(numbers["rows"], 8),
            _n(numbers["answers"], 9),
            _n(numbers["tokens_median"], 8),
            _n(numbers["tokens_max"], 8),
            _n(numbers["truncated_frac"], 8, ".1%"),
            _n(numbers["tokens_per_character"], 10, ".3f"),
            _n(numbers["tokens_per_word"], 10, ".2f"),
            _n(numbers["relative_to_english"], 11, ".2f"),
        ]
        yield f"{language:<12}{''.join(cells)}"
    if len(ordered) > SHOWN_LANGUAGES:
        yield f"… and {len(ordered) - SHOWN_LANGUAGES} more languages: --json"


def _n(value: float | None, width: int, form: str = "d") -> str:
    text = "-" if value is None else format(value, form)
    return f"{text:>{width}}"


def _sample_lines(language: str, sample: Sample) -> Iterator[str]:
    yield f"{language} {visible(sample.id, 80)}: {visible(sample.text)}"
    first, last = SHOWN_TOKENS
    pieces = [f"{token}='{visible(text, 20)}'" for token, text in sample.tokens]
    if len(pieces) > first + last:
        pieces = [*pieces[:first], f"… {len(pieces) - first - last} more …", *pieces[-last:]]
    cut = f", the first {sample.cut} are cut off" if sample.cut else ""
    yield f"  {len(sample.tokens)} tokens{cut}: {' '.join(pieces)}"
