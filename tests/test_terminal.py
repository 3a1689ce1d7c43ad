"""What people's names, models and servers cannot do to a terminal, a spreadsheet or a log."""

import ast
import csv
import io
import subprocess
import sys

import pytest
from helpers import PROJECT

from mlalign.core import secrecy, spreadsheets, terminal
from mlalign.core.errors import UserError
from reward_models import __main__ as rm_score

ESCAPE = "\x1b[2J\x1b]0;owned\x07"
# Own control sequences of the progress displays, and files of data.
OWN_PRINTS = {"mlalign/core/terminal.py", "mlalign/data/tiny_base.py"}


@pytest.mark.parametrize(
    "path",
    sorted([*PROJECT.glob("mlalign/**/*.py"), *PROJECT.glob("reward_models/**/*.py")]),
    ids=str,
)
@pytest.mark.slow
def test_everything_is_shown_by_say(path):
    text = path.read_text(encoding="utf-8")
    if str(path.relative_to(PROJECT)) in OWN_PRINTS:
        return
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ):
            shown = ast.get_source_segment(text, node) or ""
            assert "\\x1b[" in shown or "file=f)" in shown, (
                f"{path}:{node.lineno}: print; use mlalign.core.terminal.say"
            )


def test_say_shows_control_characters_and_hides_secrets(capsys, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789")
    terminal.say(
        f"a{ESCAPE}b\rc\u202ed\0", "http://u:hunter2@host/?api_key=hunter3&n=1", "sk-0123456789"
    )
    out = capsys.readouterr().out
    assert (
        out == "a⟨U+001B⟩[2J⟨U+001B⟩]0;owned⟨U+0007⟩b\nc⟨U+202E⟩d⟨U+0000⟩"
        " http://***@host/?api_key=***&n=1 ***\n"
    )


def test_a_message_cannot_pose_as_another_one(capsys):
    terminal.say_error("file 'x\nerror: all is well' is not there")
    assert capsys.readouterr().err == "error: file 'x\n  error: all is well' is not there\n"


def test_a_table_keeps_its_rows_whatever_names_hold():
    lines = terminal.table([[f"a\nb{ESCAPE}", 1], ["c", 2]], ["name", "n"]).splitlines()
    assert len(lines) == 3
    assert "a⟨U+000A⟩b⟨U+001B⟩" in lines[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", f"recipe={ESCAPE}"],
        ["plan", f"{ESCAPE}=1", "recipe=candidates"],
        [ESCAPE],
        ["status", ESCAPE],
    ],
)
@pytest.mark.slow
def test_mlalign_repeats_no_control_character(mlalign, arguments):
    ended = mlalign(*arguments)
    assert ended.returncode == 1
    assert "\x1b" not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", ESCAPE],
        ["score", f"--{ESCAPE}"],
        [ESCAPE],
        ["score", "--model", ESCAPE, "--input", ESCAPE, "--output", "o.jsonl"],
    ],
)
def test_rm_score_repeats_no_control_character(tmp_path, monkeypatch, capfd, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        sys.exit(rm_score.main(arguments))
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err and "\x07" not in out + err


def test_a_stream_that_lacks_a_character_gets_its_escape():
    code = "from mlalign.core.terminal import prepare, say; prepare(); say('naïve – ключ')"
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(PROJECT),
        "PYTHONIOENCODING": "ascii",
        "LANG": "C",
    }
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True
    ).stdout
    assert shown == "na\\xefve \\u2013 \\u043a\\u043b\\u044e\\u0447\n"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"), ("+1+1", "'+1+1"), ("-1+1", "'-1+1"), ("@sum", "'@sum"), (" \t=1", "'  =1"), ("\r=1", "' =1"), ("＝1", "'＝1"),
        ("-0.5", "-0.5"), ("+3", "+3"), ("-inf", "-inf"), (-0.5, "-0.5"), (None, ""), ("a=1", "a=1"), ("a\r\nb", "a b"), ("\x1b[2J", "⟨U+001B⟩[2J"),
    ],
)  # fmt: skip
def test_no_cell_is_a_formula(value, cell):
    (row,) = csv.DictReader(io.StringIO(spreadsheets.to_csv([{"a": value, "left out": 1}], ["a"])))
    assert row == {"a": cell}


def test_a_column_is_no_formula_either():
    assert (
        spreadsheets.to_csv([{"=cmd|' /C calc'!A0": 1}], ["=cmd|' /C calc'!A0"])
        == "'=cmd|' /C calc'!A0\n1\n"
    )


# ------------------------------------------------------------------------------------------ secrets


def test_a_typed_password_moves_into_the_environment(monkeypatch):
    monkeypatch.setattr("os.environ", {})
    typed = {
        "engine": {
            "base_url": "https://me:pa@ss@host:1/v1?token=abc&n=1",
            "args": {"api_key": "sk-1", "eos_token": "</s>"},
        }
    }
    carried = secrecy.carry(typed)
    assert "pa@ss" not in str(carried) and "sk-1" not in str(carried) and "abc" not in str(carried)
    assert carried["engine"]["args"]["eos_token"] == "</s>"
    assert carried["engine"]["base_url"].startswith(
        "https://${oc.env:MLALIGN_SECRET_ENGINE_BASE_URL}@host:1/v1?token=${oc.env:"
    )
    assert secrecy.carry(carried) == carried
    assert secrecy.resolve(carried) == typed


def test_a_variable_that_is_not_set_is_named():
    with pytest.raises(
        UserError, match=r"engine.base_url: the environment variable ABSENT is not set"
    ):
        secrecy.resolve("http://${oc.env:ABSENT}@host", "engine.base_url")
    assert secrecy.resolve("${oc.env:ABSENT,there}") == "there"


@pytest.mark.parametrize(
    ("key", "is_one"),
    [
        ("api_key", True), ("args.password", True), ("hub_token", True), ("token", True), ("Authorization", True), ("X-Api-Key", True),
        ("eos_token", False), ("max_tokens", False), ("api_key_env", False), ("tokenizer", False), ("key", False), ("columns.id", False),
    ],
)  # fmt: skip
def test_which_keys_hold_secrets(key, is_one):
    assert bool(secrecy.NAME.search(key.rpartition(".")[2])) is is_one


@pytest.mark.slow
def test_the_plan_of_a_step_holds_references_to_secrets(tmp_path, monkeypatch):
    from mlalign.recipes import config, plan
    from mlalign.running import run_dir

    monkeypatch.setenv("MY_PLACE", "http://me:hunter2@host/v1")
    monkeypatch.setenv("MY_N", "hunter4")
    words = [
        "recipe=candidates",
        "scale=tiny",
        "data=tiny_world",
        "languages=[en]",
        "model=tiny",
        "engine=openai",
        "engine.served_model=m",
        f"root={tmp_path}",
    ]

    def frozen(address: str, *more: str) -> tuple[str, str]:
        planned = plan.build(config.load([*words, f"engine.base_url={address}", *more]))
        run_dir.open_run(planned)
        node = next(n for n in planned.nodes if n.step.stage == "generate")
        return node.fingerprint, str(run_dir.frozen(planned, node))

    by_name, text = frozen("${oc.env:MY_PLACE}", "engine.args={password: '${oc.env:MY_N}'}")
    typed, _ = frozen("http://me:hunter2@host/v1", "engine.args={password: '${oc.env:MY_N}'}")
    other, _ = frozen("http://me:hunter3@elsewhere/v1", "engine.args={password: '${oc.env:MY_N}'}")
    assert by_name == typed == other
    assert "'base_url': '${oc.env:MY_PLACE}'" in text and "'password': '${oc.env:MY_N}'" in text
    written = [
        p.read_text(encoding="utf-8")
        for p in tmp_path.rglob("*")
        if p.is_file() and not p.is_symlink()
    ]
    assert written and not any("hunter" in text for text in written)


def test_a_secret_in_a_job_s_script_is_refused(mlalign):
    ended = mlalign(
        "plan",
        "recipe=candidates",
        "scale=tiny",
        "launcher=slurm",
        "+launcher.environment={HF_TOKEN: hf_secret}",
    )
    assert "launcher.environment.HF_TOKEN" in ended.stderr and "hf_secret" not in ended.stderr
