"""Run recipes end to end at scale=tiny on the embedded default: `make recipes`.

python scripts/recipes.py                 every recipe
python scripts/recipes.py --share 0/3     every third, beginning with the first
python scripts/recipes.py rm_transfer     this one
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time

from mlalign.recipes.conf_files import conf_home, options

# What keeps a recipe to minutes on two cores; the demo runs reuse_your_rewards in full.
# Reward models in several languages need preferences in each.
SMALL = {"rm_transfer": ["data=tiny_world_parallel", "languages=[eng_Latn,swh_Latn,hin_Deva]"]}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--share", default="0/1")
    asked = parser.parse_args()
    index, n = (int(x) for x in asked.share.split("/"))
    names = asked.recipes or sorted(options("recipe", [conf_home()]))[index::n]
    engine = "vllm" if importlib.util.find_spec("vllm") else "transformers"
    failed = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as root:
            started = time.monotonic()
            command = [
                sys.executable,
                "-m",
                "mlalign",
                "run",
                f"recipe={name}",
                f"root={root}",
                f"engine={engine}",
                *SMALL.get(name, []),
            ]
            status = subprocess.run(command, check=False).returncode
            print(f"{name}: exit {status} after {time.monotonic() - started:.0f} s", flush=True)
            if status:
                failed.append(name)
    print(
        f"{len(names) - len(failed)} passed, {len(failed)} failed"
        + (f": {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
