"""Finished runs for the report: rows and manifests written as steps write them, and tables that the
stage `evaluate` made of them.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import yaml

from mlalign import stages
from mlalign.core import rows, stage, store
from mlalign.recipes.config import load
from mlalign.running import step
from mlalign.stages import report

# What a model, a person or a data set may put into a text, a name or a title.
HOSTILE = (
    "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>",
    "</script><script>window.pwned = 3</script><!-- <script>",
    "</title></style></textarea><svg onload=window.pwned=4><iframe src='https://evil.example/'>",
    "{{ 7 * 7 }} {% include 'x' %} {# #} ${7*7} <%= 7 %>",
    'javascript:window.pwned=5 "\'` onmouseover=window.pwned=6 x="',
    "before \u202eafter\u202c \u2066isolated \u200bzero\u200b width \ufeff \U000e0041",
    "nul \x00 bell \x07 escape \x1b[31m delete \x7f next \x85 line \u2028 end",
    "w" * 1400,
    "Z" + "\u0327\u0301\u0300\u0302\u0303" * 60 + "algo",
    "شكرا <b>جزيلا</b> abc 123 \u202eشكرا",
    "]]> --> &amp; &#x3c;script> \\u003cscript\\u003e",
)

NAMES = ("verifier", "language_adherence", "reward")

Text = Callable[
    [str, int, str], str
]  # language, number of the item, "prompt" | "before" | "after" -> text


class Run:
    """A run under construction in `root`; its steps by name."""

    def __init__(self, root: Path):
        self.store, self.refs = store.Store(root), {}

    def add(
        self,
        name: str,
        stage_name: str,
        kind: str,
        inputs: dict,
        write: Callable[[Path], None] = lambda path: None,
        **told,
    ) -> None:
        """A finished step whose content `write` writes."""
        module, print_ = stages.load(stage_name), store.fingerprint({"step": name})
        partial = self.store.partial(stage_name, print_)
        partial.mkdir(parents=True)
        write(partial)
        (partial / "config.yaml").write_text(yaml.safe_dump({"config": {"seed": 0, "note": "a<b"}}))
        digests = {
            slot: (
                [self._digest(v) for v in value] if isinstance(value, list) else self._digest(value)
            )
            for slot, value in inputs.items()
        }
        manifest = {
            "step": name,
            "stage": stage_name,
            "stage_version": module.VERSION,
            "fingerprint": print_,
            "kind": kind,
            "status": "done",
            "inputs": digests,
            "rows_by_language": {},
            "dropped": {},
            "sums": {},
            "packages": {"pyarrow": "1"},
            "seed": 0,
            "sources": [{"source": "made", "licence": "CC0-1.0", "sensitive": False}],
            "started": 10.0,
            "finished": 12.5,
        }
        store.finish(partial, {**manifest, **told})
        self.refs[name] = {"artifact": f"{stage_name}-{print_[:16]}", "step": name}

    def evaluate(self, name: str, inputs: dict, **config) -> None:
        """A real step of the stage `evaluate`."""
        print_ = store.fingerprint({"step": name})
        partial = self.store.partial("evaluate", print_)
        partial.mkdir(parents=True)
        slots = {
            slot: [self.refs[v] for v in value] if isinstance(value, list) else self.refs[value]
            for slot, value in inputs.items()
        }
        told = {
            "step": name,
            "stage": "evaluate",
            "fingerprint": print_,
            "inputs": slots,
            "config": config,
            "run": {"name": "made"},
        }
        (partial / "config.yaml").write_text(yaml.safe_dump(told))
        assert step.main([str(partial / "config.yaml")]) == 0
        self.refs[name] = {"artifact": f"evaluate-{print_[:16]}", "step": name}

    def report(
        self, target: Path, name: str = "made", recipe: str = "reuse_your_rewards", **config
    ) -> Path:
        """The files of the report on all steps, in `target`."""
        target.mkdir(parents=True)
        out = stage.Output(
            target,
            self.store,
            step="report",
            run={"name": name, "recipe": recipe, "about": load([f"recipe={recipe}"]).about},
        )
        report.run(
            report.Config(**config),
            stage.Inputs(self.store, {"steps": list(self.refs.values())}),
            out,
        )
        return target

    def _digest(self, value: str | dict) -> dict:
        if isinstance(value, dict):
            return value
        manifest = store.read_json(self.store.root / self.refs[value]["artifact"] / "manifest.json")
        return {
            "step": value,
            "fingerprint": manifest["fingerprint"],
            "content_digest": manifest["content_digest"],
        }


def shards(
    path: Path, kind: str, by_language: dict[str, list[dict]], scores: Sequence[str] = ()
) -> None:
    for code, told in by_language.items():
        rows.write_shard(path / "rows" / rows.shard_name(code, "eval", 0), kind, told, scores)


def before_and_after(
    root: Path,
    codes: Sequence[str],
    n: int,
    text: Text,
    *,
    source: str = "made",
    sensitive: bool = False,
) -> Run:
    """A run of a base and a policy that is right more often, with pairs, curves and both
    evaluations; `n` prompts per language.
    """
    run, random_ = Run(root), random.Random(0)
    sources = {"sources": [{"source": source, "licence": "CC0-1.0", "sensitive": sensitive}]}
    count = {"rows_by_language": dict.fromkeys(codes, n)}
    curve = [
        {"step": i, "loss": 1 / (1 + i / 20) + random_.random() / 9, "grad_norm": random_.random()}
        for i in range(1, 121)
    ]
    run.add(
        "prompts",
        "prepare",
        "rows",
        {},
        **sources,
        **count,
        dropped={"duplicate": dict.fromkeys(codes, 2)},
    )
    run.add(
        "base",
        "sft",
        "model",
        {"model": {"path": "/models/tiny", "identity": "f" * 64}},
        lambda p: store.write_json(p / "log_history.json", curve),
    )
    for model, answers, marks, right in (
        ("base", "answers_before", "marks_before", 0.55),
        ("policy", "answers", "marks", 0.75),
    ):
        if model == "policy":
            run.add(
                "pairs",
                "pairs",
                "rows",
                {"rows": "answers_before"},
                lambda p: _pairs(p, codes, n),
                dropped={"tie": dict.fromkeys(codes, 1)},
                score="reward",
                **count,
            )
            run.add(
                model,
                "preference",
                "model",
                {"model": "base", "rows": "pairs"},
                lambda p: store.write_json(p / "log_history.json", curve),
            )
        made = {code: _answers(code, n, text, source, answers, random_) for code in codes}
        run.add(
            answers,
            "generate",
            "rows",
            {"model": model, "rows": "prompts"},
            lambda p, made=made: shards(p, "candidates", made),
            **sources,
            **count,
        )
        scored = {code: _marks(told, right, random_, codes) for code, told in made.items()}
        run.add(
            marks,
            "score",
            "scores",
            {"rows": answers},
            lambda p, scored=scored: shards(p, "scores", scored, NAMES),
            **count,
        )
    run.evaluate(
        "metrics_before", {"rows": ["answers_before"], "scores": ["marks_before"]}, n_bootstrap=100
    )
    run.evaluate(
        "metrics",
        {
            "rows": ["answers"],
            "scores": ["marks"],
            "baseline": ["answers_before"],
            "baseline_scores": ["marks_before"],
        },
        n_bootstrap=100,
    )
    return run


def _common(code: str, i: int, source: str) -> dict:
    return {
        "id": f"{code}{i}",
        "group_id": f"g{i}",
        "prompt_lang": code,
        "source": source,
        "origin": "native",
        "split": "eval",
    }


def _answers(
    code: str, n: int, text: Text, source: str, step_name: str, random_: random.Random
) -> list[dict]:
    when = "before" if step_name.endswith("before") else "after"
    return [
        {
            **_common(code, i, source),
            "prompt": rows.messages(text(code, i, "prompt")),
            "response_lang_requested": code,
            "reference": None,
            "responses": [
                {
                    "candidate_id": f"{step_name}{code}{i}",
                    "text": text(code, i, when),
                    "n_tokens": random_.randint(4, 60),
                }
            ],
        }
        for i in range(n)
    ]


def _marks(
    answers: Iterable[dict], right: float, random_: random.Random, codes: Sequence[str]
) -> list[dict]:
    found = []
    for row in answers:
        good, stays = random_.random() < right, random_.random() < right + 0.2
        found.append(
            {
                **{k: row[k] for k in rows.COMMON},
                "candidate_id": row["responses"][0]["candidate_id"],
                "response_lang_detected": row["prompt_lang"] if stays else random_.choice(codes),
                "score.verifier": float(good),
                "score.language_adherence": float(stays),
                "score.reward": random_.gauss(good, 1),
            }
        )
    return found


def _pairs(path: Path, codes: Sequence[str], n: int) -> None:
    random_ = random.Random(1)
    made = {}
    for code in codes:
        values = [(random_.gauss(1, 1), random_.gauss(-1, 1)) for _ in range(n)]
        sides = {
            "prompt": rows.messages("p"),
            "chosen": rows.messages("c"),
            "rejected": rows.messages("r"),
        }
        made[code] = [
            {
                **_common(code, i, "made"),
                **sides,
                "margin": a - b,
                "score_chosen": a,
                "score_rejected": b,
            }
            for i, (a, b) in enumerate(values)
        ]
    shards(path, "preference", made)


def add_transfer(run: Run, codes: Sequence[str], n: int, n_bootstrap: int = 50) -> None:
    """Verdicts of one reward model per language on `n` preference rows in each language, and their
    evaluation.
    """
    random_ = random.Random(2)
    names = tuple(f"reward[{code}]" for code in codes)
    skill = {s: {t: 0.6 + 0.35 * random_.random() for t in codes} for s in codes}

    def verdicts(code: str) -> list[dict]:
        found = []
        for i in range(n):
            scores = {f"score.reward[{s}]": float(random_.random() < skill[s][code]) for s in codes}
            row = _common(code, i, "made")
            found.append({**row, "candidate_id": rows.side_id(row["id"], "chosen"), **scores})
            found.append(
                {
                    **row,
                    "candidate_id": rows.side_id(row["id"], "rejected"),
                    **dict.fromkeys(scores, 0.5),
                }
            )
        return found

    run.add(
        "verdicts",
        "score",
        "scores",
        {},
        lambda p: shards(p, "scores", {code: verdicts(code) for code in codes}, names),
    )
    run.evaluate("transfer", {"scores": ["verdicts"]}, n_bootstrap=n_bootstrap)
