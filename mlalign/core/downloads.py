"""What has to be in a local cache before a step can run without network."""

import dataclasses
from typing import Literal

Kind = Literal["model", "tokenizer", "data set", "sacrebleu tokenizer", "lm-eval tasks"]


@dataclasses.dataclass(frozen=True)
class Need:
    """Something that must be in the cache.

    `commit` is None where only the hub knows it; `revision` is what the recipe says.
    """

    kind: Kind
    id: str
    commit: str | None = None
    revision: str | None = None
    config: str | None = None
    split: str | None = None
    include_path: str | None = None

    def __str__(self) -> str:
        pin = (self.commit or self.revision or "")[:12]
        config = f" ({self.config})" if self.config else ""
        at_commit = f" @{pin}" if pin else ""
        return f"{self.kind} {self.id}{config}{at_commit}"
