"""The family `classifier` against what people score with today, on the same model and rows.

  python benchmarks/scoring.py [--pairs 5] [--rows 100] [--prompts 4] [--ours transformers vllm]
                               [--device cpu] [--dtype float32] [--data FOLDER] [--model DIR]

Precision and length limit are the same too. Two workloads: `hh`, both sides of HH-RLHF pairs
(`--rows` of them), and `best_of_16`, `--prompts` prompts of 500 to 600 tokens with 16 answers of 50
tokens each. The model is a random Qwen3 classifier of 29 M parameters, drawn from a seed, with a
BPE tokenizer trained on the rows. Peers: `loop` does what rewardbench's pipeline does (file order,
chosen and rejected sides in batches of 8, padded on the left to the longest, masked); `pipeline` is
transformers' `text-classification` with batch_size=8. They get rendered texts ready made; ours
render too. Every side is a process that loads its model once; all sides take turns. Scores must
agree within 1e-4 in float32.

  rows/s       conversations scored per second, median over turns; ratio to each peer with its 95%
               bootstrap interval over turns
  CPU time     the same per second of CPU time, which other work on the machine disturbs less
  start        seconds to import and load, which the rates leave out
  utilisation  2 x parameters (without embeddings) x tokens/s over the matrix peak of the same
               machine. Tokens are those of the conversations, so what is read once for many counts
               for each (`effective`); `read` counts it once

Passes when the lower end of the interval over `loop` reaches 2 (transformers) and 3 (vLLM) on
`hh`, and 8 for the better one on `best_of_16`.
"""

import argparse
import itertools
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
    done = subprocess.run(
        command(options, "prepare"), check=True, stdout=subprocess.PIPE, text=True
    )
    facts = json.loads(done.stdout.splitlines()[-1])
    sides = {name: Side(name, options) for name in [*options.ours, "loop", "pipeline"]}
    n_threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(
        f"{facts['parameters'] / 1e6:.1f} M parameters without embeddings, {options.dtype},"
        f" {n_threads} threads"
    )
    peaks = [f"{name} {flops / 1e9:.0f} GFLOP/s" for name, flops in facts["peak"].items()]
    print("matrix peak:", ", ".join(peaks))
    starts = [f"{name} {side.start:.1f} s" for name, side in sides.items()]
    print("start:", ", ".join(starts))

    passed = []
    for workload in options.workloads:
        measured = turns(workload, sides, options)
        check_scores(measured, options)
        show_speeds(workload, facts, measured)
        passed.append(show_ratios(workload, facts, options, measured))
    for side in sides.values():
        side.close()
    print("passes" if all(passed) else "fails")


def turns(workload: str, sides: dict, options: argparse.Namespace) -> dict[str, list[dict]]:
    """What each side measured in each turn, after one that warms up; who begins changes."""
    measured: dict[str, list[dict]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(options.pairs + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            record = sides[name].measure(workload)
            if turn > 0:
                measured[name].append(record)
    return measured


def check_scores(measured: dict[str, list[dict]], options: argparse.Namespace) -> None:
    expected = measured["loop"][0]["scores"]
    worst = 0.0
    for records in measured.values():
        for a, b in zip(records[0]["scores"], expected, strict=True):
            worst = max(worst, abs(a - b))
    print(f"\nlargest difference between two sides' scores: {worst:.1e}")
    assert options.dtype != "float32" or worst < TOLERANCE, "the sides gave different scores"


def show_speeds(workload: str, facts: dict, measured: dict[str, list[dict]]) -> None:
    n_rows = facts[workload]["rows"]
    n_tokens = facts[workload]["tokens"]
    n_read = facts[workload]["read"]
    print(
        f"{workload}: {n_rows} conversations, {n_tokens} tokens, {n_read} without beginnings that"
        " were read before"
    )
    flops_per_token = 2 * facts["parameters"]
    peak = max(facts["peak"].values())
    for name, records in measured.items():
        speed = statistics.median(n_tokens / record["seconds"] for record in records)
        utilisation = flops_per_token * speed / peak
        read = ""
        if name == "transformers":
            read = f", read {utilisation * n_read / n_tokens:.0%}"
        print(
            f"  {name}: {speed * n_rows / n_tokens:.1f} rows/s, {speed:.0f} tokens/s, utilisation"
            f" {utilisation:.0%} (effective){read}"
        )


def show_ratios(
    workload: str, facts: dict, options: argparse.Namespace, measured: dict[str, list[dict]]
) -> bool:
    """Print our speed over each peer's; whether the one over `loop` reaches its bound."""
    n_rows = facts[workload]["rows"]
    passed = []
    for name in options.ours:
        for peer in ("loop", "pipeline"):
            for label, clock in (("", "seconds"), (", CPU time", "cpu_seconds")):
                ours = [n_rows / record[clock] for record in measured[name]]
                theirs = [n_rows / record[clock] for record in measured[peer]]
                print(pairs.summary(f"  {name} over {peer}{label}", ours, theirs, "rows/s"))
                if peer == "loop" and clock == "seconds":
                    _, low, _ = pairs.ratio(ours, theirs)
                    passed.append(low >= BOUNDS[workload][name])
    if workload == "best_of_16":
        return any(passed)
    return all(passed)


def command(options: argparse.Namespace, side: str) -> list[str]:
    return [sys.executable, __file__, *sys.argv[1:], "--work", str(options.work), "--side", side]


class Side:
    """A process that scores a workload on request."""

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
    open_side = {"loop": loop, "pipeline": pipeline}.get(options.side, ours)
    score = open_side(options)
    workloads = {}
    for name in options.workloads:
        workloads[name] = json.loads((options.work / f"{name}.json").read_text())
    print(json.dumps({"side": options.side}), flush=True)
    for line in sys.stdin:
        workload = workloads[line.strip()]
        wall = time.perf_counter()
        cpu = time.process_time()
        scores = score(workload)
        record = {
            "side": options.side,
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "scores": scores,
        }
        print(json.dumps(record), flush=True)


def ours(options: argparse.Namespace):
    import reward_models

    if options.side == "vllm" and options.device == "cpu":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    scorer = reward_models.load(
        folder(options), backend=options.side, dtype=options.dtype, max_length=MAX_LENGTH
    )

    def run(workload: dict) -> list[float]:
        if hasattr(scorer.score_items.outputs, "_llm"):
            # Otherwise the next turn would reuse the prefixes of the last one.
            scorer.score_items.outputs._llm.reset_prefix_cache()
        return scorer.score(workload["rows"])

    return run


def loop(options: argparse.Namespace):
    """As rewardbench's pipeline: batches of 8 in file order, padded on the left, truncated."""
    import torch

    model, tokenizer = plain(options)
    tokenizer.padding_side = tokenizer.truncation_side = "left"

    def score(texts: list[str]) -> list[float]:
        batch = tokenizer(
            texts,
            padding="longest",
            truncation=True,
            max_length=MAX_LENGTH,
            add_special_tokens=False,
            return_tensors="pt",
        ).to(model.device)
        with torch.no_grad():
            outputs = model(batch["input_ids"], attention_mask=batch["attention_mask"])
        return outputs.logits[:, 0].float().tolist()

    def run(workload: dict) -> list[float]:
        scores = []
        for texts in workload["texts"]:
            of_texts = []
            for start in range(0, len(texts), BATCH):
                of_texts += score(texts[start : start + BATCH])
            scores.append(of_texts)
        return in_order(scores, workload)

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

    def run(workload: dict) -> list[float]:
        scores = []
        for texts in workload["texts"]:
            outputs = classify(
                texts, function_to_apply="none", truncation=True, max_length=MAX_LENGTH
            )
            scores.append([output["score"] for output in outputs])
        return in_order(scores, workload)

    return run


def plain(options: argparse.Namespace) -> tuple:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(
        folder(options), dtype=getattr(torch, options.dtype)
    )
    return model.to(options.device).eval(), AutoTokenizer.from_pretrained(folder(options))


def in_order(scores: list[list[float]], workload: dict) -> list[float]:
    """Scores in the order of our rows, where the two sides of a pair follow each other."""
    if not workload["interleaved"]:
        return scores[0]
    return list(itertools.chain.from_iterable(zip(*scores, strict=True)))


def folder(options: argparse.Namespace) -> Path:
    return options.model or options.work / "model"


# -------------------------------------------------------------------------------------- preparation


def prepare(options: argparse.Namespace) -> dict:
    """Writes the model and the workloads; returns their sizes and the machine's matrix peak."""
    import torch

    rows = scoring_rows.transcripts(options.data, options.rows)
    if options.model is None:
        scoring_rows.save_model(folder(options), scoring_rows.sentences(rows))
    model, tokenizer = plain(argparse.Namespace(**{**vars(options), "device": "cpu"}))
    n_embeddings = model.get_input_embeddings().weight.numel()
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    facts = {"parameters": n_parameters - n_embeddings, "peak": peak(torch, options)}

    workloads = {
        "hh": scoring_rows.hh(rows, tokenizer),
        "best_of_16": scoring_rows.best_of_16(options.prompts, rows, tokenizer),
    }
    for name in options.workloads:
        (options.work / f"{name}.json").write_text(json.dumps(workloads[name]))
        texts = list(itertools.chain.from_iterable(workloads[name]["texts"]))
        facts[name] = scoring_rows.sizes(texts, tokenizer, MAX_LENGTH)
    return facts


def peak(torch, options: argparse.Namespace, n: int = 2048) -> dict[str, float]:
    """The best of five large matrix products, FLOP/s: torch's, and on the CPU oneDNN's too."""
    place = {"dtype": getattr(torch, options.dtype), "device": options.device}
    a = torch.randn(n, n, **place)
    b = torch.randn(n, n, **place)
    products = {"torch": lambda: a @ b}
    if options.device == "cpu" and options.dtype == "float32":
        products["oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    peaks = {}
    for name, product in products.items():
        fastest = min(seconds(product, torch, options) for _ in range(5))
        peaks[name] = 2 * n**3 / fastest
    return peaks


def seconds(product, torch, options: argparse.Namespace) -> float:
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    wait()
    begun = time.perf_counter()
    product()
    wait()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
