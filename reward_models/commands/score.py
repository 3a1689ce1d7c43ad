"""`rm-score score`: files of rows in, the same rows with scores out. Kill it anywhere; the same command goes on where it was.

    rm-score score --model PATH --input rows.jsonl --output scores.jsonl
    rm-score score --model PATH --input 'shards/*.parquet' --output scores.parquet --devices 8
    rm-score score --model PATH --input rows.jsonl --output scores.jsonl --shard slurm       in a Slurm array

Every row is checked before the model is opened. Finished work lies in OUTPUT.parts/ until the output is whole; whichever process
finishes last puts it together, with its provenance in OUTPUT.json: model and content, settings, versions, counts by language.

Exit status: 0 done, 1 done but some answers have no score or some rows were put aside, 2 a mistake, 130 stopped by Ctrl-C.
"""

import argparse
import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import reward_models
from mlalign.core import conversations, formats, languages, versions
from mlalign.core.errors import UserError
from mlalign.core.terminal import say
from reward_models import commands, files
from reward_models.evidence import calibration
from reward_models.inputs import LANGUAGE
from reward_models.jobs import assembly, identity, job, parallel, provenance, scoring, survey
from reward_models.jobs.progress import Progress

HELP = "score files of rows"


def arguments(parser: argparse.ArgumentParser) -> None:
    commands.add_scorer(parser)
    calibration.add_options(parser)
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="ROWS", help=f"files ({', '.join(files.ENDINGS)}), folders, glob patterns; - is stdin")
    add("--output", type=Path, required=True, help="scores: .jsonl or .parquet, or - for stdout")
    add("--column", default="score", help="name of the column of scores (%(default)s); with another, it begins the names of further ones")
    add("--format", choices=formats.NAMES, default=formats.ROWS, help="form of the files (%(default)s)")
    add("--language", help=LANGUAGE)
    for name in scoring.COLUMNS:
        add(f"--{name}-column", metavar="COLUMN", help=argparse.SUPPRESS if name not in ("prompt", "response") else f"where the {name} is")
    add(
        "--on-bad-row",
        choices=("stop", "skip"),
        default="stop",
        help="skip: put bad rows into OUTPUT's .rejected.jsonl and go on (%(default)s)",
    )
    add(
        "--window",
        type=_positive,
        default=files.WINDOW,
        help="rows that are scored together; more pack better, fewer use less memory (%(default)s)",
    )
    add("--shard", default="0/1", metavar="I/N", help="score the I-th of N shares (from 0/N); `slurm`: what the array task says")
    add("--devices", type=_positive, default=1, metavar="N", help="run N processes, each on a GPU of its own")
    add("--restart", action="store_true", help="throw unfinished work of another run at OUTPUT away")
    add("--quiet", action="store_true", help="no progress on stderr")
    add("--progress-every", type=_positive, default=30, metavar="SECONDS", help="without a terminal: how often a line (%(default)s)")
    add("--with-parent", action="store_true", help=argparse.SUPPRESS)  # end when stdin closes


def run(options: argparse.Namespace) -> int:
    if options.with_parent:
        parallel.end_with_parent()
    if "-" not in (str(options.output), *options.input):
        return _run(options)
    with tempfile.TemporaryDirectory(prefix="rm-score-") as scratch:
        return _streamed(options, Path(scratch))


def _streamed(options: argparse.Namespace, scratch: Path) -> int:
    """From stdin or to stdout, by way of files: the input is read more than once, the output is written when it is whole."""
    to_stdout = str(options.output) == "-"
    if to_stdout:
        options.output = scratch / "stdout.jsonl"
    status = _run(options, scratch / "stdin.jsonl")
    if to_stdout:
        with open(options.output, "rb") as f:
            shutil.copyfileobj(f, sys.stdout.buffer)
    return status


def _run(options: argparse.Namespace, stdin: Path | None = None) -> int:
    part = _check(options)
    told = commands.scorer_settings(options)
    if wrong := reward_models.problems(told):
        raise UserError(*wrong)
    inputs = survey.sources(_inputs(options, stdin))
    reading = _reading(options)
    what = _identity(options, told, reading)
    told = what.pinned()
    the_job = job.Job(options.output, what.value, what.still)
    finished = the_job.finished()
    found = _survey(options, told, the_job, inputs, reading)
    if finished is None:
        if options.devices > 1:
            _in_parallel(options, the_job, found)
        else:
            _score(options, told, the_job, inputs, found, reading, part)
        finished = _finish(options, told, the_job, inputs, found)
    elif finished["input"] != _input(found):
        raise UserError(f"{options.output}: exists already, made from other rows; remove it or choose another --output")
    else:
        _say(f"{options.output}: is done already")
        the_job.throw_away()
    return _status(options, finished, calibration.card_of(options.card, told)) if finished else 0


# -------------------------------------------------------------------------------------------------------------- options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 1 up")
    return number


def _check(options: argparse.Namespace) -> tuple[int, int]:
    """The share (index, n) to work on. Raises: UserError with every mistake in the options."""
    wrong = []
    if options.output.suffix not in (".jsonl", ".parquet"):
        wrong.append(f"{options.output}: expected a name ending in .jsonl or .parquet")
    if "-" in options.input and (len(options.input) > 1 or options.devices > 1 or options.shard != "0/1"):
        wrong.append("--input -: one process can read stdin, and nothing else with it; give it a file")
    if options.devices > 1 and options.shard != "0/1":
        wrong.append("--devices and --shard: give one of them; --devices N runs N shards itself")
    try:
        part = _share(options.shard)
    except UserError as error:
        wrong += error.messages
    if wrong:
        raise UserError(*wrong)
    return part


def _share(text: str) -> tuple[int, int]:
    """(index from 0, n) of `I/N`, or of the Slurm array task for `slurm`."""
    if text == "slurm":
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_STEP")
        task, first, n, step = (os.environ.get(name) for name in names)
        if not task or not first or not n:
            raise UserError("--shard slurm: this is no task of a Slurm array; submit it with sbatch --array=0-7, or write --shard I/N")
        return (int(task) - int(first)) // int(step or 1), int(n)
    index, _, n = text.partition("/")
    if not (index.isdecimal() and n and n.isdecimal() and int(index) < int(n)):
        raise UserError(f"--shard {text}: expected I/N with I from 0 to N-1, such as 0/4, or slurm")
    return int(index), int(n)


def _reading(options: argparse.Namespace) -> scoring.Reading:
    told = {name: getattr(options, f"{name}_column") for name in scoring.COLUMNS}
    try:
        language = languages.normalise(options.language) if options.language else None
    except UserError as error:
        raise UserError(*(f"--language: {m}" for m in error.messages)) from None
    columns = {name: column for name, column in told.items() if column}
    return scoring.Reading(columns, language, options.format, options.column)


def _checking(options: argparse.Namespace, told: dict, reading: scoring.Reading) -> scoring.Reading:
    """The same reading, which also knows what the scorer writes and refuses."""
    reports = (*reward_models.reports(told), *(("raw", "uncalibrated") if options.calibrated else ()))
    names = reports if options.column == "score" else [f"{options.column}.{name}" for name in reports]
    return dataclasses.replace(reading, told=tuple(names), accept=reward_models.acceptor(told))


def _identity(options: argparse.Namespace, told: dict, reading: scoring.Reading) -> identity.Identity:
    card = calibration.card_of(options.card, told) if options.calibrated else None
    return identity.Identity(
        told, columns=dict(reading.columns), language=reading.language, column=options.column, window=options.window,
        reader=conversations.VERSION, **({"format": options.format} if options.format != formats.ROWS else {}),
        calibrated=[options.calibrated, identity.digest(card.calibration)] if card else options.calibrated,
    )  # fmt: skip


def _inputs(options: argparse.Namespace, stdin: Path | None) -> list[Path]:
    if stdin is None or options.input != ["-"]:
        return files.expand(options.input)
    with open(stdin, "wb") as f:
        shutil.copyfileobj(sys.stdin.buffer, f)
    return [stdin]


# ------------------------------------------------------------------------------------------------------------------ work


def _survey(
    options: argparse.Namespace, told: dict, the_job: job.Job, inputs: Sequence[survey.Source], reading: scoring.Reading
) -> survey.Survey:  # fmt: skip
    """The survey of the input: the one that the run's folder has if no file was touched since, else a new one."""
    the_job.check_folder(restart=options.restart)
    saved = the_job.saved()
    if saved and [(f["name"], f["stat"]) for f in saved["survey"]["files"]] == [(s.name, s.stat) for s in inputs]:
        found = survey.Survey.of_dict(saved["survey"])
        if not found.rejected or options.on_bad_row == "skip":
            return found
    found = _take(options, the_job, inputs, _checking(options, told, reading))
    if not the_job.output.exists():
        with the_job.unless_finished():
            if message := the_job.begin(found, restart=options.restart):
                _say(message)
    return found


def _take(options: argparse.Namespace, the_job: job.Job, inputs: Sequence[survey.Source], reading: scoring.Reading) -> survey.Survey:
    with _progress(options, "checking rows", None, 0) as progress:
        if options.on_bad_row == "stop":
            return survey.take(inputs, options.window, reading.check, None, progress.add)
        the_job.rejected.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(the_job.rejected) as temporary, open(temporary, "w", encoding="utf-8") as f:
            found = survey.take(inputs, options.window, reading.check, lambda told: print(files.to_json(told), file=f), progress.add)
    if not found.rejected:
        the_job.rejected.unlink(missing_ok=True)
    return found


def _score(
    options: argparse.Namespace, told: dict, the_job: job.Job, inputs: Sequence[survey.Source], found: survey.Survey,
    reading: scoring.Reading, part: tuple[int, int],
) -> None:  # fmt: skip
    """Score the windows of this share that are not done."""
    mine = found.windows[part[0] :: part[1]]
    left = [w for w in mine if w.key not in the_job.done()]
    if not left:
        return
    reader = survey.Reader(inputs)
    rows, rows_left = sum(w.rows for w in mine), sum(w.rows for w in left)
    with (
        the_job.unless_finished(),
        calibration.wrap(reward_models.open_scorer(told), options, told) as scorer,
        _progress(options, str(options.output), rows, rows - rows_left) as progress,
        job.Part(the_job) as finished,
    ):
        the_job.still()
        if found.rejected:
            reading = _checking(options, told, reading)
        for window in left:
            result = scoring.of_window(scorer, reader.entries(window), reading, some_bad=bool(found.rejected))
            finished.add(window.key, result.columns, result.counts)
            progress.add(window.rows, result.counts["tokens"])


def _in_parallel(options: argparse.Namespace, the_job: job.Job, found: survey.Survey) -> None:
    done = sum(w.rows for w in found.windows if w.key in the_job.done())
    if done == found.rows:
        return
    with _progress(options, str(options.output), found.rows, done) as progress:
        parallel.run(the_job, options.argv, options.devices, progress, [w.key for w in found.windows])


def _progress(options: argparse.Namespace, title: str, total: int | None, done: int) -> Progress:
    return Progress(title, total, done, quiet=options.quiet, every_s=options.progress_every)


# ------------------------------------------------------------------------------------------------------------------- end


def _finish(
    options: argparse.Namespace, told: dict, the_job: job.Job, inputs: Sequence[survey.Source], found: survey.Survey
) -> dict | None:  # fmt: skip
    """Put the output together if all windows are done. Returns its provenance; None while other shards are at work."""
    if the_job.output.exists():  # another process was faster
        finished = the_job.finished()
        the_job.throw_away()
        return finished
    done = the_job.done()
    missing = sum(w.key not in done for w in found.windows)
    if missing:
        left = f"{missing:,} of {len(found.windows):,} windows"
        _say(f"{options.output}: this share is done, {left} are with other shards; the last one finishes the file")
        return None
    temporary = the_job.folder / f"output-{os.getpid()}-{os.urandom(4).hex()}.tmp"
    try:
        with the_job.unless_finished():
            as_text = assembly.write(temporary, files.is_parquet(the_job.output), inputs, found.windows, done, options.column)
            counts = job.total([done[w.key].counts for w in found.windows])
            finished = {
                "schema_version": 1, "output": the_job.output.name,
                "size": temporary.stat().st_size, "sha256": identity.KNOWN.file(temporary),
                "scorer": provenance.of_scorer(told), "identity": the_job.identity, "input": _input(found), "rejected": found.rejected,
                "counts": counts, "columns_as_json_text": as_text, "packages": versions.versions(), "finished": provenance.now(),
            }  # fmt: skip
            files.write_json(the_job.provenance, finished)
            files.publish(temporary, the_job.output)
    finally:
        temporary.unlink(missing_ok=True)
    the_job.throw_away()
    return the_job.finished()


def _input(found: survey.Survey) -> list[dict]:
    return [{k: f[k] for k in ("name", "sha256", "rows")} for f in found.files]


def _status(options: argparse.Namespace, finished: dict, card: calibration.cards.Card | None) -> int:
    """Say what was made; the exit status."""
    counts = finished["counts"]
    told = {name: n for name, n in counts.items() if name not in ("languages", "examples", "tokens", "replaced") and n}
    told |= {"rejected": finished["rejected"]} if finished["rejected"] else {}
    _say(f"{options.output}: {', '.join(f'{n} {what}' for what, n in told.items())}")
    if counts["without a score"]:
        _say(f"without a score: {', '.join(counts['examples'])}{', …' if counts['without a score'] > len(counts['examples']) else ''}")
    if finished["columns_as_json_text"]:
        _say(f"values of several types, hence written as JSON text: {', '.join(finished['columns_as_json_text'])}")
    if warning := calibration.warning(counts["languages"], card, options.calibrated):
        _say(f"warning: {warning}")
    return 1 if counts["without a score"] or finished["rejected"] else 0


def _say(text: str) -> None:
    say(text, file=sys.stderr)
