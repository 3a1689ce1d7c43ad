"""Rows per second and peak memory of `prepare`, and of `datasets` doing the same work.

    python benchmarks/prepare.py [--rows 10000 1000000] [--peer-rows 100000] [--pairs 5]

The work: preference pairs in JSONL to Parquet in the conversational format, without empty or equal
sides and exact duplicates, split by group. The peer is `load_dataset("json")`, `map`, `filter` and
`to_parquet`, with a set of hashes for the duplicates; its cache is emptied each time. Both run in
turn, each in a process of its own; the ratio is the median over pairs with its bootstrap interval.
"""

import argparse
import hashlib
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pairs

LANGUAGES = ("eng_Latn", "swh_Latn", "cmn_Hans", "arb_Arab", "deu_Latn")
WORDS = "one two three four five six seven eight nine ten eleven twelve".split()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--peer-rows", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--worker", nargs=3, metavar=("NAME", "FILE", "FOLDER"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.worker:
        name, file, folder = options.worker
        print(json.dumps(measure(WORKERS[name], Path(file), Path(folder))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        sizes(Path(temporary), options.rows)
        peer(Path(temporary), options.peer_rows, options.pairs)


def sizes(folder: Path, counts: list[int]) -> None:
    print(f"{'rows':>9} {'rows/s':>9} {'peak MiB':>9}")
    peaks = []
    for n in counts:
        record = spawn("ours", generate(folder / "rows.jsonl", n), folder)
        peaks.append(record["peak_mib"])
        print(f"{n:>9} {n / record['seconds']:>9.0f} {record['peak_mib']:>9.0f}", flush=True)
    print(f"peak memory, {counts[-1]} rows against {counts[0]}: {peaks[-1] / peaks[0]:.2f}x")


def peer(folder: Path, n: int, n_pairs: int) -> None:
    file = generate(folder / "rows.jsonl", n)
    records: dict[str, list[dict]] = {name: [] for name in WORKERS}

    def measure(name: str) -> float:
        record = spawn(name, file, folder)
        records[name].append(record)
        return record["seconds"]

    ours, theirs = pairs.interleaved(
        lambda: measure("ours"), lambda: measure("datasets"), n_pairs, warm_up=False
    )
    for name, measured in records.items():
        seconds = statistics.median(record["seconds"] for record in measured)
        peak = statistics.median(record["peak_mib"] for record in measured)
        kept = {record["kept"] for record in measured}
        print(f"{name:<9} {n / seconds:>9.0f} rows/s {peak:>6.0f} MiB, kept {kept}")
    median, low, high = pairs.ratio(theirs, ours)
    print(
        f"speed against datasets at {n} rows, {n_pairs} pairs: {median:.2f}x"
        f" [{low:.2f}, {high:.2f}]"
    )


def generate(path: Path, n: int) -> Path:
    rng = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for i in range(n):
            prompt = " ".join(rng.choices(WORDS, k=30))
            chosen = " ".join(rng.choices(WORDS, k=40))
            rejected = " ".join(rng.choices(WORDS, k=40))
            if i % 100 == 0:
                rejected = chosen
            if i % 50 != 49:  # every 50th row repeats the one before
                row = {
                    "prompt": f"{prompt} {i}",
                    "chosen": chosen,
                    "rejected": rejected,
                    "lang": LANGUAGES[i % 5],
                }
            file.write(json.dumps(row) + "\n")
    return path


def spawn(name: str, file: Path, folder: Path) -> dict:
    with tempfile.TemporaryDirectory(dir=folder) as work:
        command = [sys.executable, __file__, "--worker", name, str(file), work]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])


def measure(work, file: Path, folder: Path) -> dict:
    begun = time.perf_counter()
    kept = work(file, folder)
    scale = 1024 if sys.platform == "linux" else 1024**2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
    return {"seconds": time.perf_counter() - begun, "peak_mib": peak, "kept": kept}


def ours(file: Path, folder: Path) -> int:
    from mlalign.core import schema, stage, store
    from mlalign.stages import prepare

    source = {"path": str(file), "columns": {"language": "lang"}}
    cfg = schema.build(prepare.Config, {"kind": "preference", "sources": [source]})
    out = stage.Output(folder, store.Store(folder.parent))
    prepare.run(cfg, stage.Inputs(out.store, {}), out)
    return sum(out.tally.rows.values())


def with_datasets(file: Path, folder: Path) -> int:
    import datasets

    def convert(row: dict) -> dict:
        digest = hashlib.sha256(row["prompt"].encode()).hexdigest()
        is_eval = int(digest[:8], 16) / 16**8 < 0.05
        return {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
            "split": "eval" if is_eval else "train",
        }

    seen: set[bytes] = set()

    def good(row: dict) -> bool:
        texts = [row[s][0]["content"].strip() for s in ("prompt", "chosen", "rejected")]
        key = hashlib.blake2b("\x1f".join([row["lang"], *texts]).encode(), digest_size=8).digest()
        if not all(texts) or texts[1] == texts[2] or key in seen:
            return False
        seen.add(key)
        return True

    datasets.disable_progress_bars()
    rows = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(folder))
    rows = rows.map(convert).filter(good)
    rows.to_parquet(str(folder / "rows.parquet"))
    return len(rows)


WORKERS = {"ours": ours, "datasets": with_datasets}


if __name__ == "__main__":
    main()
