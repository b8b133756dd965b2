"""The documentation builds as a site, and every link and anchor in it leads somewhere."""

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.home import HOME


def build(folder: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(HOME, folder)
    if done.returncode != 0:
        pytest.fail(f"mkdocs build --strict (a new page needs a line in mkdocs.yml):\n{done.stderr}", pytrace=False)
    return folder


class HtmlPage(HTMLParser):
    """The links of a page, and the anchors that others can link to."""

    def __init__(self, file: Path):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in ("href", "src") and value]
        self.anchors |= {value for name, value in attrs if name == "id" and value}


def dead_links(site: Path) -> list[str]:
    pages = {file: HtmlPage(file) for file in site.rglob("*.html") if file.name != "404.html"}
    dead = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (
                parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors
            ):
                dead.append(f"{file.relative_to(site)}: {link}")
    return dead


def test_every_link_leads_somewhere(site):
    assert dead_links(site) == []


def test_every_page_is_on_the_site_and_can_be_searched(site):
    entries = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    found = {entry["location"].partition("#")[0].rstrip("/") for entry in entries}
    ours = {str(page.relative_to(HOME / "docs").with_suffix("")) for page in HOME.glob("docs/**/*.md")}
    assert found >= ours | {"", "contributing", "changelog", "ds_configs"}


@pytest.mark.parametrize(
    ("mistake", "message"),
    [("[page](nowhere.md)", "nowhere.md"), ("[part](growth.md#no-such-part)", "no-such-part")],
)
def test_a_dead_link_fails_the_build(tmp_path, mistake, message):
    for path in ("docs", "ds_configs", ".ci"):
        shutil.copytree(HOME / path, tmp_path / path)
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(HOME / name, tmp_path)
    with (tmp_path / "docs" / "recipes.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{mistake}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert message in done.stderr
