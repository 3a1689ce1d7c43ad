"""How fast and how right language identifiers are, on MGSM and XCOPA in 19 languages.

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
    "bn": "ben_Beng", "de": "deu_Latn", "en": "eng_Latn", "es": "spa_Latn", "et": "ekk_Latn",
    "fr": "fra_Latn", "ht": "hat_Latn", "id": "ind_Latn", "it": "ita_Latn", "ja": "jpn_Jpan",
    "qu": "que_Latn", "ru": "rus_Cyrl", "sw": "swh_Latn", "ta": "tam_Taml", "te": "tel_Telu",
    "th": "tha_Thai", "tr": "tur_Latn", "vi": "vie_Latn", "zh": "cmn_Hans",
}  # fmt: skip
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
            by_language[code].update(s.strip() for s in END.split(question) if s.strip())
    return {code: sorted(texts) for code, texts in by_language.items()}


def windows(code: str, texts: list[str], size: tuple[int, int] | None) -> list[str]:
    """Up to N windows of `size` words, or whole sentences, that hold at least one word."""
    from reward_models.families import scripts

    draw = random.Random(f"{SEED} {code} {size}")
    gap, per_word = ("", 2) if code in SPACELESS else (" ", 1)
    chosen: list[str] = []
    for text in draw.sample(texts, len(texts)):
        window = text
        if size:
            units = list(text.replace(" ", "")) if code in SPACELESS else text.split()
            n = draw.randint(*size) * per_word
            if n > len(units):
                continue
            start = draw.randrange(len(units) - n + 1)
            window = gap.join(units[start : start + n])
        if scripts.dominant(window):
            chosen.append(window)
        if len(chosen) == N:
            break
    return chosen


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
    from reward_models import Item
    from reward_models.families import identifiers

    start = (time.time(), time.process_time())
    scorer = reward_models.open_scorer({"family": "language_adherence", "identifier": name})
    scorer.score_items([Item("", [], "Nilikipata tena kipande cha tiketi.", "swh_Latn")])
    seconds = (time.time() - start[0], time.process_time() - start[1])

    by_language = sentences(data)
    texts = {}
    for bucket, size in BUCKETS.items():
        texts[bucket] = {c: windows(c, own, size) for c, own in by_language.items()}
    identifier = identifiers.open_identifier(name)
    rates = {}
    for bucket, of_language in texts.items():
        items = [Item("", [], t, LANGUAGES[c]) for c, own in of_language.items() for t in own]
        random.Random(0).shuffle(items)
        undecided = [i.response for i in items if i.language.endswith(MODEL_DECIDES)]
        bare = rate(partial(identifier.probabilities, undecided), len(undecided))
        rates[bucket] = (bare, rate(partial(scorer.score_items, items), len(items)))

    def share(bucket: str, code: str, asked: str, n: int = N) -> float:
        items = [Item("", [], t, LANGUAGES[asked]) for t in texts[bucket][code][:n]]
        return sum(value == 1.0 for value in scorer.score_items(items).values) / len(items)

    recall = {b: {c: share(b, c, c) for c in LANGUAGES} for b in BUCKETS}
    pairs = [(a, b) for a in LANGUAGES for b in LANGUAGES if a != b and _script(a) == _script(b)]
    wrong = {}
    for bucket in BUCKETS:
        wrong[bucket] = {f"{a} {b}": share(bucket, a, b, N_WRONG) for a, b in pairs}
    return {"seconds": seconds, "rates": rates, "recall": recall, "wrong": wrong}


def _script(code: str) -> str:
    return LANGUAGES[code].split("_")[1]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def show(name: str, measured: dict, by_language: bool) -> None:
    wall, cpu = measured["seconds"]
    for bucket in BUCKETS:
        bare, whole = measured["rates"][bucket]
        recall, wrong = measured["recall"][bucket], measured["wrong"][bucket]
        others = [share for code, share in recall.items() if code not in UNKNOWN_TO_LINGUA]
        unknown = set(UNKNOWN_TO_LINGUA)
        wrong_others = [s for pair, s in wrong.items() if not set(pair.split()) & unknown]
        shares = [[*recall.values()], others, [*wrong.values()], wrong_others]
        cells = [name, f"{wall:.2f} / {cpu:.2f}", bucket, f"{bare:,.0f}", f"{whole:,.0f}"]
        cells += [f"{_mean(values):.4f}" for values in shares]
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
