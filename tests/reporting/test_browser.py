"""The page in real Chromium: hostile texts stay texts, nothing is fetched, tables and samples work
by keyboard and pointer.
"""

import pytest
from reporting_cases import HOSTILE, add_transfer, before_and_after

from mlalign.core.visible import visible

RTL = "مرحبا <b>بالعالم</b> 123."


@pytest.fixture(scope="module")
def page_of(browser):
    """A function that opens a report at a width and in a colour scheme; what the page asked for or
    complained of is in `page.told`.
    """
    contexts = []

    def open_page(path, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        contexts.append(context)
        page, told = context.new_page(), []
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: None if request.url.startswith("file:") else told.append(request.url),
        )
        page.goto(f"file://{path}")
        page.told = told
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    run = before_and_after(
        root / "store",
        ["eng_Latn", "arb_Arab"],
        len(HOSTILE),
        lambda code, i, when: HOSTILE[i],
        source=HOSTILE[0],
    )
    return run.report(root / "report", name=HOSTILE[1], title=HOSTILE[2]) / "report.html"


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Thirty languages: more than fit as lines or as a table of numbers."""
    from mlalign.core.languages import normalise

    names = "en ar he fa ur hi bn th am zh ja ko km my ta ka hy ru sw yo si lo el de fr es tr vi id pl".split()
    codes = [normalise(name) for name in names]
    root = tmp_path_factory.mktemp("many")
    run = before_and_after(
        root / "store",
        codes,
        12,
        lambda code, i, when: RTL if code == "arb_Arab" else f"{when} {i}",
    )
    add_transfer(run, codes, 4)
    return run.report(root / "report") / "report.html"


def all_samples(page):
    """Every text that the samples show, page by page."""
    page.locator("nav a[href='#samples']").click()
    page.locator("#samples-form").wait_for(state="visible")
    texts = page.locator("#samples-list .text").all_text_contents()
    while page.get_by_role("button", name="Next").is_enabled():
        page.get_by_role("button", name="Next").click()
        texts += page.locator("#samples-list .text").all_text_contents()
    return texts


@pytest.mark.slow
def test_hostile_texts_stay_texts(page_of, hostile):
    page = page_of(hostile)
    before = set(page.locator("#samples-list .text").all_text_contents())
    assert before <= {visible(t) for t in HOSTILE}
    assert set(all_samples(page)) == {visible(t) for t in HOSTILE}
    assert page.title() == HOSTILE[2]
    assert page.locator("h1").text_content() == HOSTILE[2]
    assert page.evaluate("window.pwned") is None
    assert (
        page.locator(
            "iframe, img, #samples-list svg, #samples-list script, #samples-list b[onload]"
        ).count()
        == 0
    )
    assert page.told == []


@pytest.mark.slow
def test_hostile_texts_do_not_break_the_page(page_of, hostile):
    for width in (390, 1280):
        page = page_of(hostile, width)
        all_samples(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("section").count() == page.locator("nav a").count() == 10
        cards = page.evaluate(
            "[...document.querySelectorAll('.sample')].map(c => [c.scrollHeight, c.clientHeight,"
            " c.getBoundingClientRect().height])"
        )
        assert all(
            scroll <= client + 1 for scroll, client, _ in cards
        )  # stacked accents stay in their box


@pytest.mark.slow
def test_the_policy_stops_what_would_get_through(page_of, hostile):
    page = page_of(hostile)
    page.evaluate("""() => {
        const script = document.createElement("script"); script.textContent = "window.injected = 1"; document.body.append(script);
        const image = document.createElement("img"); image.src = "https://evil.example/x.png"; document.body.append(image);
        const box = document.createElement("div"); box.innerHTML = "<a id=x onclick='window.injected = 2'>x</a>"; document.body.append(box);
        document.getElementById("x").click();
    }""")
    page.wait_for_timeout(200)
    assert page.evaluate("window.injected") is None
    refused = [t for t in page.told if "Content Security Policy" in t]
    assert len(refused) >= 3
    assert any("evil.example" in t for t in refused)


@pytest.mark.slow
def test_samples_filter_and_write_from_right_to_left(page_of, many):
    page = page_of(many)
    page.locator("nav a[href='#samples']").click()
    page.locator("#samples-form").wait_for(state="visible")
    page.locator("select[name=lang]").select_option("arb_Arab")
    assert set(page.locator("#samples-list .text").all_text_contents()) == {RTL}
    first = page.locator("#samples-list .prompt .text").first
    assert (first.get_attribute("lang"), first.get_attribute("dir")) == ("ar", "auto")
    assert first.evaluate("e => getComputedStyle(e).direction") == "rtl"
    page.locator("select[name=lang]").select_option("")
    page.locator("select[name=show]").select_option("up")
    page.locator("select[name=score]").select_option(label="verifier")
    marks = page.locator("#samples-list .sample").first.locator(".answer").all_inner_texts()
    assert "verifier ✗" in marks[0]
    assert "verifier ✓" in marks[1]
    page.locator("input[name=find]").fill("no such text")
    assert page.locator("#samples-out").text_content() == "none"


@pytest.mark.slow
def test_tables_sort_by_keyboard(page_of, many):
    page = page_of(many)
    table = page.locator("#results table.sortable").nth(1)
    heading = table.locator("thead th", has_text="change")
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    cells = table.locator("tbody").last.locator("tr td:nth-of-type(3)")
    values = [float(v) for v in cells.evaluate_all("cells => cells.map(c => c.dataset.v)")]
    assert len(values) == 30
    assert values == sorted(values)
    assert (
        table.locator("tbody.top th").first.text_content().strip() == "average"
    )  # summaries stay on top
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"


@pytest.mark.slow
def test_a_large_matrix_tells_the_cell_under_the_pointer(page_of, many):
    page = page_of(many)
    heat = page.locator("svg.heat").first
    heat.scroll_into_view_if_needed()
    heat.hover(position={"x": 5, "y": 5})
    assert page.locator("output").first.text_content().startswith("Amharic → Amharic: ")


@pytest.mark.parametrize(
    ("width", "scheme"), [(390, "light"), (390, "dark"), (820, "light"), (1280, "dark")]
)
@pytest.mark.slow
def test_no_width_overflows_and_schemes_differ(page_of, many, width, scheme):
    page = page_of(many, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert page.told == []


@pytest.mark.slow
def test_print_is_light_and_leaves_out_what_is_folded(page_of, many):
    page = page_of(many, scheme="dark")
    page.emulate_media(media="print")
    assert page.locator("#results details:not([open])").first.is_hidden()
    tall = page.locator("#results .tall").first  # on paper nothing scrolls
    assert tall.evaluate("e => e.scrollHeight - e.clientHeight") <= 1
    assert page.locator("nav").is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
