"""THIRD_PARTY.md from the metadata of what is installed: `python -m tests.packaging.licences` (`make licences`).

A package that is not installed here keeps the line that it has, or gets the one in `BY_HAND`, read on its index page.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "THIRD_PARTY.md"
CORE = "core"
ALLOWED = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "MIT", "MPL-2.0", "PSF-2.0", "LLVM-exception"}
"""SPDX names of what a dependency's licence may be made of: free to use and to ship beside ours."""
BENCHMARKS_ONLY = {"cut-cross-entropy": "Apple sample code licence"}
"""Other licences, of packages that benchmarks are run against: nothing of ours imports or ships them."""
BY_HAND = {
    # Metadata without an SPDX name that could be told from it; read in the package's own licence file.
    "liger-kernel": "BSD-2-Clause",
    "matplotlib": "PSF-2.0",  # the Matplotlib licence, which is PSF's with names changed
    "numpy": "BSD-3-Clause",
    "omegaconf": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
    "nbclient": "BSD-3-Clause",
    "nbformat": "BSD-3-Clause",
    # Not for every machine or Python.
    "flash-attn": "BSD-3-Clause",
    "ray": "Apache-2.0",
    # For whoever makes a release.
    "build": "MIT",
    "twine": "Apache-2.0",
    "tomli": "MIT",
    "vllm": "Apache-2.0",
    **BENCHMARKS_ONLY,
}
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
}
HEAD = """# Third-party packages

What ap2o_fast needs, by extra, and under which licence. Written by `make licences` from the packages' metadata;
`tests/packaging` checks that every dependency is here. Nothing of them is in our wheel or archive. Two things are
copied elsewhere: plotly's script (MIT) into every `report.html`, and the demo's model, SmolLM2-135M-Instruct
(Apache-2.0), into a folder of the user's by `ap2o demo`.

| package | needed for | licence |
|---|---|---|
"""
FOOT = """
These packages need others, of which the torch build for CUDA brings NVIDIA's libraries under NVIDIA's own licences.
"""


def normal(name: str) -> str:
    """A package's name as indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed() -> dict[str, list[str]]:
    """Every direct dependency by normal name, with what needs it: `core` and extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {CORE: project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {}
    for group, lines in groups.items():
        for line in lines:
            found.setdefault(normal(re.split(r"[^\w.-]", line)[0]), []).append(group)
    return {name: list(dict.fromkeys(where)) for name, where in sorted(found.items())}


def listed() -> dict[str, tuple[str, str]]:
    """Lines of the page: package to what needs it and licence."""
    if not PAGE.exists():
        return {}
    rows = re.findall(r"^\| ([\w.-]+) \| ([^|]+) \| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    return {name: (where, licence) for name, where, licence in rows if name != "package"}


def licence(name: str) -> str:
    """The licence of an installed package as SPDX, else what is known by hand. Errors: `LookupError` for neither."""
    if name in BY_HAND:
        return BY_HAND[name]
    try:
        says = metadata.metadata(name)
    except metadata.PackageNotFoundError as error:
        known = listed().get(name)
        if known is None:
            raise LookupError(f"{name} is not installed and stands in no list: put it into BY_HAND") from error
        return known[1]
    if says["License-Expression"]:
        return str(says["License-Expression"])
    if says["License"] in ALLOWED:
        return str(says["License"])
    for classifier in says.get_all("Classifier", []):
        short = classifier.rpartition(" :: ")[2]
        if classifier.startswith("License ::") and short in CLASSIFIERS:
            return CLASSIFIERS[short]
    if re.fullmatch(r"Apache( Software)?( License)?,?( Version)? ?2(\.0)?( License)?", str(says["License"])):
        return "Apache-2.0"
    raise LookupError(f"{name}: no licence can be told from {says['License']!r}: put it into BY_HAND")


def parts(expression: str) -> set[str]:
    """The licences of an SPDX expression."""
    return set(re.split(r" AND | OR | WITH |[()]", expression)) - {""}


def page() -> str:
    """The whole page."""
    lines = (f"| {name} | {', '.join(where)} | {licence(name)} |\n" for name, where in needed().items())
    return HEAD + "".join(lines) + FOOT


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
