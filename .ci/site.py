"""Hooks of mkdocs.yml: the pages outside docs/ join the site, and links mean the same there as in the repository."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

HOME = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "ds_configs/README.md": "ds_configs.md",
}
"""Page in the repository -> page of the site."""
SOURCES = {page: source for source, page in OUTSIDE.items()}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#:]+)(#[^)]*)?\)|(!\[[^\]]*\])\(([^)\s:]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.mdx_configs["toc"]["slugify"] = github_anchor
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(HOME / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    path = page.file.src_uri
    return LINK.sub(lambda match: site_link(match, path, SOURCES.get(path, f"docs/{path}")), markdown)


def site_link(link: re.Match, path: str, source: str) -> str:
    """The link of `source`, a page of the repository, as it is on the site's page `path`.

    A file that is not on the site becomes plain text. One that does not exist stays a link, for mkdocs to complain of.
    """
    text, target, anchor, image, picture = link.groups()
    in_repository = posixpath.normpath(posixpath.join(posixpath.dirname(source), target or picture))
    if in_repository in OUTSIDE:
        on_site = OUTSIDE[in_repository]
    elif in_repository.startswith("docs/"):
        on_site = in_repository.removeprefix("docs/")
    elif (HOME / in_repository).exists():
        return text
    else:
        return link[0]
    relative = posixpath.relpath(on_site, posixpath.dirname(path) or ".")
    return f"{image}({relative})" if image else f"[{text}]({relative}{anchor or ''})"


def github_anchor(heading: str, separator: str) -> str:
    """`ZeRO & "tensor" parallelism` -> `zero--tensor-parallelism`."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)
