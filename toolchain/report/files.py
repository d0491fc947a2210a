"""Write the whole report into a bundle's log: `report.html`, `report.md`, `report.json`.

    write_report_files(Path("build/edgeforge-demo/laptop"))

It lies in `log/` because it tells what was measured on machines and devices, which SHA256SUMS does
not cover. One HTML page has both languages and needs no network.
"""

from __future__ import annotations

from pathlib import Path

from common.damage import told_as_damage
from common.files import write_json, write_text
from common.folders import make_folder
from toolchain.report.blocks import html_page, html_section, markdown_page
from toolchain.report.facts import read_facts
from toolchain.report.page import sections, title
from toolchain.report.strings import LANGUAGES
from toolchain.report.write import report_name

PAGE, DATA = "report.html", "report.json"
NAMES = dict(zip(LANGUAGES, ("English", "中文"), strict=True))


def write_report_files(bundle: Path) -> Path:
    """Write the report in all forms; the page's path. Raises `UserError` when the bundle's facts
    cannot be read; nothing is written then."""
    facts = read_facts(bundle)
    log = bundle / "log"
    texts: dict[str, str] = {}
    with told_as_damage(f"what {bundle} tells of itself", "build it again, or test it again"):
        parts = []
        for language in LANGUAGES:
            heading, body = title(facts, language), sections(facts, language)
            parts.append(html_section(language, heading, body))
            texts[report_name(language)] = markdown_page(heading, body)
        texts[PAGE] = html_page(title(facts, LANGUAGES[0]), NAMES, "".join(parts))
    make_folder(log)
    for name, text in texts.items():
        write_text(log / name, text)
    write_json(log / DATA, facts)
    return log / PAGE
