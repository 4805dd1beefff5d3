"""Build the documentation strictly, and see that its pages load nothing from elsewhere.

Run by `make docs` and `make check`. A reader of the built pages may be offline, and is
nobody else's business: fonts, scripts, styles and pictures all come from the site.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "site"

# A link (`a href`) is followed by the reader; these are fetched by the browser.
LOADS = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "link": "href",
    "object": "data",
    "script": "src",
    "source": "src",
    "video": "src",
}
# Links that say where something is, and make the browser fetch nothing.
ONLY_NAMED = {"canonical", "next", "prev", "license", "alternate"}
ELSEWHERE = re.compile(r"(?:https?:)?//", re.I)
IN_STYLE = re.compile(
    r"(?:url\(\s*['\"]?|@import\s+['\"])((?:https?:)?//[^'\")\s]+)", re.I
)


class Loads(HTMLParser):
    """Collects what a page makes the browser fetch from another host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one tag's address and style."""
        given = {name: value or "" for name, value in attrs}
        address = given.get(LOADS.get(tag, ""), "")
        named = tag == "link" and set(given.get("rel", "").split()) <= ONLY_NAMED
        if ELSEWHERE.match(address) and not named:
            self.found.append(f"<{tag}> {address}")
        self.found += IN_STYLE.findall(given.get("style", ""))


def foreign_loads(site: Path) -> list[str]:
    """Return what the built pages and style sheets fetch from other hosts."""
    found: list[str] = []
    for page in sorted(site.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        reader = Loads()
        reader.feed(text)
        styles = re.findall(r"<style[^>]*>(.*?)</style>", text, re.S)
        loads = reader.found + [
            hit for style in styles for hit in IN_STYLE.findall(style)
        ]
        found += [f"{page.relative_to(site)}: {load}" for load in loads]
    for sheet in sorted(site.rglob("*.css")):
        hits = IN_STYLE.findall(sheet.read_text(encoding="utf-8"))
        found += [f"{sheet.relative_to(site)}: {hit}" for hit in hits]
    return found


def main() -> None:
    """Build into site/ and look through it; exit status 1 if something is wrong."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--clean",
    ]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([*command, "--site-dir", str(SITE)], cwd=ROOT, env=quiet)
    if done.returncode:
        sys.exit(done.returncode)
    found = foreign_loads(SITE)
    for load in found:
        print(f"docs: loaded from elsewhere: {load}", file=sys.stderr)
    if found:
        sys.exit(1)
    pages = len(list(SITE.rglob("*.html")))
    print(f"docs: {pages} pages in {SITE.name}/, none loads anything from elsewhere")


if __name__ == "__main__":
    main()
