"""The sft and preference stages against the same TRL trainer called bare, on the same rows.

  python benchmarks/training.py [--pairs 5] [--stages sft,preference] [--rows 512] [--steps 48]
                                [--batch 32] [--model DIR]

Each side runs in a process of its own; pairs are interleaved. The peer reads a ready Parquet file
with TRL's columns, builds trainer and data set, trains, and saves the model. Ours reads rows,
counts lengths and languages, prepares TRL's data set, trains (with progress, a stop file polled at
every step, and checkpoints that are marked complete), saves, and writes card and losses. Both write
the same checkpoint at the end, and must end with the same weights.

  training      seconds inside `Trainer.train`
  CPU time      the same in CPU seconds, which other work on the machine disturbs less
  end to end    seconds from the start of the process to its end

Passes when the interval of the training ratio reaches down to 1.03.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pairs

import mlalign
from mlalign import stages
from mlalign.core import rows, schema, stage, store
from mlalign.data import tiny_world

BOUND = 1.03
ON_CPU = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
}
TINY = Path(mlalign.__file__).parent / "data" / "tiny"
KINDS = {
    "sft": ("demonstrations", "demonstration", ["prompt", "completion"]),
    "preference": ("preferences", "preference", ["prompt", "chosen", "rejected"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"pairs": 5, "rows": 512, "steps": 48, "batch": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--stages", default="sft,preference")
    parser.add_argument("--model", default=str(TINY))
    parser.add_argument("--side", choices=["ours", "peer"])
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(timed(options)))
        return
    for name in options.stages.split(","):
        with tempfile.TemporaryDirectory() as work:
            compare(options, name, Path(work))


def compare(options: argparse.Namespace, name: str, work: Path) -> None:
    prepare(options, name, work)
    records: dict[str, list[dict]] = {"ours": [], "peer": []}

    def measure(side: str) -> float:
        start = time.perf_counter()
        record = run_side(side, name, work)
        record["end_to_end"] = time.perf_counter() - start
        records[side].append(record)
        return record["seconds"]

    ours, peer = pairs.interleaved(lambda: measure("ours"), lambda: measure("peer"), options.pairs)
    digests = {record["digest"] for record in [*records["ours"], *records["peer"]]}
    assert len(digests) == 1, "the two sides gave different weights"
    print(f"{name}: {options.steps} steps of {options.batch} rows; the same weights on both sides")
    print(pairs.summary("  training", ours, peer, "s"))
    for key in ("cpu_seconds", "end_to_end"):
        # The first of each was the warm-up.
        of_ours = [record[key] for record in records["ours"][1:]]
        of_peer = [record[key] for record in records["peer"][1:]]
        print(pairs.summary(f"  {key.replace('_', ' ')}", of_ours, of_peer, "s"))
    _, low, _ = pairs.ratio(ours, peer)
    print("  passes" if low <= BOUND else f"  fails: above {BOUND}", flush=True)


def run_side(side: str, name: str, work: Path) -> dict:
    """What one side prints at the end of a process of its own."""
    options = ["--stages", name, "--side", side, "--work", str(work)]
    command = [sys.executable, __file__, *sys.argv[1:], *options]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def prepare(options: argparse.Namespace, name: str, work: Path) -> None:
    """Rows for us, and the same rows as one Parquet file for the peer, in the same order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source_kind, kind, columns = KINDS[name]
    languages = tiny_world.LANGUAGES[:2]
    with rows.ShardWriter(work / "rows", kind) as writer:
        for row in tiny_world.rows(source_kind, languages, options.rows // len(languages)):
            row_id = rows.row_id("tiny_world", row["key"], row["prompt_lang"])
            writer.write({**row, "source": "tiny_world", "split": "train", "id": row_id})

    schema_ = pa.schema([rows.schema(kind).field(column) for column in columns])
    table = pa.Table.from_pylist(list(rows.read(work / "rows")), schema=schema_)
    pq.write_table(table, work / "peer.parquet")


def timed(options: argparse.Namespace) -> dict:
    """Run one side with a clock around `Trainer.train`."""
    import transformers

    spent: list[tuple[float, float]] = []
    train = transformers.Trainer.train

    def clocked(*arguments, **named):
        wall = time.perf_counter()
        cpu = time.process_time()
        result = train(*arguments, **named)
        spent.append((time.perf_counter() - wall, time.process_time() - cpu))
        return result

    transformers.Trainer.train = clocked
    folder = Path(tempfile.mkdtemp(dir=options.work))
    side = ours if options.side == "ours" else peer
    model = side(options, options.stages, folder)
    digest = store.sha256(model / "model.safetensors")
    shutil.rmtree(folder)
    seconds, cpu_seconds = spent[0]
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "digest": digest}


def ours(options: argparse.Namespace, name: str, folder: Path) -> Path:
    module = stages.load(name)
    trainer = {"max_steps": options.steps, "learning_rate": 1e-4}
    values = {"batch_size": options.batch, "max_length": 160, "trainer": trainer}
    cfg = schema.build(module.Config, values)
    (folder / "x.partial").mkdir()
    out = stage.Output(folder / "x.partial", store.Store(folder))
    paths = {"rows": {"path": str(options.work / "rows")}, "model": {"path": options.model}}
    module.run(cfg, stage.Inputs(out.store, paths), out)
    return out.path / "model"


def peer(options: argparse.Namespace, name: str, folder: Path) -> Path:
    import datasets
    import torch
    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind = {"sft": "SFT", "preference": "DPO"}[name]
    more = {}
    if kind == "DPO":
        more["precompute_ref_log_probs"] = True
    if not torch.cuda.is_available():
        more |= ON_CPU
    args = getattr(trl, f"{kind}Config")(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=options.batch,
        max_steps=options.steps,
        learning_rate=1e-4,
        max_length=160,
        seed=0,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        save_strategy="steps",
        save_steps=100,
        **more,
    )
    dataset = datasets.load_dataset(
        "parquet",
        data_files=str(options.work / "peer.parquet"),
        split="train",
        cache_dir=str(folder / "datasets"),
    )
    network = AutoModelForCausalLM.from_pretrained(options.model, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    trainer = getattr(trl, f"{kind}Trainer")(
        network, args=args, train_dataset=dataset, processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model(str(folder / "model"))
    return folder / "model"


if __name__ == "__main__":
    main()
