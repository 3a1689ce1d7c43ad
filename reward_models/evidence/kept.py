"""Scores of preference rows that are kept in a folder, so that nothing is scored twice. Kill it anywhere, it goes on where it was.

NAME.scores.jsonl         ids and scores of every row, in the order of the rows, without the texts; whole or not there
NAME.scores.jsonl.json    what the scores are of: the scorer by settings and content, the rows by the content of their files
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

import reward_models
from mlalign.core.errors import UserError
from mlalign.core.terminal import say
from reward_models import files
from reward_models.evidence import verdicts
from reward_models.evidence.preferences import WRITTEN, Row, Source, language_of, prepared
from reward_models.jobs import identity, job, provenance, scoring, survey
from reward_models.jobs.progress import Progress

ROWS = ".rows.jsonl"


def score(scorers: Mapping[str, dict], source: Source, folder: Path) -> tuple[dict[str, Path], Counter]:
    """Name -> file of scores, for every scorer; those that are there already are taken. Also what rows were dropped.

    Each scorer has a process of its own where there are several: that is how one's memory comes back before the next.
    Raises: UserError for bad rows, before anything is scored, and if a file is there that is of something else.
    """
    rows = source.identity()
    whats = {name: identity.Identity(told, rows=rows) for name, told in scorers.items()}
    jobs = {name: job.Job(folder / (name + WRITTEN), what.value, what.still) for name, what in whats.items()}
    done = [name for name, the_job in jobs.items() if the_job.finished()]
    waiting = [name for name in scorers if name not in done]
    for name in waiting:
        jobs[name].check_folder(restart=False)
    dropped: Counter = Counter()
    acceptors = [accept for name in waiting if (accept := reward_models.acceptor(scorers[name]))]
    files.write(folder / ROWS, prepared(source, dropped, acceptors))
    for name in waiting:
        run = _score_apart if len(waiting) > 1 else _score
        counts = run(name, whats[name].pinned(), folder / ROWS, jobs[name])
        say(f"{name}: {', '.join(f'{n} {what}' for what, n in counts.items() if isinstance(n, int) and n)}", file=sys.stderr)
    for name in done:
        say(f"{name}: scored already", file=sys.stderr)
    (folder / ROWS).unlink()
    return {name: the_job.output for name, the_job in jobs.items()}, dropped


def _score_apart(name: str, told: Mapping, rows: Path, the_job: job.Job) -> Mapping:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_score, name, told, rows, the_job).result()
        except BrokenProcessPool:
            why = "the process that scored was killed (out of memory?); what is finished is kept, run the same command again"
            raise UserError(f"{name}: {why}") from None


def _score(name: str, told: Mapping, rows: Path, the_job: job.Job) -> Mapping:
    """Score what is not done yet, then put the output together. Returns the counts of all rows."""
    inputs = survey.sources([rows])
    found = survey.take(inputs, files.WINDOW, lambda entry: None)
    the_job.begin(found, restart=False)
    left = [w for w in found.windows if w.key not in the_job.done()]
    reader, n_left = survey.Reader(inputs), sum(w.rows for w in left)
    scorer = reward_models.open_scorer(told) if left else None
    with Progress(name, found.rows, found.rows - n_left) as progress, job.Part(the_job) as part:
        for window in left:
            assert scorer is not None
            result = scoring.of_window(scorer, reader.entries(window), scoring.Reading())
            part.add(window.key, result.columns, result.counts)
            progress.add(window.rows, result.counts["tokens"])
    return _finish(told, the_job, found, reader)


def _finish(told: Mapping, the_job: job.Job, found: survey.Survey, reader: survey.Reader) -> Mapping:
    done = the_job.done()
    counts = job.total([done[w.key].counts for w in found.windows])
    with files.whole(the_job.output) as temporary:
        with open(temporary, "w", encoding="utf-8") as f:
            f.writelines(files.to_json(row) + "\n" for window in found.windows for row in _kept(reader, window, done[window.key]))
        scorer, size = provenance.of_scorer(told), temporary.stat().st_size
        what = {"size": size, "sha256": identity.KNOWN.file(temporary), "scorer": scorer, "identity": the_job.identity, "counts": counts}
        files.write_json(the_job.provenance, what)
    the_job.throw_away()
    return counts


def _kept(reader: survey.Reader, window: survey.Window, lines: job.Lines) -> Iterator[Row]:
    """The ids of a window's rows and what the scorer said."""
    for entry, line in zip(reader.entries(window), lines.read().split(b"\n")[:-1], strict=True):
        assert entry.row is not None
        yield {**entry.row["kept"], **json.loads(line)}


def read(path: Path) -> Iterator[verdicts.Verdict]:
    """The verdict of every row of a file of scores: one of this folder, or any that `rm-score score` wrote of preference rows.

    Raises: UserError naming a row without scores of both sides, or with one that is no number.
    """
    for where, row in files.read(path):
        if isinstance(row.get("scores"), list) and isinstance(row.get("n_chosen"), int):
            sides = row["scores"][: row["n_chosen"]], row["scores"][row["n_chosen"] :]
        elif "score_chosen" in row and "score_rejected" in row:
            sides = [row["score_chosen"]], [row["score_rejected"]]
        else:
            raise UserError(f"{where}: needs score_chosen and score_rejected, or scores and n_chosen; it has {', '.join(row)}")
        if not all(sides) or not all(s is None or (isinstance(s, int | float) and not isinstance(s, bool)) for side in sides for s in side):
            raise UserError(f"{where}: scores must be numbers or null, at least one on each side")
        yield verdicts.of_row({**row, "language": language_of(row, where)}, where, *sides)
