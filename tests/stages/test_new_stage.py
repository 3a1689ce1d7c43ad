"""A new stage is one file: what it declares is enough to plan it, estimate it, run it, warn of what
it counts, and start it from the command line.
"""

import sys

import pytest
from helpers import PROJECT, run_here

from mlalign import stages
from mlalign.core.store import read_json
from mlalign.planner import estimate
from mlalign.recipes import config, plan

STAGE = '''"""Fine-tuning by gradient descent on one answer at a time.

Reads a model and demonstrations; writes `model/`.
"""

import dataclasses
from typing import Any

from mlalign.core import rows
from mlalign.core.alarms import Dropped
from mlalign.core.schema import what
from mlalign.core.stage import Inputs, Output
from mlalign.models.training.config import Objective, TrainConfig

VERSION = 1
KIND = "model"
SLOTS = {"model": "model", "rows": "rows"}
SHARDED = None
DISTRIBUTED = False
WORK = "training"
ALARMS = (Dropped("too_short", "lower least_characters"),)


@dataclasses.dataclass
class Config(TrainConfig):
    least_characters: int = what(1, "shorter answers are left out")
    trainer: dict[str, Any] = what({}, "learning_rate")


def accepts(cfg: Config) -> dict[str, tuple[str, ...]]:
    return {"rows": ("demonstration",)}


def objective(cfg: Config) -> Objective:
    return Objective(learning_rate=1e-2)


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = inputs.model("model").path
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    optimizer = torch.optim.SGD(model.parameters(), cfg.trainer.get("learning_rate", 1e-2))
    for row in rows.read(inputs.rows("rows"), cfg.split, cfg.languages):
        text = rows.text_of(row["completion"])
        if len(text) < cfg.least_characters:
            out.tally.drop("too_short", row["prompt_lang"])
            continue
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        out.tally.keep(row["prompt_lang"])
    model.save_pretrained(out.path / "model")
    tokenizer.save_pretrained(out.path / "model")
'''
RECIPE = """
steps:
  rows:
    stage: prepare
    config:
      kind: demonstration
      sources: [{adapter: tiny_world, split: train, options: {n: 4, mix: {right: 1.0}}}]
      max_rows_per_language: 4
      eval_frac: 0.0
      languages: [eng_Latn, swh_Latn]
  policy:
    stage: descent
    inputs: {model: {path: "${model.path}"}, rows: rows}
    config: {batch_size: 4, max_length: 32, trainer: {num_train_epochs: 1}}
"""
SETTINGS = ("recipe=descent", "conf_dir=conf", "model=tiny", "data=tiny_world", "scale=tiny")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a recipe for a stage whose file was just added."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/descent.py").write_text(STAGE)
    (tmp_path / "conf/recipe").mkdir(parents=True)
    (tmp_path / "conf/recipe/descent.yaml").write_text(RECIPE)
    monkeypatch.setattr(stages, "__path__", [*stages.__path__, str(tmp_path / "stages")])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("mlalign.stages.descent", None)


def planned(*arguments):
    return plan.build(config.load([*SETTINGS, *arguments]))


def test_it_is_planned_and_estimated(folder):
    built = planned("scale.device={peak_tflops: 1, utilization: 0.4}")
    rows, policy = estimate.of_plan(built)
    assert rows.memory is None and rows.note == estimate.SMALL
    assert policy.memory == policy.tensors.total() > 4 * policy.tensors["weights"] > 0
    assert policy.basis == "at most 8 rows of 32 tokens, by the scale's rate"

    settings = ("dtype=bfloat16", "trainer.learning_rate=1.0e-5")
    in_bfloat16 = planned(*(f"steps.policy.config.{setting}" for setting in settings))
    policy = estimate.of_plan(in_bfloat16)[1]
    assert "most updates are lost at learning_rate=1e-05" in policy.warnings[0]


def test_its_settings_and_inputs_are_checked(folder):
    done = run_here(folder, "plan", *SETTINGS, "steps.policy.config.least_character=2")
    assert "did you mean 'least_characters'" in done.stderr
    done = run_here(folder, "plan", *SETTINGS, "steps.rows.config.kind=preference")
    assert "rows gives preference rows; descent reads demonstration rows here" in done.stderr


def test_it_is_a_command_of_its_own(folder):
    shown = run_here(folder, "descent", "--help")
    assert "least_characters" in shown.stdout
    done = run_here(folder, "descent", "model=tiny", "rows=nowhere", "dry=true")
    assert "steps.descent.inputs.rows: nowhere is no rows artifact" in done.stderr


@pytest.mark.slow
def test_it_runs_and_what_it_counts_is_warned_of(folder):
    import torch
    from safetensors.torch import load_file

    done = run_here(folder, "run", *SETTINGS, "steps.policy.config.least_characters=26")
    assert done.returncode == 0, done.stdout + done.stderr
    policy = folder / "runs/descent/steps/policy"
    manifest = read_json(policy / "manifest.json")
    assert manifest["stage"] == "descent" and manifest["rows_by_language"] == {
        "eng_Latn": 1,
        "swh_Latn": 1,
    }
    before = load_file(PROJECT / "mlalign/data/tiny/model.safetensors")
    after = load_file(policy / "model/model.safetensors")
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert manifest["warnings"] == [
        "3 of 4 in eng_Latn, 3 of 4 in swh_Latn rows were dropped (too_short);"
        " lower least_characters"
    ]
    assert "lower least_characters" in done.stdout + done.stderr
