"""Real Chromium for the tests of the report's page."""

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def browser():
    """Real Chromium; skipped where there is none, and failed there if REQUIRE_CHROMIUM is 1."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("the package playwright is not installed")
    path = (
        os.environ.get("CHROMIUM")
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    with sync_playwright() as playwright:
        if not (path or Path(playwright.chromium.executable_path).is_file()):
            _missing("no Chromium here (apt-get install chromium, or playwright install chromium)")
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


def _missing(reason: str) -> None:
    if os.environ.get("REQUIRE_CHROMIUM") == "1":
        pytest.fail(f"REQUIRE_CHROMIUM=1, but {reason}")
    pytest.skip(reason)
