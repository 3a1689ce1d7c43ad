"""Text in which nothing is hidden: invisible and direction-changing characters are written out."""

import re

# The last two code points of every plane are no characters.
NO_CHARACTERS = "".join(
    f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(17)
)
# Control characters, overrides of the direction of writing, invisible and unassigned ones. Joiners
# (U+200C, U+200D) and direction marks (U+200E, U+200F) stay: Persian, Indic scripts, Hebrew and
# emoji are written with them.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u180e\u200b\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufdd0-\ufdef"
    f"\ufeff\ufff0-\ufffb\U000e0000-\U000e0fff{NO_CHARACTERS}]"
)


def visible(text: str) -> str:
    """The text with every invisible or direction-changing character written out, as `⟨U+202E⟩`."""
    return UNSEEN.sub(_written_out, text.replace("\r\n", "\n"))


def _written_out(match: re.Match[str]) -> str:
    return f"⟨U+{ord(match[0]):04X}⟩"
