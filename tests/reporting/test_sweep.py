"""The page of a sweep: what it says, and how it stands in real Chromium."""

import random

import pytest
from reporting_cases import HOSTILE

from mlalign.core.visible import visible
from mlalign.evidence import curves, sweep

CODES = ["eng_Latn", "swh_Latn", "arb_Arab", "hin_Deva"]


def row(language, value, which=""):
    told = {
        "metric": "accuracy",
        "by": "verifier",
        "language": language,
        "value": value,
        "low": value - 0.03,
        "high": value + 0.03,
    }
    return {**told, "n": 9, "n_groups": 9, "which": which, "step": "metrics"}


def variant(values, average, codes=CODES, **more):
    each = {c: average + 0.01 * i for i, c in enumerate(codes)} if average else {}
    rows = (
        [
            *(row(c, v) for c, v in each.items()),
            row("avg", average),
            row("worst", average, codes[0]),
        ]
        if average
        else []
    )
    told = {
        "variant": str(values),
        "values": values,
        "overrides": [f"{k}={v}" for k, v in values.items()],
        "rows": rows,
    }
    return {**told, "state": "done", "why": "", "trial": None, **more}


def content(variants, codes=CODES, kind="sweep", paired=True, **more):
    ranked = sorted((v for v in variants if v["rows"]), key=lambda v: -v["rows"][-2]["value"])
    best = ranked[0]["rows"][-2]["value"]
    bounds = {"low": -0.05, "high": 0.01} if paired else {"low": None, "high": None}
    behind = [
        {"variant": v["variant"], "value": v["rows"][-2]["value"] - best, **bounds}
        for v in ranked[1:]
    ]
    keys, effects = list(variants[0]["values"]), []
    for key in keys:
        levels = {str(v["values"][key]): v["values"][key] for v in ranked}
        none = (
            {"effect_low": None, "effect_high": None}
            if not paired
            else {"effect_low": -0.02, "effect_high": 0.02}
        )
        told = [
            {"value": x, "mean": 0.6, "low": 0.5, "high": 0.7, "effect": 0.01, **none, "n": 2}
            for x in levels.values()
        ]
        effects += [{"key": key, "levels": told}] if len(levels) > 1 else []
    lost = [v for v in variants if not v["rows"]]
    return {
        "name": "demo",
        "recipe": "r",
        "kind": kind,
        "metric": "accuracy",
        "by": "verifier",
        "direction": "maximize",
        "keys": keys,
        "steps": {"in_all": 216, "different": 94, "shared": 34},
        "confidence": 0.95,
        "best": ranked[0]["variant"],
        "languages": sorted(codes),
        "metrics": [["accuracy", "verifier"]],
        "variants": [*ranked, *lost],
        "statistics": {"paired": paired, "behind": behind, "effects": effects},
        **more,
    }


GRID = [
    variant({"beta": b, "source_language": s}, 0.5 + 0.1 * b + 0.01 * i)
    for b in (0.1, 0.3)
    for i, s in enumerate(CODES[:3])
]


def test_the_summary_tells_the_best_and_who_is_not_told_apart():
    told = sweep.summary(content(GRID), 3)
    assert (
        told.splitlines()[1].split()
        == "0.3 Arabic 55.0% (52.0% to 58.0%) English 55.0% done".split()
    )
    assert (
        "Best by Right answers (by verifier): beta 0.3, source_language Arabic, 55.0% (52.0% to"
        " 58.0%)." in told
    )
    assert told.endswith("5 of 5 others are not told apart from it.")
    assert sweep.summary(content(GRID, paired=False), 3).endswith(
        "Differences between variants have no interval here."
    )


def test_sections_follow_what_there_is():
    page = sweep.page(content(GRID), 3)
    for name in ("variants", "languages", "effects", "crossed", "sharing"):
        assert f'<section id="{name}"' in page
    assert 'id="lost"' not in page
    assert 'id="trials"' not in page
    assert "216 steps together, of which 94 are different: 34" in page
    one = sweep.page(
        content(
            [variant({"beta": b}, 0.5 + b) for b in (0.1, 0.2)]
            + [variant({"beta": 1.0}, None, state="failed", why="x")]
        ),
        3,
    )
    assert '<section id="lost"' in one
    assert '<section id="crossed"' not in one


def trials():
    random_ = random.Random(0)
    settings = [
        {"beta": random_.uniform(0.01, 1), "loss": random_.choice(["sigmoid", "ipo"])}
        for _ in range(20)
    ]
    return [
        variant(s, 0.5 + 0.02 * i, trial=i, state="pruned" if i % 3 else "done")
        for i, s in enumerate(settings)
    ]


def test_a_search_draws_points_and_its_history():
    found = content(trials(), kind="search")
    page = sweep.page(found, 3)
    assert '<section id="trials"' in page
    assert "a point for each variant" in page
    assert "beta: 0.0" in page and " to " in page
    assert sweep._tiles(found, 3)[2]["of"] == "loss"  # twenty betas are no levels


def test_a_pruned_trial_is_not_compared():
    one, other = (
        variant({"beta": 0.1}, 0.5, trial=0),
        variant({"beta": 0.2}, 0.9, trial=1, state="pruned", why="after round 1"),
    )
    found = content(
        [one, other], kind="search", statistics={"paired": True, "behind": [], "effects": []}
    ) | {"variants": [one, other]}
    page = sweep.page(found, 3)
    assert "best of 1 variants" in page
    assert "Lead over the second" not in page
    assert "Best by Right answers (by verifier): beta 0.1, 50.0%" in sweep.summary(found, 3)


def test_scatter_places_points_and_follows_the_best():
    import xml.etree.ElementTree as ET

    points = [(0.01, 0.5, False), (0.1, 0.7, True), (1.0, 0.6, False)]
    root = ET.fromstring(str(curves.scatter(points, "t", str, log=True, best=max)))
    circles = [c for c in root.iter() if c.tag.endswith("circle")]
    places = [float(c.get("cx").rstrip("%")) for c in circles]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.02)
    assert [c.get("class") for c in circles] == ["dot after", "dot before", "dot after"]
    assert [
        t.text for t in root.iter() if t.tag.endswith("text") and t.get("text-anchor") == "middle"
    ] == [
        "0.01",
        "0.02",
        "0.05",
        "0.1",
        "0.2",
        "0.5",
        "1",
    ]


@pytest.mark.slow
def test_hostile_settings_stay_texts():
    html5lib = pytest.importorskip("html5lib")
    variants = [
        variant({"loss": text, "beta": 0.1}, 0.5 + 0.01 * i) for i, text in enumerate(HOSTILE)
    ]
    variants.append(variant({"loss": "x", "beta": 0.2}, None, state="failed", why=HOSTILE[0]))
    found = content(variants, name=HOSTILE[1], recipe=HOSTILE[0])
    page = sweep.page(found, 3)
    html5lib.HTMLParser(strict=True).parse(page)
    assert page.count("<script") == 1
    assert "\u202e" not in page
    assert "<img" not in sweep.markdown_page(found, 3)


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (820, "dark"), (1280, "light")])
@pytest.mark.parametrize(
    "case",
    ["grid", "hostile", *(pytest.param(c, marks=pytest.mark.long) for c in ("search", "many"))],
)
@pytest.mark.slow
def test_the_page_in_a_browser(browser, tmp_path, case, width, scheme):
    many = (
        "eng_Latn swh_Latn arb_Arab hin_Deva cmn_Hans jpn_Jpan kor_Hang tha_Thai amh_Ethi ben_Beng"
        " rus_Cyrl deu_Latn fra_Latn spa_Latn ita_Latn por_Latn vie_Latn"
    )
    found = {
        "grid": content(GRID),
        "search": content(trials(), kind="search"),
        "many": content(
            [
                variant(
                    {"steps.policy.config.trainer.learning_rate": 0.1**i},
                    0.4 + 0.05 * i,
                    many.split(),
                )
                for i in range(5)
            ],
            many.split(),
        ),
        "hostile": content([variant({"loss": t}, 0.5) for t in HOSTILE], name=HOSTILE[0]),
    }[case]
    (tmp_path / "p.html").write_text(sweep.page(found, 3), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page, told = context.new_page(), []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith("file:") else told.append(request.url),
    )
    page.goto(f"file://{tmp_path / 'p.html'}")
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    ) == (scheme == "light")
    assert page.evaluate("window.pwned") is None
    assert page.locator("h1").text_content() == visible(found["name"])
    if case == "many":
        page.locator("svg.heat").hover(position={"x": 3, "y": 3})
        assert "→" in page.locator("output").text_content()
    assert told == []
    context.close()
