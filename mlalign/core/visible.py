"""Text in which nothing is hidden: invisible characters, and those that turn the direction of
writing, are written out.
"""

import re

# Control characters, overrides of the direction of writing, invisible and unassigned ones. Joiners
# (U+200C, U+200D) and direction marks (U+200E, U+200F) stay: Persian, Indic scripts, Hebrew and
# emoji are written with them.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u180e\u200b\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufdd0-\ufdef\ufeff\ufff0-\ufffb\ufffe\uffff"
    "\U000e0000-\U000e0fff]"
    "|["
    + "".join(chr(plane << 16 | last) for plane in range(1, 17) for last in (0xFFFE, 0xFFFF))
    + "]"
)


def visible(text: str) -> str:
    """The text with every character that is invisible, or turns the text around, written as
    `⟨U+202E⟩`.
    """
    return UNSEEN.sub(lambda m: f"⟨U+{ord(m[0]):04X}⟩", text.replace("\r\n", "\n"))
