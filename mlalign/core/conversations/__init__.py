"""What a row is: the one place that decides it, for `rm-score` and `mlalign prepare` alike.

Pure and light.

A record, as a file has it, goes through three modules:

    shapes     published data sets by their columns -> the columns that `reader` knows
    messages   text, JSON in text, lists of messages, ShareGPT turns, transcripts -> messages
    reader     columns -> a `Row`: a shared prompt and its answers

What cannot be read raises `Malformed` (the file is not what it should be) or `Dropped` (this row
gives nothing; countable).
"""

from mlalign.core.conversations.messages import Dropped, Malformed
from mlalign.core.conversations.reader import Row, Shape, is_plain, named, read

__all__ = ["VERSION", "Dropped", "Malformed", "Row", "Shape", "is_plain", "named", "read"]

# of what rows are taken to say: scores of rows that an earlier one read are not taken for those of
# today
VERSION = 3
