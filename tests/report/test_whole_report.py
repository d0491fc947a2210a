"""The whole report: a page that needs no network; the same facts in three forms, two languages."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_facts import manifest, reported_bundle

from common.errors import UserError
from toolchain.report.files import write_report_files
from toolchain.report.strings import LANGUAGES, text


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return reported_bundle(tmp_path / "bundle", manifest())


class Tags(HTMLParser):
    """Every tag, and attributes that would load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "circle", "rect", "path"):
            self.open.append(tag)
        self.loads += [f"{k}={v}" for k, v in attrs if k in ("src", "srcset", "data", "action")]
        self.loads += [str(v) for k, v in attrs if k == "href" and not str(v).startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag == self.open[-1]:
            self.open.pop()


def test_the_page_loads_nothing_and_escapes_everything(bundle: Path) -> None:
    page = write_report_files(bundle).read_text("utf-8")
    tags = Tags()
    tags.feed(page)
    assert not tags.loads and not tags.open
    assert not {"script", "img", "link", "iframe", "i"} & tags.tags
    assert "url(" not in page and "@import" not in page and "http" not in page
    assert "demo &lt;script&gt;" in page and "&lt;img src=x&gt;" in page


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_form_has_the_same_facts(bundle: Path, language: str) -> None:
    page = write_report_files(bundle).read_text("utf-8")
    name = "report.md" if language == "en" else f"report.{language}.md"
    markdown = (bundle / "log" / name).read_text("utf-8")
    own = page.split(f'<section class="lang" id="{language}"')[1].split("</section>")[0]
    for key in ("comparison", "acceptance", "cliff_title", "ledger", "latency", "answers",
                "deployment", "resources", "reproduce"):  # fmt: skip
        assert f"<h2>{text(key, language)}</h2>" in own, key
        assert f"## {text(key, language)}" in markdown, key
    # Ratio to the original, efficiency (0.95 / 0.98 × 4 × 2800 / 900), KLD, planned memory, p95.
    for fact in ("4 ×", "12.1 ×", "0.09", "22.5 MB", "96.9%", "344 ms", "209 tokens/s", "2.6"):
        assert fact in own and fact in markdown, fact
    assert "<script" not in markdown and "<b>" not in markdown


def test_the_checklist_tells_passed_failed_and_not_measured(bundle: Path) -> None:
    write_report_files(bundle)
    data = json.loads((bundle / "log" / "report.json").read_text("utf-8"))
    found = {item["name"]: item["status"] for item in data["acceptance"]}
    assert found == {
        "mean KLD": "passed",
        "max_total_kld": "failed",
        "decode_tokens_per_sec": "passed",
        "peak_rss_bytes": "passed",
        "task_score": "failed",
        "joules_per_token": "not measured",
        "orin <i>one</i>": "passed",
    }
    page = (bundle / "log" / "report.html").read_text("utf-8")
    assert text("not_accepted", "en", failed=2, passed=4, open=1) in page


def test_the_cliff_is_marked_where_a_model_lies_beyond(bundle: Path) -> None:
    page = write_report_files(bundle).read_text("utf-8")
    assert page.count('class="cliff"') == 4
    assert text("cliff", "en", limit="0.05", names="Q4_K_M") in page
    ledger = json.loads((bundle / "ledger.json").read_text("utf-8"))
    ledger["budget"] = {"max_kld": 0.5}
    (bundle / "ledger.json").write_text(json.dumps(ledger))
    assert text("cliff_none", "en", limit="0.5") in write_report_files(bundle).read_text("utf-8")


def test_a_bundle_without_log_says_what_was_not_measured(bundle: Path) -> None:
    shutil.rmtree(bundle / "log")
    page = write_report_files(bundle).read_text("utf-8")
    assert text("no_smoke", "en") in page and text("no_device", "zh-CN") in page
    assert f"<h2>{text('latency', 'en')}</h2>" not in page


@pytest.mark.parametrize(
    ("content", "fault"),
    [('{"schema": 7}', "schema 7, not 1"), ('{"schema": 1, "entries": [{}]}', "damaged")],
)
def test_a_ledger_that_cannot_be_read(bundle: Path, content: str, fault: str) -> None:
    (bundle / "ledger.json").write_text(content)
    with pytest.raises(UserError, match=fault):
        write_report_files(bundle)
    assert not (bundle / "log" / "report.html").exists()
    with pytest.raises(UserError, match="no bundle"):
        write_report_files(bundle / "log")


def test_it_is_made_in_a_moment(bundle: Path) -> None:
    start = time.process_time()
    write_report_files(bundle)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("width", [375, 1280])
def test_the_report_in_a_browser(bundle: Path, tmp_path: Path, width: int) -> None:
    """Chromium renders it, offline: nothing is wider than the screen but tables that scroll."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium here (apt install chromium)")
    page = write_report_files(bundle)
    # A headless window is never narrower than 500 px, so a frame is the phone's screen.
    probe = (
        f'<!doctype html><body style="margin:0"><iframe id="f" src="{page.as_uri()}" '
        f'width="{width}" height="2400" style="border:0"></iframe><script>f.onload=()=>'
        "{document.title='w'+f.contentDocument.documentElement.scrollWidth}</script>"
    )
    frame, image = tmp_path / "frame.html", tmp_path / "page.png"
    frame.write_text(probe, encoding="utf-8")
    common = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    common += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
    common += [f"--window-size={max(width, 500)},2400", f"--screenshot={image}", "--dump-dom"]
    done = subprocess.run([*common, frame.as_uri()], check=True, capture_output=True, text=True)
    assert image.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and image.stat().st_size > 40_000
    found = re.search(r"<title>w(\d+)</title>", done.stdout)
    assert found and int(found[1]) <= width
