"""The shortest recipe in which a reward model's language and DPO's beta matter, on the smallest
data that works.
"""

import subprocess

from helpers import run_here

SHARED = """
params: {beta: 0.1, source_language: eng_Latn, n: 4, learning_rate: 5.0e-4}
steps:
  preferences: {stage: prepare, config: {kind: preference, sources: "${data.preferences}"}}
  prompts: {stage: prepare, config: {kind: prompt, sources: "${data.prompts}", languages: "${languages}"}}
  reward:
    stage: reward
    inputs: {model: {path: "${model.path}"}, rows: preferences}
    config:
      languages: ["${params.source_language}"]
      card_rows: 8
      batch_size: 8
      device_batch_size: 8
      trainer: {learning_rate: 1.0e-3, num_train_epochs: 2, warmup_steps: 0}
  candidates:
    stage: generate
    inputs: {model: {path: "${model.path}"}, rows: prompts}
    config: {split: train, temperature: 2.0, n: "${params.n}"}
  scores: {stage: score, inputs: {rows: candidates, scorers: [reward]}}
  pairs: {stage: pairs, inputs: {rows: candidates, scores: scores}, config: {score: reward, args: {wrong_language: "off"}}}
"""
OWN = """
  policy:
    stage: preference
    inputs: {model: {path: "${model.path}"}, rows: pairs, reference: {path: "${model.path}"}}
    config: {beta: "${params.beta}", trainer: {learning_rate: "${params.learning_rate}", num_train_epochs: 1, warmup_steps: 0}}
  answers: {stage: generate, inputs: {model: policy, rows: prompts}, config: {split: eval, temperature: 1.0, n: 2}}
  marks: {stage: score, inputs: {rows: answers, scorers: [{family: verifier}]}}
  metrics: {stage: evaluate, inputs: {rows: answers, scores: marks}}
"""
# The same in two rounds; the policy of a round goes on from that of the round before. `base` is
# stood in for.
LOOP = """
  base: {stage: sft, inputs: {model: {path: "${model.path}"}, rows: preferences}}
rounds:
  count: 2
  init: {policy: base}
  steps:
""" + "\n".join(
    f"  {line}"
    for line in (
        OWN.strip("\n")
        .replace(
            'model: {path: "${model.path}"}, rows: pairs', "model: previous.policy, rows: pairs"
        )
        .split("\n")
    )
)
DATA = """
root: null
languages: [eng_Latn, spa_Latn, swh_Latn, hin_Deva]
preferences: [{adapter: tiny_world, split: train, options: {n: 24}}]
prompts: [{adapter: tiny_world, split: train, options: {n: 10}}, {adapter: tiny_world, split: eval, options: {n: 8}}]
"""


class Lean:
    """A folder with the recipe and the data, and the command line on it."""

    def __init__(self, root):
        self.root = root
        for name in ("recipe", "data"):
            (root / "conf" / name).mkdir(parents=True)
        (root / "conf/recipe/lean.yaml").write_text(SHARED + OWN)
        (root / "conf/recipe/loop.yaml").write_text(SHARED + LOOP)
        (root / "conf/data/lean.yaml").write_text(DATA)

    def call(self, command, *arguments) -> subprocess.CompletedProcess:
        own = (
            ["recipe=lean", "data=lean", "engine=transformers", "conf_dir=conf"]
            if command != "results"
            else []
        )
        return run_here(self.root, command, *own, f"root={self.root}", *arguments)
