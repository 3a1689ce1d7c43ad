"""`plan` lists what it needs of the hub, `fetch` brings it, and then everything works without
network. Against a small local hub.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from helpers import PROJECT
from hub_server import commit_of, serving

pytestmark = pytest.mark.slow

TINY = PROJECT / "mlalign" / "data" / "tiny"
RECIPE = """
steps:
  rows: {{stage: prepare, config: {{kind: demonstration, sources: [{{hub: org/rows, revision: {commit}, language: eng_Latn}}]}}}}
  base: {{stage: sft, inputs: {{model: {{path: "${{model.path}}"}}, rows: rows}}}}
  answers: {{stage: generate, inputs: {{model: base, rows: rows}}}}
  marks: {{stage: score, inputs: {{rows: answers, scorers: [{{family: length, unit: tokens, path: org/tokens}}, {{family: translation, metric: chrf}}]}}}}
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Repositories: org/tiny (with what must not be fetched), org/tokens, org/adapter on org/tiny,
    org/old without safetensors, org/rows.
    """
    root = tmp_path_factory.mktemp("hub")
    tiny = root / "models" / "org" / "tiny"
    shutil.copytree(TINY, tiny)
    for name in (
        "pytorch_model.bin",
        "modeling_tiny.py",
        "original/consolidated.00.pth",
        "tf_model.h5",
    ):
        (tiny / name).parent.mkdir(exist_ok=True)
        (tiny / name).write_bytes(b"x" * 1000)
    shutil.copytree(TINY, root / "models" / "org" / "tokens")
    adapter = root / "models" / "org" / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "org/tiny", "peft_type": "LORA"}'
    )
    (adapter / "adapter_model.safetensors").write_bytes(b"0" * 50)
    (adapter / "tokenizer.json").write_text("{}")
    old = root / "models" / "org" / "old"
    shutil.copytree(TINY, old, ignore=shutil.ignore_patterns("*.safetensors"))
    (old / "pytorch_model.bin").write_bytes(b"x" * 10)
    rows = root / "datasets" / "org" / "rows"
    rows.mkdir(parents=True)
    lines = [
        {"prompt": f"How much is {i} + 1?", "completion": f"It is {i + 1}."} for i in range(40)
    ]
    (rows / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (rows / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: train.jsonl\n---\n"
    )
    with serving(root) as (address, seen):
        yield root, address, seen


@pytest.fixture
def at(hub, tmp_path):
    """`at("plan", …)` is the command line with an empty cache of its own; `offline=True` without a
    hub.
    """
    root, address, _ = hub
    (tmp_path / "conf" / "recipe").mkdir(parents=True)
    (tmp_path / "conf" / "recipe" / "mine.yaml").write_text(
        RECIPE.format(commit=commit_of(root / "datasets" / "org" / "rows"))
    )

    def environment(offline):
        env = {
            **os.environ,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": address,
            "PYTHONPATH": str(PROJECT),
            "HF_HUB_DISABLE_XET": "1",
        }
        if offline:
            code = (
                "from mlalign.running.hub import offline_environment as e; print(*(f'{k}={v}' for"
                " k, v in e().items()), sep='\\n')"
            )
            told = subprocess.run(
                [sys.executable, "-c", code], env=env, text=True, capture_output=True, check=True
            ).stdout
            env |= dict(line.split("=", 1) for line in told.splitlines())
            env["HF_ENDPOINT"] = "http://127.0.0.1:9"
        return env

    def call(command, *arguments, offline=False, model="org/tiny"):
        given = [
            "recipe=mine",
            f"conf_dir={tmp_path / 'conf'}",
            f"root={tmp_path}",
            f"model={model}",
            *arguments,
        ]
        full = [sys.executable, "-m", "mlalign", command, *given]
        return subprocess.run(
            full,
            env=environment(offline),
            cwd=tmp_path,
            text=True,
            capture_output=True,
            timeout=240,
            check=False,
        )

    call.environment = environment
    call.cache = tmp_path / "hf" / "hub"
    return call


def test_fetched_once_then_all_works_offline(at, hub):
    root, _, seen = hub
    commit = commit_of(root / "models" / "org" / "tiny")
    planned = at("plan")
    assert planned.returncode == 0, planned.stderr
    told = planned.stdout
    assert f"missing model org/tiny @{commit[:12]}, for base" in told
    assert "missing tokenizer org/tokens" in told and "missing data set org/rows" in told
    done = at("fetch")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if " org/tiny " in line).split()
    assert line[:4] == [
        "model",
        "org/tiny",
        commit[:12],
        str(len([p for p in TINY.iterdir() if p.is_file()])),
    ]
    names = {p.name for p in (at.cache / "models--org--tiny" / "snapshots" / commit).rglob("*")}
    assert names == {p.name for p in TINY.iterdir() if p.is_file()}
    tokens = [
        p.name for p in (at.cache / "models--org--tokens" / "snapshots").rglob("*") if p.is_file()
    ]
    assert "tokenizer.json" in tokens and not [n for n in tokens if n.endswith(".safetensors")]
    assert "40 rows" in done.stdout
    seen.clear()
    again = at("fetch")
    assert again.returncode == 0 and "in all 0 B fetched" in again.stdout
    assert not [
        asked for asked in seen if asked.startswith("GET") and asked.endswith(".safetensors")
    ]
    plan = at("plan", offline=True)
    assert plan.returncode == 0 and "missing" not in plan.stdout.split("hub (cache")[1], plan.stdout
    run = at("run", "only=rows", offline=True)
    assert run.returncode == 0 and "40 rows" in run.stdout, run.stdout + run.stderr
    code = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T;"
        " print(M.from_pretrained('org/tiny').num_parameters(),"
        " T.from_pretrained('org/tokens')('a'))"
    )
    opened = subprocess.run(
        [sys.executable, "-c", code],
        env=at.environment(offline=True),
        text=True,
        capture_output=True,
        check=False,
    )
    assert opened.returncode == 0 and "input_ids" in opened.stdout, opened.stderr


def test_an_adapter_brings_its_base_and_old_weights_come_where_there_are_no_others(at, tmp_path):
    (tmp_path / "conf" / "recipe" / "mine.yaml").write_text(
        "steps:\n  a: {stage: prepare, config: {kind: prompt, sources: '${data.prompts}'}}\n"
        "  b: {stage: generate, inputs: {model: {path: org/adapter}, rows: a}}\n"
        "  c: {stage: generate, inputs: {model: {path: org/old}, rows: a}}\n"
    )
    done = at("fetch")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[1]: line for line in done.stdout.splitlines()[1:-1]}
    assert set(rows) == {"org/adapter", "org/old", "org/tiny"} and rows["org/old"].endswith(
        "no safetensors: PyTorch weights"
    )
    assert [p.name for p in (at.cache / "models--org--old").rglob("*.bin")] == ["pytorch_model.bin"]


@pytest.mark.parametrize(
    ("model", "offline", "told"),
    [
        ("org/none", False, "org/none"),
        ("org/tiny", True, "not in the hub cache"),
    ],
)
def test_what_cannot_be_had_is_one_message(at, model, offline, told):
    done = at("fetch", model=model, offline=offline)
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr
    assert "mlalign fetch" in done.stderr


@pytest.mark.long
def test_a_revision_that_is_not_there_and_a_hub_that_went_away(at, hub):
    done = at("fetch", f"model.revision={'ab' * 20}")
    assert (
        done.returncode == 1
        and f"no revision {'ab' * 20}" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert "data set   org/rows" in done.stdout  # the rest is fetched all the same
    gone = at("fetch", f"model.revision={'ab' * 20}", offline=True)
    assert gone.returncode == 1 and "this needs a machine that reaches the hub" in gone.stderr
