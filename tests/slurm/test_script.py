"""Batch scripts are a pure function of step and launcher: equal texts, whatever the names are."""

import shutil
import subprocess
from pathlib import Path

import pytest

from mlalign.core.errors import UserError
from mlalign.recipes import launchers, resources
from mlalign.running.slurm import batch, mends

HERE = Path(__file__).parent
ROOT = Path("/shared/project")
HOSTILE = ROOT / 'runs/it\'s 100% "x" $y/slurm'
CASES = {
    "plain": ({}, {}, {}),
    "array": (
        {"step": "answers"},
        {"tasks": 4, "gpus": 1, "cpus": 8, "memory": "64G", "time": "90 min"},
        {"requeue": False},
    ),
    "nodes": (
        {"step": "policy.r1", "distributed": True},
        {
            "nodes": 2,
            "devices": 8,
            "gpus": 1,
            "partition": "gpu",
            "account": "me",
            "sbatch": {"mail-type": "END", "exclusive": True},
        },
        {
            "preamble": ["module load cuda"],
            "environment": {"HF_HOME": "$SCRATCH/hub"},
            "grace_s": 300,
        },
    ),
    "sweep": ({"step": "policy[beta=0.1]", "run": "betas", "sweep": True}, {}, {}),
    "container": (
        {"distributed": True},
        {"devices": 2},
        {
            "prefix": ["apptainer", "exec", "my image.sif"],
            "python": "python3",
            "srun": ["--container-mounts=/a:/a"],
            "offline": False,
        },
    ),
    "hostile": (
        {
            "step": 'reward[a "b" $(c) %j]',
            "run": "it's 100% `new`\nrun",
            "folder": HOSTILE,
            "sweep": True,
            "last": True,
        },
        {"constraint": 'a&b "c"'},
        {"environment": {"A": "it's; rm -rf /", "B": '$HOME/"$(x)`y`'}},
    ),
}


def text(case: str) -> str:
    given, asked, launcher = CASES[case]
    common = {
        "step": "base",
        "run": "first",
        "folder": ROOT / "runs/first/slurm",
        "partial": ROOT / "store/sft-0123.partial",
    }
    cfg = launchers.build({"name": "slurm", "python": "/venv/bin/python", **launcher})
    return batch.script(
        batch.Job(
            **{**common, "distributed": False, **given}, source=ROOT / "source-01", resources=asked
        ),
        cfg,
    )


@pytest.mark.parametrize("case", CASES)
def test_the_text_is_the_expected_one(case):
    assert text(case) == (HERE / "expected" / f"{case}.sbatch").read_text()


@pytest.mark.parametrize("case", CASES)
def test_the_text_is_correct_shell(case, tmp_path):
    (tmp_path / "job.sh").write_text(text(case))
    if not shutil.which("shellcheck"):
        subprocess.run(["bash", "-n", tmp_path / "job.sh"], check=True, timeout=60)
        return
    done = subprocess.run(
        ["shellcheck", "-e", "SC2016", tmp_path / "job.sh"],
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


def test_what_a_person_named_adds_no_line_and_runs_nothing():
    lines = text("hostile").splitlines()
    assert [line.split(" ")[0] for line in lines[1:10]] == ["#SBATCH"] * 9
    assert not any(line.startswith("run") for line in lines)
    names, _, rest = text("hostile").partition("if ! [ -r")
    probe = (
        names
        + rest[rest.index("results()") : rest.index("end() {")]
        + 'printf "%s\\n" "$A" "$B" "$frozen"; say() { printf "%s\\n" "$@" >&2; }; helper=(say)'
    )
    said = subprocess.run(
        ["bash", "-c", probe],
        text=True,
        capture_output=True,
        env={"HOME": "/h", "PATH": "/bin"},
        check=True,
        timeout=60,
    )
    assert said.stdout.splitlines()[:2] == ["it's; rm -rf /", '/h/"$(x)`y`']
    assert said.stdout.splitlines()[2].startswith(str(HOSTILE))
    assert said.stderr.splitlines() == [
        "-m",
        "mlalign",
        "results",
        f"name={HOSTILE.parent.name}",
        f"root={ROOT}",
    ]  # at the end, nothing else


def test_a_line_end_in_a_path_is_refused():
    cfg = launchers.build({"name": "slurm"})
    job = batch.Job("a", "b", Path("/x\ny"), Path("/p"), Path("/s"), {}, False)
    with pytest.raises(UserError, match="control characters"):
        batch.script(job, cfg)


def test_file_names_of_unlike_steps_are_unlike():
    assert batch.file_name("reward[eng_Latn]") == "reward[eng_Latn]"
    assert batch.file_name("a b") != batch.file_name("a_b")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"partion": "gpu"}, "launcher.partion: unknown key; did you mean 'partition'"),
        ({"time": "soon"}, "launcher.time: expected hours:minutes:seconds"),
        ({"memory": "64 GB"}, "launcher.memory: expected a size such as 64G"),
        ({"grace_s": 1}, "launcher.grace_s: must be at least 10"),
        ({"environment": {"A B": "x"}}, "launcher.environment.A B: not a variable's name"),
        ({"sbatch": {"x y": 1}}, "launcher.sbatch: 'x y' is not a long option"),
        ({"name": "slrum"}, "launcher.name: there is no launcher 'slrum'; did you mean 'slurm'"),
    ],
)
def test_a_misspelt_launcher_is_told_with_the_mend(given, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        launchers.build({"name": "slurm", **given})


def test_resources_are_checked_with_the_step_that_asks():
    given = {"nodes": 2, "tasks": 3, "gpu": 1, "time": 43200, "devices": True}
    found = resources.problems(given, "steps.a.resources", distributed=False, sharded=False)
    assert found == [
        "steps.a.resources.nodes: this stage runs as one process, got 2",
        "steps.a.resources.tasks: this stage does not work in shards, got 3",
        "steps.a.resources.gpu: unknown key; did you mean 'gpus'?",
        (
            "steps.a.resources.time: expected hours:minutes:seconds in quotes ('12:00:00',"
            " '2-00:00:00', '90 min'), got 43200; YAML reads a bare 12:00:00 as a number: quote it"
        ),
        "steps.a.resources.devices: expected a whole number from 1, got True",
    ]


def test_the_strongest_key_that_set_a_resource_is_named():
    root = {
        "launcher": {"partition": "a", "resources": {"sft": {"partition": "b"}}},
        "scale": {"resources": {"sft": {"gpus": 8}}},
    }
    assert resources.set_by("partition", root, "score", "marks", {}) == "launcher.partition"
    assert (
        resources.set_by("partition", root, "sft", "base", {}) == "launcher.resources.sft.partition"
    )
    assert (
        resources.set_by("partition", root, "sft", "base", {"partition": "c"})
        == "steps.base.resources.partition"
    )
    assert resources.set_by("gpus", root, "sft", "base", {}) == "scale.resources.sft.gpus"
    assert resources.set_by("qos", root, "sft", "base", {}) is None


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
            "a GPU's memory is full",
        ),
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0",
            "the node's memory that the job asked for is full",
        ),
        ("OSError: [Errno 28] No space left on device", "a disk is full"),
        (
            "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp",
            "could not talk to each other",
        ),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: '/data/x.jsonl'",
            "a file is missing",
        ),
        ("ModuleNotFoundError: No module named 'trl'", "environment lacks something"),
        (
            "error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01 DUE TO TIME LIMIT ***",
            "the time limit leaves no room",
        ),
        ("LocalEntryNotFoundError: outgoing traffic has been disabled", "mlalign fetch"),
    ],
)
def test_the_likely_mend_is_told(said, mend):
    assert mend in mends.mend(said)


def test_an_explanation_fits_on_a_screen_and_carries_no_control_characters():
    lines = [f"line {i} \x1b[31mred\x07" for i in range(500)]
    told = mends.explanation(
        "base ended with status 1: job 7 on n1",
        "bad\nluck",
        "/x/base-7.log",
        lines,
        [f"s{i}" for i in range(40)],
    )
    assert len(told.splitlines()) <= 24
    assert "line 499" in told and "cancelled with it: s0, s1" in told
    assert told.replace("\n", "").isprintable()
