"""`python -m mlalign` is `mlalign`."""

import sys

from mlalign.cli import main

sys.exit(main())
