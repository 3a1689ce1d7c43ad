"""Tables of language and script codes that `languages` normalises by."""

# macrolanguage -> the individual language that a person who names it most probably means
MACRO = {
    "ara": "arb",
    "aze": "azj",
    "est": "ekk",
    "fas": "pes",
    "kur": "kmr",
    "lav": "lvs",
    "mlg": "plt",
    "mon": "khk",
    "msa": "zsm",
    "nep": "npi",
    "nor": "nob",
    "ori": "ory",
    "orm": "gaz",
    "pus": "pbt",
    "sqi": "als",
    "swa": "swh",
    "uzb": "uzn",
    "yid": "ydd",
    "zho": "cmn",
}
# Individual languages whose name and usual script are looked up under their macrolanguage.
NAMED_AS = {individual: macro for macro, individual in MACRO.items() if individual != "nob"}
# Languages whose script CLDR does not know -> a language that is written in the same script.
WRITTEN_AS = {
    "twi": "aka",
    "fat": "aka",
    "ayr": "aym",
    "azb": "fas",
    "prs": "fas",
    **dict.fromkeys(("acm", "acq", "afb", "ajp", "ars"), "ara"),
}
# Two codes of one language: (language, territory) -> the pair that we write.
ONE_CODE = {("pes", "AF"): ("prs", None), ("cnr", None): ("srp", "ME")}
AMBIGUOUS = {"hbs": ("bos_Latn", "hrv_Latn", "srp_Cyrl", "srp_Latn")}
WITHDRAWN = {
    "in": "id",
    "iw": "he",
    "ji": "yi",
    "jw": "jv",
    "mo": "ro",
    "mol": "ro",
    "scc": "sr",
    "scr": "hr",
}
# Style of a script -> the script.
STYLES = {
    "Aran": "Arab",
    "Cyrs": "Cyrl",
    "Hanb": "Hant",
    "Latf": "Latn",
    "Latg": "Latn",
    "Syre": "Syrc",
    "Syrj": "Syrc",
    "Syrn": "Syrc",
}
# Language -> part of its script -> the script.
PARTS = {
    "kor": {"Hang": "Kore", "Jamo": "Kore"},
    "jpn": {"Hira": "Jpan", "Kana": "Jpan", "Hrkt": "Jpan", "Hani": "Jpan"},
}
NO_SCRIPT = ("Zinh", "Zmth", "Zsye", "Zsym", "Zxxx", "Zyyy", "Zzzz", "Qaai")
NO_TERRITORY = ("001", "XX", "ZZ")  # the world; unknown, as in mBART's en_XX
NO_LANGUAGE = ("und", "mul", "mis", "zxx")
RTL_SCRIPTS = frozenset(
    ("Adlm", "Arab", "Aran", "Hebr", "Mand", "Mend", "Nkoo", "Rohg", "Samr", "Syrc", "Thaa", "Yezi")
)
