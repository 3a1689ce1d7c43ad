"""What `rm-score score` costs besides the model: rows/s and peak memory with a family that costs
nothing (length).

  python benchmarks/scoring_files.py [ROWS] [PAIRS]

Prints the peak memory at 10,000 rows and at ROWS (1,000,000) for every pair of formats; rows/s
beside a plain loop over JSON lines (read, parse, score, write; no checks, nothing kept when
killed), in interleaved pairs; and what chat template and tokenizer of the embedded tiny model cost
on the same rows. Start of the processes is in all times; each is a process of its own.
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

from pairs import interleaved, told

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
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        sources = {size: place / f"rows{size}" for size in (SMALL, n)}
        for size, name in sources.items():
            apart(make, name, size)
        for source in ("jsonl", "parquet"):
            for target in ("jsonl", "parquet"):
                small, large = (score(place, sources[size], source, target) for size in (SMALL, n))
                growth = large[1] / small[1] - 1
                print(
                    f"{source} -> {target}: peak {small[1]:.0f} MB at {SMALL:,} rows,"
                    f" {large[1]:.0f} MB at {n:,} ({growth:+.1%}); {n / large[0]:,.0f} rows/s"
                )

        ours, peer = interleaved(
            lambda: score(place, sources[n], "jsonl", "jsonl")[0],
            lambda: loop(place, sources[n]),
            pairs,
            warm_up=False,
        )
        print(told(f"{n:,} rows of JSON lines", ours, peer, "s"))
        print(f"rows/s: ours {n / min(ours):,.0f}, peer {n / min(peer):,.0f}")
        print(
            f"chat template and tokenizer of the tiny model: {tokenised(sources[SMALL]):,.0f}"
            " rows/s"
        )


def apart(work: Callable, *arguments: object) -> None:
    """Run in a process of its own: the peak memory of a process begins with that of the one that
    starts it, so this stays small.
    """
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def make(name: Path, n: int) -> None:
    """A JSONL and a Parquet file of `n` short rows, `name` with an ending."""
    import pyarrow.json
    import pyarrow.parquet as pq

    with open(f"{name}.jsonl", "w", encoding="utf-8") as f:
        for i in range(n):
            prompt, response = (
                f"Which number is the largest: {i} {i % 7} {i % 13}?",
                f"The largest number is {max(i, i % 13)}.",
            )
            f.write(
                json.dumps(
                    {
                        "id": f"r{i}",
                        "prompt": prompt,
                        "response": response,
                        "language": "eng_Latn",
                        "source": "numbers",
                    }
                )
                + "\n"
            )
    pq.write_table(pyarrow.json.read_json(f"{name}.jsonl"), f"{name}.parquet")


def score(place: Path, name: Path, source: str, target: str) -> tuple[float, float]:
    """(seconds, peak MB) of scoring a file."""
    output = place / f"out.{target}"
    command = [
        "-m",
        "reward_models",
        "score",
        "--family",
        "length",
        "--input",
        f"{name}.{source}",
        "--output",
        str(output),
        "--quiet",
    ]
    found = measured(command)
    output.unlink()
    output.with_name(output.name + ".json").unlink()
    return found


def loop(place: Path, name: Path) -> float:
    return measured(["-c", PEER, f"{name}.jsonl", str(place / "peer.jsonl")])[0]


def measured(arguments: list[str]) -> tuple[float, float]:
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], cwd=PROJECT, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, arguments
    return time.perf_counter() - start, used.ru_maxrss / 1024


def tokenised(name: Path) -> float:
    """Rows/s of rendering and tokenising alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(PROJECT / "mlalign" / "data" / "tiny")
    with open(f"{name}.jsonl", encoding="utf-8") as f:
        rows = [json.loads(line) for line in f] * (N_TOKENISED // SMALL)
    start = time.perf_counter()
    chats = [
        [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["response"]}]
        for r in rows
    ]
    tokenizer(
        [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats],
        add_special_tokens=False,
    )
    return len(rows) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
