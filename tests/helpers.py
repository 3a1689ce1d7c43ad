"""Where the project is, and the command line within this process."""

import contextlib
import io
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

PROJECT = Path(__file__).parent.parent


def run_here(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    """`mlalign …` in a folder, its steps too within this process: the same work without a start of
    Python for each.

    That steps are processes of their own, and what becomes of them, is tested in test_run.py.
    """
    from mlalign import cli

    words, out, err = [str(a) for a in arguments], io.StringIO(), io.StringIO()
    with (
        _steps_here(),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = cli.main(words)
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _steps_here() -> Iterator[None]:
    from mlalign.running import step

    def run(
        config: Path, resources: Mapping, log: Path, on_tick: Callable[[], None], warm: bool
    ) -> int:
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(log, "a") as out,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(out),
        ):
            return step.main([str(config)])

    with mock.patch("mlalign.running.local.run", run):
        yield


def write_manifest(path: Path, **told: object) -> None:
    """Make a directory a finished artifact of the files that lie in it; `told` are values of its
    manifest.
    """
    from mlalign.core import store

    path.mkdir(exist_ok=True, parents=True)
    found = {
        str(p.relative_to(path)): {"size": p.stat().st_size, "sha256": store.sha256(p)}
        for p in store.content_files(path)
    }
    whole = {
        "step": path.name,
        "stage": "prepare",
        "kind": "rows",
        "status": "done",
        "fingerprint": "f" * 64,
        "inputs": {},
        "files": found,
        "rows_by_language": {},
        "dropped": {},
        "started": 0.0,
        "finished": 1.0,
        "content_digest": store.content_digest(found),
    }
    store.write_json(path / "manifest.json", {**whole, **told})
