"""The readers of what people and machines bring, each with valid inputs to change.

A reader may raise UserError and nothing else.

A reader is a function of (generator, empty folder): it writes or makes one changed input and reads
it as the commands do.
"""

import contextlib
import copy
import csv
import functools
import io
import json
import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from fuzz import mutation

import mlalign
from mlalign.cli.commands import gc, logs, status
from mlalign.core import claims, languages, schema, stage, store, weight_files, yaml_files
from mlalign.core.errors import UserError
from mlalign.core.model import local_model
from mlalign.models.engine import chat, replies
from mlalign.models.templates import ChatTemplate
from mlalign.recipes import config, plan
from mlalign.stages import prepare
from reward_models import __main__ as rm_score
from reward_models import card
from reward_models.judging import parsing

TINY = Path(mlalign.__file__).parent / "data" / "tiny"
Reader = Callable[[random.Random, Path], None]
TURNS = [{"role": "user", "content": "How much is 2 + 2?"}, {"role": "assistant", "content": "4"}]


def _sides(text: str) -> list[dict]:
    return [TURNS[0], {"role": "assistant", "content": text}]


# Every shape of a row that is read.
ROWS: list[dict] = [
    {"id": "1", "prompt": "How much is 2 + 2?", "response": "4", "language": "eng_Latn"},
    {"id": "2", "prompt": [TURNS[0]], "responses": ["4", "5"], "language": "swh_Latn"},
    {"id": "3", "messages": TURNS, "language": "en"},
    {"id": "4", "prompt": "?", "chosen": "4", "rejected": "5", "language": "eng_Latn"},
    {"id": "5", "chosen": _sides("4"), "rejected": _sides("5"), "language": "eng_Latn"},
    {
        "id": "6",
        "prompt": "?",
        "chosen": _sides("4"),
        "rejected": _sides("5"),
        "language": "eng_Latn",
    },
    {
        "id": "7",
        "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "4"}],
        "language": "eng_Latn",
    },
    {
        "id": "8",
        "messages": [
            TURNS[0],
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
            },
        ],
        "tools": [],
    },
    {
        "id": "9",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "?"}]}, TURNS[1]],
        "language": "eng_Latn",
    },
]


def _as_table(rng: random.Random, rows: list[dict], delimiter: str) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(
        out,
        ["id", "prompt", "response", "chosen", "rejected", "language"],
        delimiter=delimiter,
        extrasaction="ignore",
    )
    writer.writeheader()
    writer.writerows([{k: v for k, v in row.items() if isinstance(v, str)} for row in rows])
    return mutation.changed_bytes(rng, out.getvalue().encode())


def _as_parquet(rng: random.Random, rows: list[dict], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = [{k: v for k, v in row.items() if isinstance(v, str)} for row in rows]
    pq.write_table(pa.Table.from_pylist(plain), path)
    path.write_bytes(mutation.changed_bytes(rng, path.read_bytes()))


def _file_of_rows(rng: random.Random, folder: Path, endings: tuple[str, ...]) -> Path:
    ending = rng.choice(endings)
    path = folder / f"rows{ending}"
    shape = rng.choice(ROWS)
    rows = (
        [{**copy.deepcopy(shape), "id": str(i)} for i in range(3)]
        if rng.random() < 0.7
        else copy.deepcopy(ROWS)
    )
    if ending == ".parquet":
        _as_parquet(rng, rows, path)
    elif ending in (".csv", ".tsv"):
        path.write_bytes(_as_table(rng, rows, "," if ending == ".csv" else "\t"))
    elif ending == ".json":
        path.write_bytes(mutation.as_json(rng, rows))
    else:
        path.write_bytes(mutation.as_lines(rng, rows))
    return path


def _rm_score(*words: object) -> None:
    """`rm-score …` within this process; a status that no mistake gives is a failure."""
    try:
        ended = rm_score.main([str(word) for word in words])
    except SystemExit as error:
        ended = int(error.code or 0)
    if ended not in (0, 1, 2):
        raise AssertionError(f"rm-score ended with {ended}")


def scored_rows(rng: random.Random, folder: Path) -> None:
    """rm-score score, with every way of treating bad rows."""
    path = _file_of_rows(rng, folder, (".jsonl", ".json", ".parquet"))
    more = rng.choice(([], ["--on-bad-row", "skip"], ["--window", "2"]))
    _rm_score(
        "score",
        "--family",
        "length",
        "--input",
        path,
        "--output",
        folder / "out.jsonl",
        "--quiet",
        *more,
    )


def evaluated_rows(rng: random.Random, folder: Path) -> None:
    """rm-score evaluate on pairs."""
    path = _file_of_rows(rng, folder, (".jsonl", ".parquet"))
    _rm_score("evaluate", "--family", "length", "--input", path, "--output", folder / "out")


def prepared_rows(rng: random.Random, folder: Path) -> None:
    """The stage `prepare`, for every kind of row."""
    path = _file_of_rows(rng, folder, (".jsonl", ".json", ".parquet", ".csv", ".tsv"))
    kind = rng.choice(("prompt", "demonstration", "preference", "text", "unpaired", "ranking"))
    cfg = schema.build(
        prepare.Config,
        {"kind": kind, "sources": [{"path": str(path), "language": "eng_Latn"}]},
        "config",
    )
    (folder / "out").mkdir()
    out = stage.Output(folder / "out", store.Store(folder), step="rows")
    prepare.run(cfg, stage.Inputs(out.store, {}), out)


def _run(folder: Path) -> dict[str, Path]:
    """A small run in a root of its own: the files that its commands read, by name."""
    artifact, partial = folder / "store" / "prepare-00", folder / "store" / "generate-11.partial"
    run = folder / "runs" / "a"
    for path in (artifact / "rows", partial / "claims", partial / "logs", run / "slurm"):
        path.mkdir(parents=True)
    (partial / "logs" / "step.log").write_text("working\n")
    steps = [
        {
            "step": "rows",
            "stage": "prepare",
            "fingerprint": "00",
            "artifact": "prepare-00",
            "round": None,
            "inputs": [],
            "resources": {},
        },
        {
            "step": "answers",
            "stage": "generate",
            "fingerprint": "11",
            "artifact": "generate-11",
            "round": 1,
            "inputs": ["rows"],
            "resources": {"devices": 1},
        },
    ]
    manifest = {
        "step": "rows",
        "stage": "prepare",
        "stage_version": 1,
        "fingerprint": "00",
        "kind": "rows",
        "status": "done",
        "inputs": {},
        "sources": [],
        "rows_by_language": {"eng_Latn": 3},
        "dropped": {"eng_Latn": {"empty": 1}},
        "sums": {},
        "packages": {},
        "seed": 0,
        "files": {},
        "content_digest": "00",
        "started": 1.0,
        "finished": 2.0,
    }
    owner = {"pid": os.getpid(), "host": "here", "started": "1", "time": time.time()}
    frozen = {
        "step": "answers",
        "stage": "generate",
        "fingerprint": "11",
        "config": {"seed": 0},
        "inputs": {},
        "guards": [],
        "resources": {},
        "input_digests": {},
    }
    contents = {
        run / "plan.json": {
            "recipe": "candidates",
            "name": "a",
            "kind": "run",
            "languages": ["eng_Latn"],
            "steps": steps,
        },
        artifact / "manifest.json": manifest,
        partial / "progress.json": {
            "done": 1,
            "total": 3,
            "unit": "rows",
            "by_language": {"eng_Latn": 1},
            "time": time.time(),
        },
        partial / "outcome.json": {"status": 2, "message": "broken"},
        partial / "claims" / "step": owner,
        run / "slurm" / "jobs.jsonl": {
            "job": "1",
            "step": "answers",
            "artifact": "generate-11",
            "log": "logs/%j.out",
            "tasks": 1,
            "time": 1.0,
        },
    }
    for path, content in contents.items():
        path.write_text(json.dumps(content))
    (partial / "config.yaml").write_text(yaml.safe_dump(frozen))
    return {path.name: path for path in (*contents, partial / "config.yaml")}


def runs(rng: random.Random, folder: Path) -> None:
    """status, logs and gc of a run of which one file is changed."""
    files = _run(folder)
    path = files[rng.choice(sorted(files))]
    text = path.read_text()
    value = yaml.safe_load(text)
    path.write_bytes(
        mutation.as_yaml(rng, value) if path.suffix == ".yaml" else mutation.as_json(rng, value)
    )
    for command, words in (
        (status, {}),
        (status, {"name": "a"}),
        (logs, {"name": "a", "step": "answers"}),
        (gc, {}),
    ):
        with contextlib.suppress(UserError):
            command.run({"root": str(folder), **words})


def claimed(rng: random.Random, folder: Path) -> None:
    """A step whose claim is changed."""
    with claims.claim(folder, "step"):
        owners = [p for p in folder.rglob("*") if p.is_file()]
        texts = {p: p.read_text() for p in owners}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutation.as_json(rng, yaml.safe_load(text)))
    claims.refuse_owned(folder)
    with claims.claim(folder, "step"):
        pass


CARD = {
    "family": "classifier",
    "template_hash": "0123456789abcdef",
    "direction": "higher_is_better",
    "scale": "logit",
    "outputs": ["score"],
    "max_length": 512,
    "training_languages": ["eng_Latn"],
    "accuracy": {"eng_Latn": {"n": 10, "accuracy": 0.9}},
    "licence": "apache-2.0",
    "calibration": {"eng_Latn": {"n": 10, "mean": 0.0, "std": 1.0, "quantiles": [-1.0, 0.0, 1.0]}},
    "training": {"pairs": 10},
}


def cards(rng: random.Random, folder: Path) -> None:
    """The card of a reward model, read, checked and shown."""
    (folder / card.FILE).write_bytes(mutation.as_yaml(rng, CARD))
    with contextlib.suppress(UserError):
        card.read(folder)
    told = card.read_yaml(folder / card.FILE)
    card.problems(told, "card")
    _rm_score("card", "show", folder)


def scorers(rng: random.Random, folder: Path) -> None:
    """The file of a scorer."""
    judge = {
        "family": "judge",
        "mode": "scalar",
        "scale": [1, 5],
        "engine": {"name": "openai", "base_url": "http://127.0.0.1:1/v1", "served_model": "m"},
    }
    combined = {
        "family": "composite",
        "scorers": [{"family": "length"}, {"family": "repetition"}],
        "weights": {"length": 1.0},
    }
    (folder / "scorer.yaml").write_bytes(
        mutation.as_yaml(rng, rng.choice((judge, combined, {"family": "length"})))
    )
    _rm_score(
        "score",
        "--scorer",
        folder / "scorer.yaml",
        "--input",
        folder / "none.jsonl",
        "--output",
        folder / "out.jsonl",
    )


RECIPE = {
    "params": {"n": 2, "languages": ["eng_Latn", "swh_Latn"]},
    "steps": {
        "prompts": {
            "stage": "prepare",
            "config": {
                "kind": "prompt",
                "sources": "${data.prompts}",
                "languages": "${params.languages}",
            },
        },
        "answers": {
            "stage": "generate",
            "foreach": {"lang": ["eng_Latn"]},
            "inputs": {"model": {"path": "${model.path}"}, "rows": "prompts"},
            "config": {"n": "${params.n}", "temperature": 1.0, "max_tokens": 16},
            "resources": {"devices": 1},
        },
    },
    "rounds": {
        "count": 1,
        "steps": {
            "marks": {
                "stage": "score",
                "inputs": {"rows": "answers[eng_Latn]", "scorers": [{"family": "length"}]},
            }
        },
    },
    "finally": {"report": {"stage": "report", "inputs": {"steps": "*"}}},
}


def recipes(rng: random.Random, folder: Path) -> None:
    """A recipe, a language set and an argument of a plan."""
    (folder / "recipe").mkdir()
    (folder / "languages").mkdir()
    (folder / "recipe" / "mine.yaml").write_bytes(
        mutation.as_yaml(rng, RECIPE) if rng.random() < 0.7 else yaml.safe_dump(RECIPE).encode()
    )
    if rng.random() < 0.2:
        (folder / "languages" / "mine.yaml").write_bytes(
            mutation.as_yaml(rng, {"languages": ["eng_Latn", "sw"]})
        )
    words = [
        "recipe=mine",
        f"conf_dir={folder}",
        f"root={folder}",
        "data=tiny_world",
        "scale=tiny",
        "model=tiny",
        "languages=mine",
    ]
    if rng.random() < 0.3:
        key = rng.choice(
            (
                "languages",
                "params.n",
                "seed",
                "engine.args",
                "steps.answers.config.max_tokens",
                "only",
                "use.prompts",
                "name",
                "devices",
            )
        )
        value = mutation.changed_bytes(
            rng, rng.choice((b"[en,sw]", b"3", b"{a: 1}", b"'x=y'"))
        ).decode("utf-8", "replace")
        words.append(f"{key}={value}")
    plan.build(config.load(words))


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}{{"
    " raise_exception('no system') }}{% endif %}<|{{ message['role'] }}|>\n{{ message.content |"
    " trim }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@functools.cache
def _tokenizer() -> Any:
    return chat.load_tokenizer(local_model(TINY, "tiny"))


def templates(rng: random.Random, _: Path) -> None:
    """A chat template that renders changed messages."""
    text = mutation.changed_bytes(rng, TEMPLATE.encode()).decode("utf-8", "replace")
    tokenizer = _tokenizer()
    tokenizer.chat_template = text
    ChatTemplate(tokenizer).prompt(TURNS[:1], "row 1")


REPLY = {
    "id": "1",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "usage": {"completion_tokens": 3, "prompt_tokens": 2},
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"},
            "logprobs": {
                "content": [
                    {
                        "token": "4",
                        "logprob": -0.1,
                        "top_logprobs": [{"token": "4", "logprob": -0.1}],
                    }
                ]
            },
        }
    ],
}


def server_replies(rng: random.Random, _: Path) -> None:
    """The body of a server's reply."""
    with contextlib.suppress(replies.Unusable):
        said = replies.response(mutation.as_json(rng, REPLY), wants_logprobs=rng.random() < 0.5)
        said.text.encode("utf-8")


def weights(rng: random.Random, folder: Path) -> None:
    """The header of a file of weights."""
    tensors = {
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "__metadata__": {"format": "pt"},
    }
    text = mutation.as_json(rng, tensors)
    length = (
        len(text)
        if rng.random() < 0.8
        else rng.choice((0, 1, max(len(text) - 1, 0), 1 << 40, (1 << 64) - 1))
    )
    data = struct.pack("<Q", length) + text + bytes(16)
    (folder / "model.safetensors").write_bytes(
        data if rng.random() < 0.8 else data[: rng.randrange(len(data))]
    )
    weight_files.weights(folder)


NAMES = (
    "eng_Latn",
    "sw",
    "zh-TW",
    "Serbian (Latin)",
    "Deutsch",
    "العربية",
    "pt-BR",
    "en_US.UTF-8",
    "English",
    "中文（繁體）",
    "kor_Hang",
)


def language_names(rng: random.Random, _: Path) -> None:
    """A name of a language; what it means means itself."""
    text: Any = mutation.changed_bytes(rng, rng.choice(NAMES).encode()).decode("utf-8", "replace")
    code = languages.normalise(rng.choice(mutation.VALUES) if rng.random() < 0.1 else text)
    if languages.normalise(code) != code:
        raise AssertionError(f"{code!r} is not its own code")


VERDICTS = (
    '{"explanation": "Good.", "verdict": "8"}',
    "Some reasons.\nVerdict: 8",
    "**Verdict**：8/10",
    "[[8]]",
    '```json\n{"verdict": 8}\n```',
)


def verdicts(rng: random.Random, _: Path) -> None:
    """What a judge says."""
    forms = {str(n): (str(n),) for n in range(1, 11)}
    text = mutation.changed_bytes(rng, rng.choice(VERDICTS).encode()).decode("utf-8", "replace")
    label = parsing.verdict(text, forms, "Verdict:")
    if label is not None and label not in forms:
        raise AssertionError(f"{label!r} is no answer")
    (parsing.explanation(text, "Verdict:") or "").encode("utf-8")
    parsing.questions(
        mutation.as_json(rng, {"questions": ["Is it 4?", "Is it short?"]}).decode(
            "utf-8", "replace"
        ),
        4,
    )


def yaml_texts(rng: random.Random, _: Path) -> None:
    """YAML of any content."""
    yaml_files.load(
        mutation.as_yaml(rng, rng.choice((RECIPE, CARD))).decode("utf-8", "replace"), "mine.yaml"
    )


READERS: dict[str, Reader] = {
    "scored_rows": scored_rows,
    "evaluated_rows": evaluated_rows,
    "prepared_rows": prepared_rows,
    "runs": runs,
    "claims": claimed,
    "cards": cards,
    "scorers": scorers,
    "recipes": recipes,
    "templates": templates,
    "server_replies": server_replies,
    "weights": weights,
    "language_names": language_names,
    "verdicts": verdicts,
    "yaml": yaml_texts,
}
