"""How fast the command line answers, beside `python -c "import torch"` (bound: a quarter of it).

python benchmarks/command_line.py [--pairs 9]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from functools import partial

from pairs import interleaved, summary

COMMANDS = {
    "--help": ["--help"],
    "plan (16 steps)": ["plan", "recipe=reuse_your_rewards"],
    "plan (iterative_dpo)": ["plan", "recipe=iterative_dpo"],
    "a misspelt recipe": ["plan", "recipe=reuse_your_reward"],
    "four mistakes": [
        "plan",
        "recipe=reuse_your_rewards",
        "bta=1",
        "languages=[swahilli]",
        "steps.policy.config.los=1",
        "scale=hue",
    ],
}


def seconds(command: list[str], cwd: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, check=False)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=9)
    n_pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as cwd:
        import_torch = partial(seconds, ["-c", "import torch"], cwd)
        for name, arguments in COMMANDS.items():
            command = partial(seconds, ["-m", "mlalign", *arguments], cwd)
            ours, torch = interleaved(command, import_torch, n_pairs)
            print(summary(f"mlalign {name} vs import torch", ours, torch, "s"), flush=True)


if __name__ == "__main__":
    main()
