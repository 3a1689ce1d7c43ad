"""Scores of preference rows, kept in a folder so that nothing is scored twice.

A run that was killed resumes. Files in the folder:

NAME.scores.jsonl         ids and scores of every row, in order, without texts; whole or absent
NAME.scores.jsonl.json    what the scores belong to: the scorer by settings and content, the rows by
                          the content of their files
NAME.scores.jsonl.parts   finished work until then (`job`)
.rows.jsonl               the rows in the one form that is scored, until all scorers have them
"""

import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import reward_models
from mlalign.core import durable, resume
from mlalign.core.errors import UserError
from mlalign.core.terminal import say
from reward_models import files
from reward_models.evidence import verdicts
from reward_models.evidence.preferences import WRITTEN, Row, Source, language_of, prepared
from reward_models.jobs import identity, job, provenance, scoring, survey
from reward_models.jobs.progress import Progress

ROWS = ".rows.jsonl"


def score(
    scorers: Mapping[str, dict],
    source: Source,
    folder: Path,
) -> tuple[dict[str, Path], Counter]:
    """Name -> file of scores for every scorer, and which rows were dropped.

    `scorers` are specs by name. Finished files are used. Several scorers get a process each, so
    that the memory of one is free before the next.

    Raises: UserError for bad rows, before anything is scored, and if a file in the folder belongs
    to something else.
    """
    rows = source.identity()
    identities = {}
    jobs = {}
    for name, spec in scorers.items():
        scorer_identity = identity.Identity(spec, rows=rows)
        identities[name] = scorer_identity
        output = folder / (name + WRITTEN)
        jobs[name] = job.Job(output, scorer_identity.value, scorer_identity.still)

    waiting = [name for name in scorers if not jobs[name].finished()]
    for name in waiting:
        jobs[name].check_folder(restart=False)

    dropped: Counter = Counter()
    acceptors = [reward_models.acceptor(scorers[name]) for name in waiting]
    checks = [accept for accept in acceptors if accept]
    files.write(folder / ROWS, prepared(source, dropped, checks))

    run = _score_apart if len(waiting) > 1 else _score
    for name in waiting:
        counts = run(name, identities[name].pinned(), folder / ROWS, jobs[name])
        numbers = [f"{n} {kind}" for kind, n in counts.items() if isinstance(n, int) and n]
        say(f"{name}: {', '.join(numbers)}", file=sys.stderr)
    for name in scorers:
        if name not in waiting:
            say(f"{name}: scored already", file=sys.stderr)

    (folder / ROWS).unlink()
    return {name: the_job.output for name, the_job in jobs.items()}, dropped


def _score_apart(name: str, settings: Mapping, rows: Path, the_job: job.Job) -> Mapping:
    """`_score` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_score, name, settings, rows, the_job).result()
        except BrokenProcessPool:
            raise UserError(
                f"{name}: the process that scored was killed (out of memory?);"
                " what is finished is kept, run the same command again"
            ) from None


def _score(name: str, settings: Mapping, rows: Path, the_job: job.Job) -> Mapping:
    """Score what is not done yet and write the output. Returns the counts of all rows."""
    inputs = survey.sources([rows])
    surveyed = survey.take(inputs, files.WINDOW, lambda entry: None)
    the_job.begin(surveyed, restart=False)
    left = the_job.left(surveyed.windows)
    n_done = surveyed.rows - sum(window.rows for window in left)

    reader = survey.Reader(inputs)
    if left:
        scorer = reward_models.open_scorer(settings)
        with Progress(name, surveyed.rows, n_done) as progress:
            scoring.keep_windows(scorer, the_job, reader, left, scoring.Reading(), progress)
    return _finish(settings, the_job, surveyed, reader)


def _finish(
    settings: Mapping,
    the_job: job.Job,
    surveyed: survey.Survey,
    reader: survey.Reader,
) -> Mapping:
    """Write the scores of all windows and their provenance. Returns the counts of all rows."""
    done = the_job.units.done()
    counts = job.total([done[window.key].facts for window in surveyed.windows])
    with files.whole(the_job.output) as temporary:
        with open(temporary, "w", encoding="utf-8") as f:
            for window in surveyed.windows:
                for row in _kept(reader, window, done[window.key]):
                    f.write(files.to_json(row) + "\n")
        provenance_ = {
            "size": temporary.stat().st_size,
            "sha256": identity.KNOWN.file(temporary),
            "scorer": provenance.of_scorer(settings),
            "identity": the_job.identity,
            "counts": counts,
        }
        durable.write_json(the_job.provenance, provenance_)
    the_job.throw_away()
    return counts


def _kept(reader: survey.Reader, window: survey.Window, result: resume.Unit) -> Iterator[Row]:
    """The ids of a window's rows with their scores."""
    scores = result.read().split(b"\n")[:-1]
    for entry, line in zip(reader.entries(window), scores, strict=True):
        assert entry.row is not None
        yield {**entry.row["kept"], **json.loads(line)}


def read(path: Path) -> Iterator[verdicts.Verdict]:
    """The verdict of every row of a file of scores.

    The file is one of this folder, or one that `rm-score score` wrote for preference rows.
    Raises: UserError naming a row without scores on both sides, or with one that is not a number.
    """
    for where, row in files.read(path):
        chosen, rejected = _sides(row, where)
        if not chosen or not rejected or not all(map(_is_score, [*chosen, *rejected])):
            raise UserError(f"{where}: scores must be numbers or null, at least one on each side")
        language = language_of(row, where)
        yield verdicts.of_row({**row, "language": language}, where, chosen, rejected)


def _sides(row: Mapping, where: str) -> tuple[list, list]:
    """The scores of the chosen and of the rejected answers."""
    scores = row.get("scores")
    n_chosen = row.get("n_chosen")
    if isinstance(scores, list) and isinstance(n_chosen, int):
        return scores[:n_chosen], scores[n_chosen:]
    if "score_chosen" in row and "score_rejected" in row:
        return [row["score_chosen"]], [row["score_rejected"]]
    raise UserError(
        f"{where}: needs score_chosen and score_rejected, or scores and n_chosen;"
        f" it has {', '.join(row)}"
    )


def _is_score(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or is_number
