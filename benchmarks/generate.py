"""The generate stage against bare `vllm.LLM` on the same prompts, seeds and sampling parameters.

  python benchmarks/generate.py [--pairs 5] [--languages 2] [--prompts 1024] [--n 4] [--max-tokens
  64] [--temperature 1.5] [--model DIR]

Each side runs in a process of its own and starts its own engine; pairs are interleaved. The peer is
given token ids and seeds ready made, makes one call with all requests and throws the text away.
Ours reads Parquet, renders, tokenises, makes one call per shard (1,024 prompts of one language at
most) and writes candidates. Both produce the same text, which is checked.

  generation    tokens/s without starting and closing the engine; ours includes reading, rendering, tokenising, hashing and writing
  CPU time      the same per second of CPU time, which other work on the machine disturbs less
  end to end    tokens/s from the start of the process to its end

Passes when the interval of the generation ratio reaches 0.95.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pairs

import mlalign
from mlalign.core import rows, schema, stage, store
from mlalign.data import tiny_world
from mlalign.stages import generate

BOUND = 0.95
TINY = Path(mlalign.__file__).parent / "data" / "tiny"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {
        "pairs": 5,
        "languages": 2,
        "prompts": 1024,
        "n": 4,
        "max-tokens": 64,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--temperature", type=float, default=1.5)
    parser.add_argument("--max-model-len", type=int, default=256)
    parser.add_argument("--model", default=str(TINY))
    parser.add_argument("--side", choices=["prepare", "ours", "peer"])
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(SIDES[options.side](options)))
        return
    with tempfile.TemporaryDirectory() as work:
        compare(options, Path(work))


def compare(options: argparse.Namespace, work: Path) -> None:
    records: dict[str, list[dict]] = {"ours": [], "peer": []}

    def measure(side: str) -> float:
        start = time.perf_counter()
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--work", str(work)]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        told = json.loads(done.stdout.splitlines()[-1])
        records.setdefault(side, []).append(
            {**told, "end_to_end": told["tokens"] / (time.perf_counter() - start)}
        )
        return told["tokens"] / told["seconds"] if "seconds" in told else 0.0

    measure("prepare")
    ours, peer = pairs.interleaved(lambda: measure("ours"), lambda: measure("peer"), options.pairs)
    assert len({r["digest"] for side in ("ours", "peer") for r in records[side]}) == 1, (
        "the two sides gave different text"
    )
    print(
        f"{records['ours'][0]['responses']} responses, {records['ours'][0]['tokens']} tokens; the"
        " same text on both sides"
    )
    print(pairs.told("generation", ours, peer, "tokens/s"))
    print(
        pairs.told(
            "CPU time",
            *(
                [r["tokens"] / r["cpu_seconds"] for r in records[side][1:]]
                for side in ("ours", "peer")
            ),
            "tokens/s",
        )
    )
    print(
        pairs.told(
            "end to end",
            *([r["end_to_end"] for r in records[side][1:]] for side in ("ours", "peer")),
            "tokens/s",
        )
    )
    print("passes" if pairs.ratio(ours, peer)[2] >= BOUND else f"fails: below {BOUND}")


def config(options: argparse.Namespace) -> generate.Config:
    engine = {"name": "vllm", "args": {"max_model_len": options.max_model_len}}
    values = {
        "n": options.n,
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "engine": engine,
    }
    return schema.build(generate.Config, values)


def prepare(options: argparse.Namespace) -> dict:
    """Prompts as rows for us, and as token ids with seeds for the peer, in the same order."""
    from mlalign.models.engine import chat

    with rows.ShardWriter(options.work / "rows", "prompt") as writer:
        for row in tiny_world.rows(
            "prompts", tiny_world.LANGUAGES[: options.languages], options.prompts
        ):
            writer.write(
                {
                    **row,
                    "source": "tiny_world",
                    "id": rows.row_id("tiny_world", row["key"], row["prompt_lang"]),
                }
            )
    model = stage.external_model({"path": options.model})
    tokenizer = chat.load_tokenizer(model)
    sampler = generate.sampler(config(options), model)["fingerprint"]
    given = [
        row
        for shard in rows.shards(options.work / "rows")
        for row in sorted(rows.read_shard(shard), key=lambda r: r["id"])
    ]
    ids = chat.token_ids(
        tokenizer, [chat.render(tokenizer, row["prompt"], {}, row["id"]) for row in given]
    )
    names = [[rows.candidate_id(row["id"], sampler, i) for i in range(options.n)] for row in given]
    requests = [
        (name, tokens) for of_row, tokens in zip(names, ids, strict=True) for name in of_row
    ]
    store.write_json(
        options.work / "requests.json",
        {"ids": [n for n, _ in requests], "prompts": [t for _, t in requests]},
    )
    return {"tokens": 0}


def ours(options: argparse.Namespace) -> dict:
    root = Path(tempfile.mkdtemp(dir=options.work))
    (root / "generate.partial").mkdir()
    out = stage.Output(root / "generate.partial", store.Store(root))
    inputs = stage.Inputs(
        out.store, {"rows": {"path": str(options.work / "rows")}, "model": {"path": options.model}}
    )
    apart = timed_starts()
    start = clocks()
    generate.run(config(options), inputs, out)
    seconds = since(start) - np.sum(apart, axis=0)
    responses = [r for row in rows.read(out.path) for r in row["responses"]]
    return {
        **timing(seconds),
        **told({r["candidate_id"]: (r["text"], r["n_tokens"]) for r in responses}),
    }


def clocks() -> np.ndarray:
    """Wall-clock and CPU seconds of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def since(start: np.ndarray) -> np.ndarray:
    return clocks() - start


def timing(seconds: np.ndarray) -> dict[str, float]:
    return {"seconds": seconds[0], "cpu_seconds": seconds[1]}


def timed_starts() -> list[np.ndarray]:
    """Seconds (`clocks`) that the stage spends on loading its tokenizer and on starting and closing
    its engine, filled in as it runs.
    """
    from mlalign.models import engine
    from mlalign.models.engine import chat

    spent = []

    def timed(function):
        def call(*arguments):
            start = clocks()
            result = function(*arguments)
            spent.append(since(start))
            return result

        return call

    def opened(*arguments):
        found = start_engine(*arguments)
        found.close = timed(found.close)
        return found

    start_engine = timed(engine.open_engine)
    engine.open_engine = opened
    chat.load_tokenizer, chat.context_length = (
        timed(chat.load_tokenizer),
        timed(chat.context_length),
    )
    return spent


def peer(options: argparse.Namespace) -> dict:
    import os

    from mlalign.models.engine.vllm import CPU_ARGUMENTS, CPU_ENVIRONMENT

    for name, value in CPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import torch
    from vllm import LLM, SamplingParams

    on_cpu = {"dtype": "float32", **CPU_ARGUMENTS} if torch.cuda.device_count() == 0 else {}
    llm = LLM(
        options.model, max_model_len=options.max_model_len, enable_prefix_caching=True, **on_cpu
    )
    given = store.read_json(options.work / "requests.json")
    start = clocks()
    common = {"max_tokens": options.max_tokens, "temperature": options.temperature}
    parameters = [SamplingParams(seed=rows.seed_of(name), **common) for name in given["ids"]]
    outputs = llm.generate(
        [{"prompt_token_ids": p} for p in given["prompts"]], parameters, use_tqdm=False
    )
    seconds = since(start)
    answers = [o.outputs[0] for o in outputs]
    return {
        **timing(seconds),
        **told({n: (a.text, len(a.token_ids)) for n, a in zip(given["ids"], answers, strict=True)}),
    }


def told(answers: dict[str, tuple[str, int]]) -> dict:
    digest = hashlib.sha256(json.dumps(sorted(answers.items())).encode()).hexdigest()
    return {
        "responses": len(answers),
        "tokens": sum(n for _, n in answers.values()),
        "digest": digest,
    }


SIDES = {"prepare": prepare, "ours": ours, "peer": peer}

if __name__ == "__main__":
    main()
