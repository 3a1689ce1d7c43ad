"""What a row is, decided in one place for `rm-score` and `mlalign prepare`. Pure and light.

A record of a file goes through three modules:

    shapes     published data sets by their columns -> the columns that `reader` knows
    messages   text, JSON in text, lists of messages, ShareGPT turns, transcripts -> messages
    reader     columns -> a `Row`: a shared prompt and its answers (with the help of `merging`)

What cannot be read raises `Malformed` (the file is not what it should be) or `Dropped` (this record
gives no row, which is counted).
"""

from mlalign.core.conversations.messages import Dropped, Malformed
from mlalign.core.conversations.reader import Row, Shape, is_plain, named, read

__all__ = ["VERSION", "Dropped", "Malformed", "Row", "Shape", "is_plain", "named", "read"]

# Raised when records are read differently, so that old scores of the same file are not reused.
VERSION = 3
