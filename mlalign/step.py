"""`python -m mlalign.step PARTIAL/config.yaml` runs one step: see `mlalign/running/step.py`."""

import sys

from mlalign.running.step import process

if __name__ == "__main__":
    sys.exit(process(sys.argv[1:]))
