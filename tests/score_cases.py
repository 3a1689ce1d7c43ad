"""Rows for `rm-score score`, and the command as a process of its own."""

import json
import os
import subprocess
import sys

from helpers import PROJECT

ROWS = [
    {
        "id": f"r{i}",
        "prompt": f"What is {i} + 1?",
        "response": "x" * (i % 17),
        "n": i,
        "language": "en",
    }
    for i in range(50)
]
COMMAND = (sys.executable, "-m", "reward_models", "score")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}


def write(path, rows):
    path.write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
    )
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def process(folder, *arguments, env=None, **options):
    told = {
        "text": True,
        "capture_output": True,
        "timeout": 120,
        "cwd": folder,
        "env": {**ENVIRONMENT, **(env or {})},
        **options,
    }
    return subprocess.run([*COMMAND, *map(str, arguments)], check=False, **told)
