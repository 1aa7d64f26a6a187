"""What mkdocs does not by itself: README.md is the first page, and figures that pages link to come along.

Pages lie in docs/ and link to files beside it, as whoever reads them in the repository needs it.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "bench/results").glob("*.json"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and figures that lie outside of docs/."""
    for name, text in {
        "index.md": of_root((ROOT / "README.md").read_text()),
        "contributing.md": of_root((ROOT / "CONTRIBUTING.md").read_text()),
        "changelog.md": of_root((ROOT / "CHANGELOG.md").read_text()),
        "results/index.md": "# Figures\n\n" + "".join(f"- [{p.name}]({p.name})\n" for p in RESULTS),
    }.items():
        files.append(File.generated(config, name, content=text))
    for path in RESULTS:
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001  # mkdocs names them
    """Turn links that leave docs/ into links within the site."""
    return re.sub(r"\]\((?:\.\./)+bench/results/", f"]({_up(page)}results/", markdown).replace(
        "](../README.md", f"]({_up(page)}index.md"
    )


def of_root(text: str) -> str:
    """Return a page of the repository's root as a page of docs/."""
    text = text.replace("](bench/results)", "](results/index.md)").replace("](CONTRIBUTING.md", "](contributing.md")
    return text.replace("](docs/", "](")


def _up(page: Page) -> str:
    return "../" * page.file.src_uri.count("/")
