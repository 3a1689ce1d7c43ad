"""What the operating system refuses is one message with path and mend, in every command: no
traceback.
"""

import errno
import json
import os
import subprocess
import sys

import pytest

from mlalign.core.errors import system_problem
from mlalign.running import step

LONG = "n" * 300


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full: /data/here; make room there"),
        (OSError(errno.EDQUOT, "x", "/a"), "the disk quota is used up: /a; make room there"),
        (
            OSError(errno.EIO, "x", b"/a"),
            "the disk could not be read or written (Input/output error): /a; see whether the disk",
        ),
        (
            OSError(errno.ESTALE, "x", "/a"),
            (
                "the file server has lost track of a file (Stale file handle): /a; see whether the"
                " disk"
            ),
        ),
        (PermissionError(errno.EACCES, "x", "/a"), "Permission denied: /a; see whose it is"),
        (
            OSError(errno.EXDEV, "x", "/a", None, "/b"),
            "Invalid cross-device link: /a and /b; keep both on one file system",
        ),
        (
            RuntimeError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            ),
            "the disk is full: /data/here",
        ),
        (
            RuntimeError(
                "[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file"
                " data/0"
            ),
            "the disk could not be",
        ),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "Connection refused; mend that"),
        (OSError("tiny is no model"), "tiny is no model"),
    ],
)
def test_words_place_and_mend(error, told):
    assert system_problem(error, "/data/here").startswith(told)


def test_other_errors_are_none_of_the_systems():
    assert (
        system_problem(ValueError("x")) is None and system_problem(RuntimeError("x"), "/a") is None
    )


COMMANDS = (
    ["prepare", "kind=prompt"],
    ["run", "recipe=candidates"],
    ["plan", "recipe=candidates"],
    ["status"],
    ["status", "name=r"],
    ["logs", "name=r"],
    ["cancel", "name=r"],
    ["gc"],
    ["gc", "delete=true"],
    ["results", "name=r"],
    ["compare", "a", "b"],
    ["freeze", "recipe=candidates", "only=prompts"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "root", ["a-file", "a-file/below", LONG, "store-is-a-file", "runs-is-a-file", "run-is-a-file"]
)
@pytest.mark.slow
def test_roots_that_cannot_be(mlalign, tmp_path, command, root):
    (tmp_path / "a-file").write_text("")
    for name, inside in (
        ("store-is-a-file", "store"),
        ("runs-is-a-file", "runs"),
        ("run-is-a-file", "runs/r"),
    ):
        (tmp_path / name / inside).parent.mkdir(parents=True)
        (tmp_path / name / inside).write_text("")
    done = mlalign(
        *command,
        *(["name=r"] if command[0] in ("run", "plan", "prepare", "freeze") else []),
        f"root={tmp_path / root}",
    )
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
    if command[0] in ("run", "prepare"):
        assert (
            done.returncode == 1
            and done.stderr.startswith("error: ")
            and len(done.stderr.splitlines()) == 1
        ), done.stderr


def test_a_step_and_a_task_say_what_the_disk_refused(tmp_path, capfd):
    partial = tmp_path / "prepare-0123456789abcdef.partial"
    partial.mkdir()
    (partial / "claims").write_text("a file in the place of a folder")
    config = {"stage": "prepare", "step": "rows", "fingerprint": "0", "config": {}, "inputs": {}}
    (partial / "config.yaml").write_text(json.dumps(config))
    for part in ([], ["--part", "1/2"]):
        assert step.main([str(partial / "config.yaml"), *part]) == 2
        told = capfd.readouterr().err
        assert (
            told.startswith("error: ")
            and "claims; move what is there" in told
            and len(told.splitlines()) == 1
        )


MALFORMED = {
    "no yaml": "a: [",
    "a list": "- 1",
    "empty": "",
    "no stage": "step: x",
    "config is text": "{stage: sft, step: x, fingerprint: '0', config: y, inputs: {}}",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_configuration_of_a_step_is_named(tmp_path, capfd, name):
    partial = tmp_path / "sft-0123456789abcdef.partial"
    partial.mkdir()
    (partial / "config.yaml").write_text(MALFORMED[name])
    assert step.main([str(partial / "config.yaml")]) == 2
    assert f"error: {partial / 'config.yaml'}: " in capfd.readouterr().err
    (tmp_path / "frozen.json").write_text(json.dumps({"stage": "sft"}))
    assert step.main(["--begin", str(tmp_path / "frozen.json")]) == 2
    assert "frozen.json: holds no 'step'" in capfd.readouterr().err


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another person")
@pytest.mark.parametrize(
    "command", [["prepare", "kind=prompt"], ["status"], ["gc"], ["cancel", "name=r"]], ids=" ".join
)
@pytest.mark.slow
def test_a_root_of_another_person(tmp_path, command):
    """As a person without rights: root may do everything."""
    closed = tmp_path / "closed"
    (closed / "store").mkdir(parents=True)
    (closed / "runs" / "r").mkdir(parents=True)
    (closed / "runs" / "r" / "plan.json").write_text("{}")
    (closed / "runs" / "r").chmod(0o700)
    for folder in (closed, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    tmp_path.chmod(0o755)
    code = (
        "import os, sys; from mlalign import cli; from mlalign.cli.commands import status, gc,"
        " cancel; cli.main(['prepare', 'kind=prompt', 'dry=true', 'root=/nowhere']);"
        " os.setgid(65534); os.setuid(65534); sys.exit(cli.main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, *command, f"root={closed}"]
    done = subprocess.run(words, cwd="/", text=True, capture_output=True, check=False, timeout=300)
    assert (
        done.returncode == 1
        and "Permission denied" in done.stderr
        and "Traceback" not in done.stderr
    ), done.stderr
