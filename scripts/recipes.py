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

# Settings that keep a recipe to minutes on two cores; the demo runs reuse_your_rewards in full.
# Reward models in several languages need preferences in each.
SMALL = {"rm_transfer": ["data=tiny_world_parallel", "languages=[eng_Latn,swh_Latn,hin_Deva]"]}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--share", default="0/1")
    arguments = parser.parse_args()
    index, n_shares = map(int, arguments.share.split("/"))
    names = arguments.recipes or sorted(options("recipe", [conf_home()]))[index::n_shares]
    engine = "vllm" if importlib.util.find_spec("vllm") else "transformers"
    failed = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as root:
            begun = time.monotonic()
            settings = [f"recipe={name}", f"root={root}", f"engine={engine}", *SMALL.get(name, [])]
            command = [sys.executable, "-m", "mlalign", "run", *settings]
            status = subprocess.run(command, check=False).returncode
            print(f"{name}: exit {status} after {time.monotonic() - begun:.0f} s", flush=True)
            if status:
                failed.append(name)
    summary = f"{len(names) - len(failed)} passed, {len(failed)} failed"
    if failed:
        summary += f": {', '.join(failed)}"
    print(summary)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
