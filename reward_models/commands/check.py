"""`rm-score check`: is this model fit to score these rows? Looked at before any weights are loaded.

    rm-score check --model PATH --input rows.jsonl
    rm-score check --model PATH --input rows.jsonl --set max_length=512 --json

Shows a rendered conversation of each language with its token ids, what truncation cuts, tokens per character and per word, and what
is wrong or may be: BOS and EOS doubled or missing, padding traps, another chat template than the card's, a missing head, pairs
that are equal, empty answers, languages that the model was not trained in. Control characters in texts are made visible.

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
    parser.add_argument("--limit", type=int, default=10_000, help="rows that are looked at; 0: all (%(default)s)")
    parser.add_argument("--samples", type=int, default=3, help="languages whose first conversation is shown (%(default)s)")
    parser.add_argument("--json", action="store_true", help="everything as JSON")


def run(options: argparse.Namespace) -> int:
    told = commands.scorer_settings(options)
    card = cards.read(told["path"], told.get("revision")) if told.get("path") else None
    subject = preflight.of_model(told, card)
    dropped: Counter = Counter()
    rows = inputs.read(options, dropped)
    looked = preflight_rows.look(itertools.islice(rows, options.limit or None), subject)
    if next(rows, None) is not None:
        looked.findings.append(Finding("note", "rows", f"only the first {options.limit:,} were looked at; --limit 0 looks at all"))
    looked.findings += [Finding("note", "rows", line) for line in inputs.dropped_lines(dropped)]
    findings = sorted([*subject.findings, *looked.findings], key=lambda f: LEVELS.index(f.level))
    if options.json:
        say(json.dumps(_document(subject, looked, findings), ensure_ascii=True, indent=1))
    else:
        for line in _lines(subject, looked, findings, options.samples):
            say(line)
    levels = {finding.level for finding in findings}
    return 2 if "error" in levels else 1 if "warning" in levels else 0


def _document(subject: Subject, looked: Looked, findings: list[Finding]) -> dict[str, Any]:
    return {
        "model": subject.facts,
        "languages": preflight_rows.table(looked),
        "samples": {language: dataclasses.asdict(sample) for language, sample in looked.samples.items()},
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }


def _lines(subject: Subject, looked: Looked, findings: list[Finding], n_samples: int) -> Iterator[str]:
    yield from _model_lines(subject.facts)
    yield ""
    yield from _table_lines(preflight_rows.table(looked))
    for language in sorted(looked.samples)[:n_samples]:
        yield ""
        yield from _sample_lines(language, looked.samples[language])
    yield ""
    yield from (f"{f.level}: {f.where}: {visible(f.text, 1000)}" for f in findings)
    counts = [(level, sum(f.level == level for f in findings)) for level in LEVELS]
    yield ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for level, n in counts)


def _model_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"model      {facts.get('path', '-')} ({facts['family']}{', adapter on ' + facts['base'] if facts.get('base') else ''})"
    if weights := facts.get("weights"):
        head = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in weights["head"].items()) or "none here"
        size = f"{weights['parameters']:,} numbers as {', '.join(weights['dtypes'])}"
        yield f"weights    {size}; read as {weights['used_as']}: {weights['bytes'] / 2**30:.3g} GiB; head: {head}"
    if tokenizer := facts.get("tokenizer"):
        special = ", ".join(f"{name.upper()} {tokenizer[name][0]} {tokenizer[name][1]!r}" for name in ("bos", "eos", "pad"))
        yield f"tokenizer  {tokenizer['class']}, {tokenizer['tokens']} tokens; {special}; template {tokenizer.get('template_hash', 'none')}"
    if facts.get("max_length"):
        yield f"length     conversations are cut to {facts['max_length']} tokens"
    if outputs := facts.get("outputs"):
        yield f"outputs    {', '.join(outputs)}"


def _table_lines(table: Mapping[str, Mapping]) -> Iterator[str]:
    """The languages that lose most first."""
    yield f"{'language':<12}{'rows':>8}{'answers':>9}{'median':>8}{'max':>8}{'cut':>8}{'tok/char':>10}{'tok/word':>10}{'x English':>11}"
    worst = sorted(table, key=lambda x: (-(table[x]["truncated_frac"] or 0), -(table[x]["tokens_per_character"] or 0), x))
    for language in worst[:SHOWN_LANGUAGES]:
        t = table[language]
        line = f"{language:<12}{t['rows']:>8}{t['answers']:>9}{_n(t['tokens_median'], 8)}{_n(t['tokens_max'], 8)}"
        line += f"{_n(t['truncated_frac'], 8, '.1%')}{_n(t['tokens_per_character'], 10, '.3f')}"
        yield line + f"{_n(t['tokens_per_word'], 10, '.2f')}{_n(t['relative_to_english'], 11, '.2f')}"
    if len(worst) > SHOWN_LANGUAGES:
        yield f"… and {len(worst) - SHOWN_LANGUAGES} languages more: --json"


def _n(value: float | None, width: int, form: str = "d") -> str:
    return f"{'-' if value is None else format(value, form):>{width}}"


def _sample_lines(language: str, sample: Sample) -> Iterator[str]:
    yield f"{language} {visible(sample.id, 80)}: {visible(sample.text)}"
    first, last = SHOWN_TOKENS
    pieces = [f"{i}='{visible(text, 20)}'" for i, text in sample.tokens]
    if len(pieces) > first + last:
        pieces = [*pieces[:first], f"… {len(pieces) - first - last} more …", *pieces[-last:]]
    yield f"  {len(sample.tokens)} tokens{f', the first {sample.cut} are cut off' if sample.cut else ''}: {' '.join(pieces)}"
