"""How fast and how accurate language identifiers are, on MGSM and XCOPA in 19 languages.

    python benchmarks/identifiers.py --data DIR [--identifier blend lingua] [--languages]

DIR has the folders `mgsm` and `xcopa`. Each identifier runs in a process of its own, on one thread.
Texts are windows of one or two, 3 to 5 and 6 to 10 words from sentences, and whole sentences; in
scripts without spaces two characters count as a word. Printed for each identifier:

    start     seconds (wall, CPU) from opening the scorer to its first verdict on Swahili
    bare      texts a second of CPU of the identifier alone, on texts whose script does not decide
    whole     the same for the scorer `language_adherence`, on texts of all languages
    recall    share of texts that pass in their own language, mean over languages
    wrong     share of texts that pass in another language of their script, mean over pairs

`others` leaves out Haitian and Quechua, which lingua does not know.
"""

import argparse
import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

LANGUAGES = {
    "bn": "ben_Beng",
    "de": "deu_Latn",
    "en": "eng_Latn",
    "es": "spa_Latn",
    "et": "ekk_Latn",
    "fr": "fra_Latn",
    "ht": "hat_Latn",
    "id": "ind_Latn",
    "it": "ita_Latn",
    "ja": "jpn_Jpan",
    "qu": "que_Latn",
    "ru": "rus_Cyrl",
    "sw": "swh_Latn",
    "ta": "tam_Taml",
    "te": "tel_Telu",
    "th": "tha_Thai",
    "tr": "tur_Latn",
    "vi": "vie_Latn",
    "zh": "cmn_Hans",
}
IDENTIFIERS = ("blend", "langid", "fasttext", "lingua")
BUCKETS = {"1-2 words": (1, 2), "3-5": (3, 5), "6-10": (6, 10), "sentence": None}
SPACELESS = ("ja", "th", "zh")
UNKNOWN_TO_LINGUA = ("ht", "qu")
MODEL_DECIDES = ("Latn", "Cyrl", "Beng")
N = 300  # texts of a language in a bucket
N_WRONG = 40  # of them, asked as every other language
SEED = 2
SECONDS = 2.0  # of CPU for a rate
END = re.compile(r"(?<=[.?!])\s+|(?<=[。？！])")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


def sentences(data: Path) -> dict[str, list[str]]:
    """All sentences by language, each once, sorted."""
    by_language: dict[str, set[str]] = {code: set() for code in LANGUAGES}
    for file in sorted(data.glob("xcopa/*.jsonl")):
        code = file.name.split(".")[1]
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            by_language[code].update(row[key] for key in ("premise", "choice1", "choice2"))
    for file in sorted(data.glob("mgsm/*.tsv")):
        code = file.stem.split("_")[1]
        for line in file.read_text(encoding="utf-8").splitlines():
            question = line.split("\t")[0]
            stripped = map(str.strip, END.split(question))
            by_language[code].update(filter(None, stripped))
    return {code: sorted(texts) for code, texts in by_language.items()}


def windows(code: str, texts: list[str], size: tuple[int, int] | None) -> list[str]:
    """Up to N windows of `size` words, or whole sentences, that hold at least one word."""
    from reward_models.families import scripts

    draw = random.Random(f"{SEED} {code} {size}")
    chosen: list[str] = []
    for text in draw.sample(texts, len(texts)):
        window = text if size is None else _cut(code, text, size, draw)
        if window and scripts.dominant(window):
            chosen.append(window)
        if len(chosen) == N:
            break
    return chosen


def _cut(code: str, text: str, size: tuple[int, int], draw: random.Random) -> str:
    """A window of `size` words at a random place of a text; empty if the text is too short."""
    n = draw.randint(*size)
    if code in SPACELESS:
        gap = ""
        units = list(text.replace(" ", ""))
        n *= 2
    else:
        gap = " "
        units = text.split()
    if n > len(units):
        return ""
    start = draw.randrange(len(units) - n + 1)
    return gap.join(units[start : start + n])


def rate(work, n_texts: int) -> float:
    """Texts a second of CPU, over at least SECONDS."""
    start = time.process_time()
    rounds = 0
    while time.process_time() - start < SECONDS:
        work()
        rounds += 1
    return rounds * n_texts / (time.process_time() - start)


def measure(name: str, data: Path) -> dict:
    """Everything about one identifier, in this process."""
    import reward_models
    from reward_models.families import identifiers

    wall = time.time()
    cpu = time.process_time()
    scorer = reward_models.open_scorer({"family": "language_adherence", "identifier": name})
    scorer.score_items(_items(["Nilikipata tena kipande cha tiketi."], "sw"))
    seconds = (time.time() - wall, time.process_time() - cpu)

    by_language = sentences(data)
    identifier = identifiers.open_identifier(name)
    pairs = [pair for pair in itertools.permutations(LANGUAGES, 2) if _share_script(*pair)]
    rates = {}
    recall = {}
    wrong = {}
    for bucket, size in BUCKETS.items():
        texts = {code: windows(code, own, size) for code, own in by_language.items()}
        rates[bucket] = measure_rates(identifier, scorer, texts)
        recall[bucket] = {}
        for code in LANGUAGES:
            recall[bucket][code] = share(scorer, texts[code], code)
        wrong[bucket] = {}
        for code, other in pairs:
            passing = share(scorer, texts[code][:N_WRONG], other)
            wrong[bucket][f"{code} {other}"] = passing
    return {"seconds": seconds, "rates": rates, "recall": recall, "wrong": wrong}


def measure_rates(identifier, scorer, texts: dict[str, list[str]]) -> tuple[float, float]:
    """Texts a second of the identifier alone, and of the scorer."""
    items = []
    for code, own in texts.items():
        items += _items(own, code)
    random.Random(0).shuffle(items)
    undecided = [item.response for item in items if item.language.endswith(MODEL_DECIDES)]
    bare = rate(partial(identifier.probabilities, undecided), len(undecided))
    return bare, rate(partial(scorer.score_items, items), len(items))


def share(scorer, texts: list[str], code: str) -> float:
    """The share of texts that pass as this language."""
    values = scorer.score_items(_items(texts, code)).values
    return sum(value == 1.0 for value in values) / len(values)


def _items(texts: list[str], code: str) -> list:
    from reward_models import Item

    return [Item("", [], text, LANGUAGES[code]) for text in texts]


def _share_script(code: str, other: str) -> bool:
    return _script(code) == _script(other)


def _script(code: str) -> str:
    return LANGUAGES[code].split("_")[1]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _known(shares: dict[str, float]) -> dict[str, float]:
    """The shares of languages, or of pairs of them, that lingua knows."""
    known = {}
    for codes, value in shares.items():
        if not set(codes.split()) & set(UNKNOWN_TO_LINGUA):
            known[codes] = value
    return known


def show(name: str, measured: dict, by_language: bool) -> None:
    wall, cpu = measured["seconds"]
    for bucket in BUCKETS:
        bare, whole = measured["rates"][bucket]
        recall = measured["recall"][bucket]
        wrong = measured["wrong"][bucket]
        cells = [name, f"{wall:.2f} / {cpu:.2f}", bucket, f"{bare:,.0f}", f"{whole:,.0f}"]
        for shares in (recall, _known(recall), wrong, _known(wrong)):
            cells.append(f"{_mean(list(shares.values())):.4f}")
        print(f"| {' | '.join(cells)} |", flush=True)
        if by_language:
            row = "  ".join(f"{code} {share:.3f}" for code, share in recall.items())
            print(f"    {row}", flush=True)


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--identifier", nargs="+", choices=IDENTIFIERS, default=IDENTIFIERS)
    parser.add_argument("--languages", action="store_true", help="recall of every language too")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.identifier[0], options.data)))
        return
    heads = "identifier, start, length, bare/s, whole/s, recall, others, wrong, others".split(", ")
    print(f"| {' | '.join(heads)} |")
    print(f"|{' --- |' * len(heads)}", flush=True)
    for name in options.identifier:
        command = [sys.executable, __file__, "--data", str(options.data)]
        command += ["--identifier", name, "--here"]
        environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        show(name, json.loads(done.stdout), options.languages)


if __name__ == "__main__":
    main()
