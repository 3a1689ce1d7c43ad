"""The family `classifier` against what people score with today: same model, rows, precision and
length limit.

  python benchmarks/scoring.py [--pairs 5] [--rows 100] [--prompts 4] [--ours transformers vllm]
  [--device cpu] [--dtype float32]
                               [--data FOLDER] [--model DIR]

Two workloads: `hh`, both sides of HH-RLHF pairs (`--rows` of them), and `best_of_16`, `--prompts`
prompts of 500 to 600 tokens with 16 answers of 50 tokens each. The model is a random Qwen3
classifier of 29 M parameters, drawn from a seed, with a BPE tokenizer trained on the rows. Peers:
`loop` does what rewardbench's pipeline does (file order, chosen and rejected sides in batches of 8,
padded on the left to the longest, masked); `pipeline` is transformers' `text-classification` with
batch_size=8. They get rendered texts ready made; ours render too. Every side is a process that
loads its model once; all sides take turns. Scores must agree within 1e-4 in float32.

  rows/s       conversations scored per second, median over turns; ratio to each peer with its 95% bootstrap interval over turns
  CPU time     the same per second of CPU time, which other work on the machine disturbs less
  start        seconds to import and load, stated apart
  utilisation  2 x parameters (embeddings left out) x tokens/s over the matrix peak of the same
  machine. Tokens are those of the
               conversations, so what is read once for many counts for each (`effective`); `read`
               counts it once

Passes when the lower end of the interval over `loop` reaches 2 (transformers) and 3 (vLLM) on `hh`,
8 for the better one on `best_of_16`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pairs
import scoring_rows

BATCH = 8  # rows in a peer's batch
MAX_LENGTH = 1024
TOLERANCE = 1e-4
BOUNDS = {
    "hh": {"transformers": 2.0, "vllm": 3.0},
    "best_of_16": {"transformers": 8.0, "vllm": 8.0},
}


def main() -> None:
    options = parsed()
    if options.side:
        serve(options)
    else:
        with tempfile.TemporaryDirectory() as work:
            options.work = options.work or Path(work)
            compare(options)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"pairs": 5, "rows": 100, "prompts": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--ours", nargs="+", choices=["transformers", "vllm"], default=["transformers", "vllm"]
    )
    parser.add_argument("--workloads", nargs="+", choices=list(BOUNDS), default=list(BOUNDS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument(
        "--model", type=Path, help="a classifier with a chat template, instead of the random one"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("MLALIGN_TEST_DATA", "../shared/data")) / "hh_harmless",
    )
    parser.add_argument("--work", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser.parse_args()


# --------------------------------------------------------------------------------------- comparison


def compare(options: argparse.Namespace) -> None:
    facts = json.loads(
        subprocess.run(
            command(options, "prepare"), check=True, stdout=subprocess.PIPE, text=True
        ).stdout.splitlines()[-1]
    )
    names = [*options.ours, "loop", "pipeline"]
    sides = {name: Side(name, options) for name in names}
    print(
        f"{facts['parameters'] / 1e6:.1f} M parameters without embeddings, {options.dtype},"
        f" {os.environ.get('OMP_NUM_THREADS', 'all')} threads"
    )
    print(
        "matrix peak:",
        ", ".join(f"{name} {value / 1e9:.0f} GFLOP/s" for name, value in facts["peak"].items()),
    )
    print("start:", ", ".join(f"{name} {side.start:.1f} s" for name, side in sides.items()))
    passed = [
        report(work, facts, options, turns(work, sides, options)) for work in options.workloads
    ]
    for side in sides.values():
        side.close()
    print("passes" if all(passed) else "fails")


def turns(workload: str, sides: dict, options: argparse.Namespace) -> dict[str, list[dict]]:
    """What each side measured in each turn; who begins changes; one turn before them warms up."""
    measured: dict[str, list[dict]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(options.pairs + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            measured[name].append(sides[name].measure(workload))
    return {name: told[1:] for name, told in measured.items()}


def report(
    workload: str, facts: dict, options: argparse.Namespace, measured: dict[str, list[dict]]
) -> bool:
    rows, tokens = facts[workload]["rows"], facts[workload]["tokens"]
    print(
        f"\n{workload}: {rows} conversations, {tokens} tokens, {facts[workload]['read']} without"
        " beginnings that were read before"
    )
    worst = max(
        abs(a - b)
        for told in measured.values()
        for a, b in zip(told[0]["scores"], measured["loop"][0]["scores"], strict=True)
    )
    print(f"largest difference between two sides' scores: {worst:.1e}")
    assert options.dtype != "float32" or worst < TOLERANCE, "the sides gave different scores"
    peak = max(facts["peak"].values())
    for name, told in measured.items():
        speed = statistics.median(tokens / t["seconds"] for t in told)
        per_token, share = 2 * facts["parameters"], facts[workload]["read"] / tokens
        read = f", read {per_token * speed * share / peak:.0%}" if name == "transformers" else ""
        print(
            f"  {name}: {speed * rows / tokens:.1f} rows/s, {speed:.0f} tokens/s, utilisation"
            f" {per_token * speed / peak:.0%} (effective){read}"
        )
    reached = {}
    for name in options.ours:
        for peer in ("loop", "pipeline"):
            for label, clock in (("", "seconds"), (", CPU time", "cpu_seconds")):
                ours, theirs = ([rows / t[clock] for t in measured[side]] for side in (name, peer))
                print(pairs.told(f"  {name} over {peer}{label}", ours, theirs, "rows/s"))
                reached.setdefault(name, pairs.ratio(ours, theirs)[1])
    bounds = BOUNDS[workload]
    found = [reached[name] >= bounds[name] for name in options.ours]
    return any(found) if workload == "best_of_16" else all(found)


def command(options: argparse.Namespace, side: str) -> list[str]:
    return [sys.executable, __file__, *sys.argv[1:], "--work", str(options.work), "--side", side]


class Side:
    """A process that scores a workload whenever it is told to."""

    def __init__(self, name: str, options: argparse.Namespace):
        begun = time.perf_counter()
        with open(options.work / f"{name}.log", "w") as log:
            self._process = subprocess.Popen(
                command(options, name),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._read()
        self.start = time.perf_counter() - begun

    def measure(self, workload: str) -> dict:
        self._process.stdin.write(workload + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict:
        """The next line that is ours; libraries print too."""
        for line in self._process.stdout:
            if line.startswith('{"side"'):
                return json.loads(line)
        raise SystemExit(
            f"a side ended early: {self._process.args}; see its log with --work FOLDER"
        )


# -------------------------------------------------------------------------------------------- sides


def serve(options: argparse.Namespace) -> None:
    if options.side == "prepare":
        print(json.dumps(prepare(options)))
        return
    opened = {"loop": loop, "pipeline": pipeline}.get(options.side, ours)(options)
    work = {
        name: json.loads((options.work / f"{name}.json").read_text()) for name in options.workloads
    }
    print(json.dumps({"side": options.side}), flush=True)
    for line in sys.stdin:
        told = work[line.strip()]
        begun, cpu = time.perf_counter(), time.process_time()
        scores = opened(told)
        seconds = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}
        print(json.dumps({"side": options.side, **seconds, "scores": scores}), flush=True)


def ours(options: argparse.Namespace):
    import reward_models

    if options.side == "vllm" and options.device == "cpu":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    scorer = reward_models.load(
        folder(options), backend=options.side, dtype=options.dtype, max_length=MAX_LENGTH
    )

    def run(told: dict) -> list[float]:
        if hasattr(scorer.score_items.outputs, "_llm"):
            # or the next turn would find the last one's
            scorer.score_items.outputs._llm.reset_prefix_cache()
        return scorer.score(told["rows"])

    return run


def loop(options: argparse.Namespace):
    """As rewardbench's pipeline: batches of 8 in file order, one list of texts after the other,
    padded on the left, truncated.
    """
    import torch

    model, tokenizer = plain(options)
    tokenizer.padding_side = tokenizer.truncation_side = "left"

    def run(told: dict) -> list[float]:
        found = []
        for texts in told["texts"]:
            out = []
            for at in range(0, len(texts), BATCH):
                batch = tokenizer(
                    texts[at : at + BATCH],
                    padding="longest",
                    truncation=True,
                    max_length=MAX_LENGTH,
                    add_special_tokens=False,
                    return_tensors="pt",
                ).to(model.device)
                with torch.no_grad():
                    out += (
                        model(batch["input_ids"], attention_mask=batch["attention_mask"])
                        .logits[:, 0]
                        .float()
                        .tolist()
                    )
            found.append(out)
        return in_order(found, told)

    return run


def pipeline(options: argparse.Namespace):
    """`text-classification` with the raw output."""
    from transformers import pipeline as make

    model, tokenizer = plain(options)
    classify = make(
        "text-classification",
        model=model,
        tokenizer=tokenizer,
        device=model.device,
        batch_size=BATCH,
    )

    def run(told: dict) -> list[float]:
        told_of = [
            classify(texts, function_to_apply="none", truncation=True, max_length=MAX_LENGTH)
            for texts in told["texts"]
        ]
        return in_order([[t["score"] for t in found] for found in told_of], told)

    return run


def plain(options: argparse.Namespace) -> tuple:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(
        folder(options), dtype=getattr(torch, options.dtype)
    )
    return model.to(options.device).eval(), AutoTokenizer.from_pretrained(folder(options))


def in_order(found: list[list[float]], told: dict) -> list[float]:
    """Scores in the order in which our rows have them: the sides of a pair stand beside each other."""
    return (
        [score for row in zip(*found, strict=True) for score in row]
        if told["interleaved"]
        else found[0]
    )


def folder(options: argparse.Namespace) -> Path:
    return options.model or options.work / "model"


# -------------------------------------------------------------------------------------- preparation


def prepare(options: argparse.Namespace) -> dict:
    """Writes the model and the workloads; returns their sizes and the machine's matrix peak."""
    import torch

    rows = scoring_rows.transcripts(options.data, options.rows)
    if options.model is None:
        scoring_rows.save_model(
            folder(options), [m["content"] for row in rows for m in row["chosen"]]
        )
    model, tokenizer = plain(argparse.Namespace(**{**vars(options), "device": "cpu"}))
    embeddings = model.get_input_embeddings().weight.numel()
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()) - embeddings,
        "peak": peak(torch, options),
    }

    def rendered(messages: list[dict]) -> str:
        return tokenizer.apply_chat_template(messages, tokenize=False)

    work = {
        "hh": {
            "rows": rows,
            "texts": [[rendered(row[side]) for row in rows] for side in ("chosen", "rejected")],
            "interleaved": True,
        },
        "best_of_16": scoring_rows.best_of(options.prompts, rows, tokenizer),
    }
    answers = [(row, r) for row in work["best_of_16"]["rows"] for r in row["responses"]]
    work["best_of_16"]["texts"] = [
        [
            rendered(
                [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": r}]
            )
            for row, r in answers
        ]
    ]
    for name in options.workloads:
        (options.work / f"{name}.json").write_text(json.dumps(work[name]))
        facts[name] = sizes([text for texts in work[name]["texts"] for text in texts], tokenizer)
    return facts


def sizes(texts: list[str], tokenizer) -> dict[str, int]:
    from reward_models.networks import prefix

    ids = [tuple(i[-MAX_LENGTH:]) for i in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    distinct = sorted(set(ids))
    read = sum(map(len, distinct)) - sum(g.saved for g in prefix.groups(distinct))
    return {"rows": len(ids), "tokens": sum(map(len, ids)), "read": read}


def peak(torch, options: argparse.Namespace, n: int = 2048) -> dict[str, float]:
    """The best of five large matrix products, FLOP/s: torch's, and on the CPU oneDNN's too."""
    a, b = (
        torch.randn(n, n, dtype=getattr(torch, options.dtype), device=options.device)
        for _ in range(2)
    )
    products = {"torch": lambda: a @ b}
    if options.device == "cpu" and options.dtype == "float32":
        products["oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return {
        name: 2 * n**3 / min(seconds(product, torch, options) for _ in range(5))
        for name, product in products.items()
    }


def seconds(product, torch, options: argparse.Namespace) -> float:
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    wait()
    begun = time.perf_counter()
    product()
    wait()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
