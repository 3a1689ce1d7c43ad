"""What `rm-score score` costs besides the model, with a family that costs nothing (length).

  python benchmarks/scoring_files.py [ROWS] [PAIRS]

Prints the peak memory at 10,000 rows and at ROWS (1,000,000) for every pair of formats; rows/s
beside a plain loop over JSON lines (read, parse, score, write; no checks, nothing kept when
killed), in interleaved pairs; and what chat template and tokenizer of the embedded tiny model cost
on the same rows. Each measurement is a process of its own, and includes its start.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pairs import interleaved, summary

PROJECT = Path(__file__).resolve().parent.parent
SMALL = 10_000
N_TOKENISED = 20_000
PEER = """
import json, sys
with open(sys.argv[1], encoding="utf-8") as rows, open(sys.argv[2], "w", encoding="utf-8") as out:
    for line in rows:
        row = json.loads(line)
        row["score"] = float(len(row["response"]))
        out.write(json.dumps(row, ensure_ascii=False) + "\\n")
"""


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    n_pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        small = folder / "small"
        large = folder / "large"
        in_process(make, small, SMALL)
        in_process(make, large, n)
        for source in ("jsonl", "parquet"):
            for target in ("jsonl", "parquet"):
                _, small_peak = score(folder, small, source, target)
                seconds, peak = score(folder, large, source, target)
                growth = peak / small_peak - 1
                print(
                    f"{source} -> {target}: peak {small_peak:.0f} MB at {SMALL:,} rows,"
                    f" {peak:.0f} MB at {n:,} ({growth:+.1%}); {n / seconds:,.0f} rows/s"
                )

        ours, peer = interleaved(
            lambda: score(folder, large, "jsonl", "jsonl")[0],
            lambda: loop(folder, large),
            n_pairs,
            warm_up=False,
        )
        print(summary(f"{n:,} rows of JSON lines", ours, peer, "s"))
        print(f"rows/s: ours {n / min(ours):,.0f}, peer {n / min(peer):,.0f}")
        rate = tokenised(small)
        print(f"chat template and tokenizer of the tiny model: {rate:,.0f} rows/s")


def in_process(work: Callable, *arguments: object) -> None:
    """Run in a process of its own, so that this one stays small.

    The peak memory of a process begins with that of the one that starts it.
    """
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def make(name: Path, n: int) -> None:
    """A JSONL and a Parquet file of `n` short rows, `name` with an ending."""
    import pyarrow.json
    import pyarrow.parquet as pq

    with open(f"{name}.jsonl", "w", encoding="utf-8") as file:
        for i in range(n):
            row = {
                "id": f"r{i}",
                "prompt": f"Which number is the largest: {i} {i % 7} {i % 13}?",
                "response": f"The largest number is {max(i, i % 13)}.",
                "language": "eng_Latn",
                "source": "numbers",
            }
            file.write(json.dumps(row) + "\n")
    pq.write_table(pyarrow.json.read_json(f"{name}.jsonl"), f"{name}.parquet")


def score(folder: Path, name: Path, source: str, target: str) -> tuple[float, float]:
    """(seconds, peak MB) of scoring a file."""
    output = folder / f"out.{target}"
    files = ["--input", f"{name}.{source}", "--output", str(output)]
    command = ["-m", "reward_models", "score", "--family", "length", *files, "--quiet"]
    seconds, peak = measured(command)
    output.unlink()
    output.with_name(output.name + ".json").unlink()
    return seconds, peak


def loop(folder: Path, name: Path) -> float:
    """Seconds of the plain loop."""
    seconds, _ = measured(["-c", PEER, f"{name}.jsonl", str(folder / "peer.jsonl")])
    return seconds


def measured(arguments: list[str]) -> tuple[float, float]:
    """(seconds, peak MB) of a Python process."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], cwd=PROJECT, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, arguments
    return time.perf_counter() - start, used.ru_maxrss / 1024


def tokenised(name: Path) -> float:
    """Rows/s of rendering and tokenising alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(PROJECT / "mlalign" / "data" / "tiny")
    with open(f"{name}.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file] * (N_TOKENISED // SMALL)
    start = time.perf_counter()
    texts = []
    for row in rows:
        question = {"role": "user", "content": row["prompt"]}
        answer = {"role": "assistant", "content": row["response"]}
        texts.append(tokenizer.apply_chat_template([question, answer], tokenize=False))
    tokenizer(texts, add_special_tokens=False)
    return len(rows) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
