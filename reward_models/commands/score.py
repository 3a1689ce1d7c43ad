"""`rm-score score`: files of rows in, the same rows with scores out.

    rm-score score --model PATH --input rows.jsonl --output scores.jsonl
    rm-score score --model PATH --input 'shards/*.parquet' --output scores.parquet --devices 8
    rm-score score --model PATH --input rows.jsonl --output scores.jsonl --shard slurm

The last one is for a Slurm array.

After an interruption, the same command resumes. Every row is checked before the model is opened.
Finished work is in OUTPUT.parts/ until the output is whole. The process that finishes last puts it
together, with its provenance in OUTPUT.json: model and content, settings, versions, counts by
language.

Exit status: 0 done, 1 done but some answers have no score or some rows were put aside, 2 a mistake,
130 stopped by Ctrl-C.
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
from mlalign.core import conversations, durable, formats, languages, versions
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
    help_ = f"files ({', '.join(files.ENDINGS)}), folders, glob patterns; - is stdin"
    add("--input", nargs="+", required=True, metavar="ROWS", help=help_)
    help_ = "scores: .jsonl or .parquet, or - for stdout"
    add("--output", type=Path, required=True, help=help_)
    further = "with another, it begins the names of further ones"
    add("--column", default="score", help=f"name of the column of scores (%(default)s); {further}")
    help_ = "form of the files (%(default)s)"
    add("--format", choices=formats.NAMES, default=formats.ROWS, help=help_)
    add("--language", help=LANGUAGE)
    for name in scoring.COLUMNS:
        is_shown = name in ("prompt", "response")
        help_ = f"where the {name} is" if is_shown else argparse.SUPPRESS
        add(f"--{name}-column", metavar="COLUMN", help=help_)
    help_ = "skip: put bad rows into OUTPUT's .rejected.jsonl and go on (%(default)s)"
    add("--on-bad-row", choices=("stop", "skip"), default="stop", help=help_)
    more = "more pack better, fewer use less memory"
    help_ = f"rows that are scored together; {more} (%(default)s)"
    add("--window", type=_positive, default=files.WINDOW, help=help_)
    help_ = "score the I-th of N shares (from 0/N); `slurm`: what the array task says"
    add("--shard", default="0/1", metavar="I/N", help=help_)
    help_ = "run N processes, each on a GPU of its own"
    add("--devices", type=_positive, default=1, metavar="N", help=help_)
    help_ = "throw unfinished work of another run at OUTPUT away"
    add("--restart", action="store_true", help=help_)
    add("--quiet", action="store_true", help="no progress on stderr")
    add(
        "--progress-every",
        type=_positive,
        default=30,
        metavar="SECONDS",
        help="without a terminal: how often a line (%(default)s)",
    )
    add("--with-parent", action="store_true", help=argparse.SUPPRESS)  # end when stdin closes


def run(options: argparse.Namespace) -> int:
    if options.with_parent:
        parallel.end_with_parent()
    if "-" not in (str(options.output), *options.input):
        return _run(options)
    with tempfile.TemporaryDirectory(prefix="rm-score-") as scratch:
        return _streamed(options, Path(scratch))


def _streamed(options: argparse.Namespace, scratch: Path) -> int:
    """From stdin or to stdout, through files.

    The input is read more than once, and the output is written when it is whole.
    """
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
    settings = commands.scorer_settings(options)
    problems = reward_models.problems(settings)
    if problems:
        raise UserError(*problems)

    inputs = survey.sources(_inputs(options, stdin))
    reading = _reading(options)
    scorer_identity = _identity(options, settings, reading)
    settings = scorer_identity.pinned()
    the_job = job.Job(options.output, scorer_identity.value, scorer_identity.still)
    finished = the_job.finished()
    surveyed = _survey(options, settings, the_job, inputs, reading)
    if finished is None:
        if options.devices > 1:
            _in_parallel(options, the_job, surveyed)
        else:
            _score(options, settings, the_job, inputs, surveyed, reading, part)
        finished = _finish(options, settings, the_job, inputs, surveyed)
    elif finished["input"] != _input(surveyed):
        raise UserError(
            f"{options.output}: exists already, made from other rows;"
            " remove it or choose another --output"
        )
    else:
        _say(f"{options.output}: is done already")
        the_job.throw_away()
    if not finished:
        return 0
    return _status(options, finished, calibration.card_of(options.card, settings))


# ---------------------------------------------------------------------------------------- options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 1 up")
    return number


def _check(options: argparse.Namespace) -> tuple[int, int]:
    """The share (index, n) to work on. Raises: UserError with every mistake in the options."""
    mistakes = []
    if options.output.suffix not in (".jsonl", ".parquet"):
        mistakes.append(f"{options.output}: expected a name ending in .jsonl or .parquet")
    several = options.devices > 1 or options.shard != "0/1"
    if "-" in options.input and (several or len(options.input) > 1):
        mistakes.append(
            "--input -: one process can read stdin, and nothing else with it; give it a file"
        )
    if options.devices > 1 and options.shard != "0/1":
        mistakes.append("--devices and --shard: give one of them; --devices N runs N shards itself")
    try:
        part = _share(options.shard)
    except UserError as error:
        mistakes += error.messages
    if mistakes:
        raise UserError(*mistakes)
    return part


def _share(text: str) -> tuple[int, int]:
    """(index from 0, n) of `I/N`, or of the Slurm array task for `slurm`."""
    if text == "slurm":
        return _slurm_share()
    index, _, n = text.partition("/")
    are_numbers = index.isdecimal() and n.isdecimal()
    if not are_numbers or int(index) >= int(n):
        raise UserError(f"--shard {text}: expected I/N with I from 0 to N-1, such as 0/4, or slurm")
    return int(index), int(n)


def _slurm_share() -> tuple[int, int]:
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    first = os.environ.get("SLURM_ARRAY_TASK_MIN")
    n = os.environ.get("SLURM_ARRAY_TASK_COUNT")
    step = os.environ.get("SLURM_ARRAY_TASK_STEP")
    if not task or not first or not n:
        raise UserError(
            "--shard slurm: this is no task of a Slurm array;"
            " submit it with sbatch --array=0-7, or write --shard I/N"
        )
    return (int(task) - int(first)) // int(step or 1), int(n)


def _reading(options: argparse.Namespace) -> scoring.Reading:
    try:
        language = languages.normalise(options.language) if options.language else None
    except UserError as error:
        messages = [f"--language: {message}" for message in error.messages]
        raise UserError(*messages) from None
    columns = {name: getattr(options, f"{name}_column") for name in scoring.COLUMNS}
    columns = {name: column for name, column in columns.items() if column}
    return scoring.Reading(columns, language, options.format, options.column)


def _checking(
    options: argparse.Namespace,
    settings: dict,
    reading: scoring.Reading,
) -> scoring.Reading:
    """The reading with the columns that the scorer writes and the check for items it refuses."""
    names = list(reward_models.reports(settings))
    if options.calibrated:
        names += ["raw", "uncalibrated"]
    if options.column != "score":
        names = [f"{options.column}.{name}" for name in names]
    accept = reward_models.acceptor(settings)
    return dataclasses.replace(reading, reported=tuple(names), accept=accept)


def _identity(
    options: argparse.Namespace,
    settings: dict,
    reading: scoring.Reading,
) -> identity.Identity:
    """What the scores depend on."""
    calibrated = options.calibrated
    card = calibration.card_of(options.card, settings) if calibrated else None
    if card:
        calibrated = [calibrated, identity.digest(card.calibration)]
    form = {"format": options.format} if options.format != formats.ROWS else {}
    return identity.Identity(
        settings,
        columns=dict(reading.columns),
        language=reading.language,
        column=options.column,
        window=options.window,
        reader=conversations.VERSION,
        **form,
        calibrated=calibrated,
    )


def _inputs(options: argparse.Namespace, stdin: Path | None) -> list[Path]:
    if stdin is None or options.input != ["-"]:
        return files.expand(options.input)
    with open(stdin, "wb") as f:
        shutil.copyfileobj(sys.stdin.buffer, f)
    return [stdin]


# ------------------------------------------------------------------------------------------- work


def _survey(
    options: argparse.Namespace,
    settings: dict,
    the_job: job.Job,
    inputs: Sequence[survey.Source],
    reading: scoring.Reading,
) -> survey.Survey:
    """The survey of the input: the saved one if no file was touched since, else a new one."""
    the_job.check_folder(restart=options.restart)
    saved = the_job.saved()
    if saved:
        files_then = [(file["name"], file["stat"]) for file in saved["survey"]["files"]]
        files_now = [(source.name, source.stat) for source in inputs]
        surveyed = survey.Survey.of_dict(saved["survey"])
        skips_bad_rows = options.on_bad_row == "skip"
        if files_then == files_now and (skips_bad_rows or not surveyed.rejected):
            return surveyed

    surveyed = _take(options, the_job, inputs, _checking(options, settings, reading))
    if not the_job.output.exists():
        with the_job.unless_finished():
            message = the_job.begin(surveyed, restart=options.restart)
            if message:
                _say(message)
    return surveyed


def _take(
    options: argparse.Namespace,
    the_job: job.Job,
    inputs: Sequence[survey.Source],
    reading: scoring.Reading,
) -> survey.Survey:
    """A new survey; bad rows go to the file for rejected ones if they are to be skipped."""
    window = options.window
    check = reading.check
    with _progress(options, "checking rows", None, 0) as progress:
        if options.on_bad_row == "stop":
            return survey.take(inputs, window, check, None, progress.add)
        the_job.rejected.parent.mkdir(parents=True, exist_ok=True)
        with (
            files.whole(the_job.rejected) as temporary,
            open(temporary, "w", encoding="utf-8") as f,
        ):

            def reject(row: dict) -> None:
                print(files.to_json(row), file=f)

            surveyed = survey.take(inputs, window, check, reject, progress.add)
    if not surveyed.rejected:
        the_job.rejected.unlink(missing_ok=True)
    return surveyed


def _score(
    options: argparse.Namespace,
    settings: dict,
    the_job: job.Job,
    inputs: Sequence[survey.Source],
    surveyed: survey.Survey,
    reading: scoring.Reading,
    part: tuple[int, int],
) -> None:
    """Score the windows of this share that are not done."""
    index, n_shares = part
    mine = surveyed.windows[index::n_shares]
    left = the_job.left(mine)
    if not left:
        return

    reader = survey.Reader(inputs)
    n_rows = sum(window.rows for window in mine)
    n_done = n_rows - sum(window.rows for window in left)
    some_bad = bool(surveyed.rejected)
    with (
        the_job.unless_finished(),
        calibration.wrap(reward_models.open_scorer(settings), options, settings) as scorer,
        _progress(options, str(options.output), n_rows, n_done) as progress,
    ):
        the_job.still()
        if some_bad:
            reading = _checking(options, settings, reading)
        scoring.keep_windows(scorer, the_job, reader, left, reading, progress, some_bad=some_bad)


def _in_parallel(options: argparse.Namespace, the_job: job.Job, surveyed: survey.Survey) -> None:
    n_done = surveyed.rows - sum(window.rows for window in the_job.left(surveyed.windows))
    if n_done == surveyed.rows:
        return
    keys = [window.key for window in surveyed.windows]
    with _progress(options, str(options.output), surveyed.rows, n_done) as progress:
        parallel.run(the_job, options.argv, options.devices, progress, keys)


def _progress(options: argparse.Namespace, title: str, total: int | None, done: int) -> Progress:
    return Progress(title, total, done, quiet=options.quiet, every_s=options.progress_every)


# -------------------------------------------------------------------------------------------- end


def _finish(
    options: argparse.Namespace,
    settings: dict,
    the_job: job.Job,
    inputs: Sequence[survey.Source],
    surveyed: survey.Survey,
) -> dict | None:
    """Put the output together if all windows are done.

    Returns its provenance; None while other shards are at work.
    """
    if the_job.output.exists():  # another process was faster
        finished = the_job.finished()
        the_job.throw_away()
        return finished

    windows = surveyed.windows
    n_missing = len(the_job.left(windows))
    if n_missing:
        _say(
            f"{options.output}: this share is done, {n_missing:,} of {len(windows):,} windows are"
            " with other shards; the last one finishes the file"
        )
        return None

    done = the_job.units.done()
    temporary = the_job.folder / f"output-{os.getpid()}-{os.urandom(4).hex()}.tmp"
    try:
        with the_job.unless_finished():
            as_parquet = files.is_parquet(the_job.output)
            as_text = assembly.write(temporary, as_parquet, inputs, windows, done, options.column)
            finished = {
                "schema_version": 1,
                "output": the_job.output.name,
                "size": temporary.stat().st_size,
                "sha256": identity.KNOWN.file(temporary),
                "scorer": provenance.of_scorer(settings),
                "identity": the_job.identity,
                "input": _input(surveyed),
                "rejected": surveyed.rejected,
                "counts": job.total([done[window.key].facts for window in windows]),
                "columns_as_json_text": as_text,
                "packages": versions.versions(),
                "finished": provenance.now(),
            }
            durable.write_json(the_job.provenance, finished)
            durable.publish(temporary, the_job.output)
    finally:
        temporary.unlink(missing_ok=True)
    the_job.throw_away()
    return the_job.finished()


def _input(surveyed: survey.Survey) -> list[dict]:
    keys = ("name", "sha256", "rows")
    return [{key: file[key] for key in keys} for file in surveyed.files]


def _status(
    options: argparse.Namespace,
    finished: dict,
    card: calibration.cards.Card | None,
) -> int:
    """Report the counts of a finished output; returns the exit status."""
    counts = finished["counts"]
    n_rejected = finished["rejected"]
    details = ("languages", "examples", "tokens", "replaced")
    numbers = [f"{n} {kind}" for kind, n in counts.items() if n and kind not in details]
    if n_rejected:
        numbers.append(f"{n_rejected} rejected")
    _say(f"{options.output}: {', '.join(numbers)}")

    n_without = counts["without a score"]
    if n_without:
        examples = list(counts["examples"])
        more = ", …" if n_without > len(examples) else ""
        _say(f"without a score: {', '.join(examples)}{more}")
    as_text = finished["columns_as_json_text"]
    if as_text:
        _say(f"values of several types, hence written as JSON text: {', '.join(as_text)}")
    warning = calibration.warning(counts["languages"], card, options.calibrated)
    if warning:
        _say(f"warning: {warning}")
    return 1 if n_without or n_rejected else 0


def _say(text: str) -> None:
    say(text, file=sys.stderr)
