"""Small rows, and a training stage run on them without a planner."""

import importlib
from pathlib import Path

import mlalign
from mlalign.core import rows, schema, stage
from mlalign.core.store import Store

TINY = Path(mlalign.__file__).parent / "data" / "tiny"
LANGUAGES = ("eng_Latn", "swh_Latn")
TEXTS = {
    "eng_Latn": ("What is {} plus {}?", "It is {}."),
    "swh_Latn": ("{} na {} ni ngapi?", "Ni {}."),
}
FAST = {"batch_size": 8, "max_length": 64, "trainer": {"learning_rate": 1e-3, "max_steps": 4}}


def common(language: str, key: str, split: str) -> dict:
    return {
        "id": rows.row_id("sums", key, language),
        "group_id": key,
        "prompt_lang": language,
        "source": "sums",
        "origin": "synthetic",
        "split": split,
    }


def answer(text: str) -> list[dict]:
    return rows.messages(text, "assistant")


def write(folder: Path, kind: str, n_train: int = 16, n_eval: int = 4, **more) -> Path:
    """Sums in two languages as rows of `kind`; `more` goes into every row."""
    with rows.ShardWriter(folder, kind) as writer:
        for language in LANGUAGES:
            question, reply = TEXTS[language]
            for i in range(n_train + n_eval):
                ask, right, wrong = (
                    question.format(i, i + 2),
                    reply.format(2 * i + 2),
                    reply.format(i),
                )
                whole = {
                    "prompt": rows.messages(ask),
                    "text": f"{ask} {right}",
                    "chosen": answer(right),
                    "rejected": answer(wrong),
                    "completion": answer(right if i % 2 else wrong),
                    "label": bool(i % 2),
                    "response_lang": language,
                    **more,
                }
                columns = rows.COLUMNS[kind]
                writer.write(
                    {
                        **common(language, str(i), "train" if i < n_train else "eval"),
                        **{c: whole.get(c) for c in columns},
                    }
                )
    return folder


def config(name: str, **values):
    merged = {**FAST, **values, "trainer": {**FAST["trainer"], **values.get("trainer", {})}}
    return schema.build(importlib.import_module(f"mlalign.stages.{name}").Config, merged, "c")


class StopAt(stage.Output):
    """Is asked to stop at a step."""

    step_to_stop = 2

    def progress(self, done, total, unit, **options):
        super().progress(done, total, unit, **options)
        if done == self.step_to_stop:
            (self.path / "STOP").touch()


def train(
    name: str,
    source: Path,
    root: Path,
    model: Path = TINY,
    kind=stage.Output,
    reference: Path | None = None,
    **values,
) -> stage.Output:
    """Run a stage in `root`; a second call in the same place goes on."""
    module, store = importlib.import_module(f"mlalign.stages.{name}"), Store(root)
    partial = root / f"{name}-test.partial"
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "STOP").unlink(missing_ok=True)
    slots = {
        "rows": {"path": str(source)},
        "model": {"path": str(model)},
        "reference": reference and {"path": str(reference)},
    }
    out = kind(partial, store, name)
    module.run(config(name, **values), stage.Inputs(store, slots), out)
    return out


def losses(out: stage.Output) -> list[float]:
    return [loss for _, loss in out.notes["train"]["log"]]
