"""List the licenses of the pinned dependencies, as their own metadata states them.

python tools/list_licenses.py docs/licenses.md

Run it in the environment that ``make venv`` builds, which has all of constraints.txt.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """# Licenses of the dependencies

Written by `make licenses` from the metadata of the packages that `constraints.txt` pins. Only those marked *base*
come with `pip install distilpose`; the others belong to extras or to development. None of them is part of the wheel.

| package | version | license, as stated | |
|---|---|---|---|
"""


def main(out: str) -> None:
    """Write the table."""
    base, rows, absent = required_by_base(), [], []
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or "==" not in line:
            continue
        name, _, pinned = line.partition("==")
        try:
            found = distribution(name)
        except PackageNotFoundError:
            absent.append(name)
            continue
        mark = "base" if key(name) in base else ""
        rows.append(f"| {name} | {pinned} | {stated_license(found)} | {mark} |")
    Path(out).write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    if absent:
        sys.exit(f"not installed here and so not listed: {', '.join(absent)}")


def required_by_base() -> set[str]:
    """Names of all that the package needs without extras."""
    seen: set[str] = set()
    waiting = ["distilpose"]
    while waiting:
        name = waiting.pop()
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        extras = ("signatures",) if key(name) == "jsonargparse" else ()
        for need in needs:
            requirement, _, condition = need.partition(";")
            extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", condition)
            if extra and extra[1] not in extras:
                continue
            other = key(re.match(r"[\w.-]+", requirement)[0])  # type: ignore[index]
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return seen


def stated_license(package: Distribution) -> str:
    """The expression, else the classifiers, else the first line of the field."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return str(expression)
    classifiers = [item for item in about.get_all("Classifier") or [] if item.startswith("License ::")]
    names = [item.rpartition(" :: ")[2] for item in classifiers if item.count(" :: ") > 1]
    text = ", ".join(names) or (about.get("License") or "").strip().partition("\n")[0]
    if not text:  # the title of the license's own file
        files = [file for file in package.files or [] if re.fullmatch(r"(?i)licen[cs]e.*|copying.*", file.name)]
        words = [file.read_text(encoding="utf-8").split() for file in files]
        text = " ".join(words[0][:4]).rstrip(",") + ", from its file" if words else ""
    return text[:80] or "not stated"


def key(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "docs" / "licenses.md"))
