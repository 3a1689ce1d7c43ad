"""The generate stage against bare `vllm.LLM` on the same prompts, seeds and sampling parameters.

  python benchmarks/generate.py [--pairs 5] [--languages 2] [--prompts 1024] [--n 4]
                                [--max-tokens 64] [--temperature 1.5] [--model DIR]

Each side runs in a process of its own and starts its own engine; pairs are interleaved. The peer
gets token ids and seeds ready made, makes one call with all requests and throws the text away.
Ours reads Parquet, renders, tokenises, makes one call per shard (at most 1,024 prompts of one
language) and writes candidates. Both must produce the same text.

  generation    tokens/s without starting and closing the engine; ours includes reading,
                rendering, tokenising, hashing and writing
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
    defaults = {"pairs": 5, "languages": 2, "prompts": 1024, "n": 4, "max-tokens": 64}
    for name, default in defaults.items():
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
        record = run_side(side, work)
        record["end_to_end"] = record["tokens"] / (time.perf_counter() - start)
        records[side].append(record)
        return record["tokens"] / record["seconds"]

    run_side("prepare", work)
    ours, peer = pairs.interleaved(lambda: measure("ours"), lambda: measure("peer"), options.pairs)
    first = records["ours"][0]
    for record in [*records["ours"], *records["peer"]]:
        assert record["digest"] == first["digest"], "the two sides gave different text"
        record["per_cpu_second"] = record["tokens"] / record["cpu_seconds"]
    print(f"{first['responses']} responses, {first['tokens']} tokens; the same text on both sides")
    print(pairs.summary("generation", ours, peer, "tokens/s"))
    for name, key in (("CPU time", "per_cpu_second"), ("end to end", "end_to_end")):
        # The first of each was the warm-up.
        of_ours = [record[key] for record in records["ours"][1:]]
        of_peer = [record[key] for record in records["peer"][1:]]
        print(pairs.summary(name, of_ours, of_peer, "tokens/s"))
    _, _, high = pairs.ratio(ours, peer)
    print("passes" if high >= BOUND else f"fails: below {BOUND}")


def run_side(side: str, work: Path) -> dict:
    """What one side prints at the end of a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--work", str(work)]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


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
    from mlalign.models.templates import ChatTemplate

    languages = tiny_world.LANGUAGES[: options.languages]
    with rows.ShardWriter(options.work / "rows", "prompt") as writer:
        for row in tiny_world.rows("prompts", languages, options.prompts):
            row_id = rows.row_id("tiny_world", row["key"], row["prompt_lang"])
            writer.write({**row, "source": "tiny_world", "id": row_id})

    model = stage.external_model({"path": options.model})
    tokenizer = chat.load_tokenizer(model)
    template = ChatTemplate(tokenizer)
    sampler = generate.sampler(config(options), model)["fingerprint"]
    requests: dict[str, list] = {"ids": [], "prompts": []}
    for shard in rows.shards(options.work / "rows"):
        for row in sorted(rows.read_shard(shard), key=lambda row: row["id"]):
            text = template.prompt(row["prompt"], row["id"])
            (token_ids,) = chat.token_ids(tokenizer, [text])
            for i in range(options.n):
                requests["ids"].append(rows.candidate_id(row["id"], sampler, i))
                requests["prompts"].append(token_ids)
    store.write_json(options.work / "requests.json", requests)
    return {}


def ours(options: argparse.Namespace) -> dict:
    root = Path(tempfile.mkdtemp(dir=options.work))
    (root / "generate.partial").mkdir()
    out = stage.Output(root / "generate.partial", store.Store(root))
    inputs = stage.Inputs(
        out.store, {"rows": {"path": str(options.work / "rows")}, "model": {"path": options.model}}
    )
    starts = timed_starts()
    begun = clocks()
    generate.run(config(options), inputs, out)
    seconds = since(begun) - np.sum(starts, axis=0)
    answers = {}
    for row in rows.read(out.path):
        for response in row["responses"]:
            answers[response["candidate_id"]] = (response["text"], response["n_tokens"])
    return {**timing(seconds), **facts(answers)}


def clocks() -> np.ndarray:
    """Wall-clock and CPU seconds of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def since(start: np.ndarray) -> np.ndarray:
    return clocks() - start


def timing(seconds: np.ndarray) -> dict[str, float]:
    return {"seconds": seconds[0], "cpu_seconds": seconds[1]}


def timed_starts() -> list[np.ndarray]:
    """Seconds (`clocks`) that loading the tokenizer and starting and closing the engine take.

    The list is filled while the stage runs.
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

    def open_timed(*arguments):
        opened = start_engine(*arguments)
        opened.close = timed(opened.close)
        return opened

    start_engine = timed(engine.open_engine)
    engine.open_engine = open_timed
    chat.load_tokenizer = timed(chat.load_tokenizer)
    chat.context_length = timed(chat.context_length)
    return spent


def peer(options: argparse.Namespace) -> dict:
    import os

    from mlalign.models.engine.vllm import CPU_ARGUMENTS, CPU_ENVIRONMENT

    for name, value in CPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import torch
    from vllm import LLM, SamplingParams

    arguments = {"max_model_len": options.max_model_len, "enable_prefix_caching": True}
    if torch.cuda.device_count() == 0:
        arguments |= {"dtype": "float32", **CPU_ARGUMENTS}
    llm = LLM(options.model, **arguments)
    requests = store.read_json(options.work / "requests.json")

    begun = clocks()
    common = {"max_tokens": options.max_tokens, "temperature": options.temperature}
    parameters = [SamplingParams(seed=rows.seed_of(name), **common) for name in requests["ids"]]
    prompts = [{"prompt_token_ids": token_ids} for token_ids in requests["prompts"]]
    outputs = llm.generate(prompts, parameters, use_tqdm=False)
    seconds = since(begun)

    answers = {}
    for name, output in zip(requests["ids"], outputs, strict=True):
        answer = output.outputs[0]
        answers[name] = (answer.text, len(answer.token_ids))
    return {**timing(seconds), **facts(answers)}


def facts(answers: dict[str, tuple[str, int]]) -> dict:
    """Counts of answers and tokens, and a digest of all (candidate, text, tokens)."""
    digest = hashlib.sha256(json.dumps(sorted(answers.items())).encode()).hexdigest()
    n_tokens = sum(n for _, n in answers.values())
    return {"responses": len(answers), "tokens": n_tokens, "digest": digest}


SIDES = {"prepare": prepare, "ours": ours, "peer": peer}

if __name__ == "__main__":
    main()
