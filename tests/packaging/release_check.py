"""The built wheel in bare environments, outside the checkout: `make release-check`.

In each Python that is there: the wheel with its own dependencies, both packages imported, `ap2o --help`, `ap2o doctor`,
and verdicts of `ap2o judge` on a small file; in the first one `ap2o demo`, cut short and on the small model of
studies/organism. With `--environments` folders of environments that have torch already are used, one a Python, and not
removed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROBLEM = {
    "task_id": "release/one",
    "prompt": 'def f(x):\n    """Return one more than x."""\n',
    "entry_point": "f",
    "test": "def check(f):\n    assert f(1) == 2\n    assert f(-1) == 0\n",
}
ANSWERS = {
    "Passed": "def f(x):\n    return x + 1\n",
    "WrongResult": "def f(x):\n    return x + 2\n",
    "NameError": "def f(x):\n    return y\n",
    "SyntaxError": "def f(x)\n    return x\n",
    "TimeoutError": "def f(x):\n    while True: pass\n",
}
SMALL = ROOT / "studies" / "organism"
LIMITS = {"train": 8, "quiz": 2, "test": 2}
DEMO = (
    f"model.name={SMALL / 'model'}",
    *(f"problems.{name}.source={SMALL / 'problems' / name}.jsonl" for name in LIMITS),
    *(f"problems.{name}.limit={limit}" for name, limit in LIMITS.items()),
    *("sampling.n=8", "train.epochs=1", "quiz.n=1", "evaluate.n=1", "evaluate.k=[1]", "evaluate.before=false"),
    "curriculum.min_passed=1",
)


def run(*command: str | Path, cwd: Path) -> str:
    """Output of a command that has nothing of the checkout on its path. Errors: `SystemExit` with what it said."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{shlex.join(map(str, command))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def judge(ap2o: Path, cwd: Path) -> None:
    """Have a small file judged. Errors: `SystemExit` where a verdict is wrong."""
    (cwd / "problems.jsonl").write_text(json.dumps(PROBLEM) + "\n")
    rows = [{"task_id": PROBLEM["task_id"], "solution": text} for text in ANSWERS.values()]
    (cwd / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(ap2o, "judge", "--problems", "problems.jsonl", "--answers", "answers.jsonl", "--out", "out.jsonl", cwd=cwd)
    found = [json.loads(line)["error"] for line in (cwd / "out.jsonl").read_text().splitlines()]
    if found != list(ANSWERS):
        raise SystemExit(f"verdicts are {found}, expected {list(ANSWERS)}")


def check(python: str, wheel: Path, environment: Path, torch: str, cwd: Path, *, demo: bool) -> None:
    """Everything for one Python."""
    if not (environment / "bin" / "python").exists():
        run(python, "-m", "venv", environment, cwd=cwd)
    inside = environment / "bin" / "python"
    pip = (inside, "-m", "pip", "-q", "--disable-pip-version-check", "install")
    run(*pip, *shlex.split(torch), cwd=cwd)
    run(*pip, "--force-reinstall", "--no-deps", wheel, cwd=cwd)
    run(*pip, wheel, cwd=cwd)  # its dependencies
    run(inside, "-m", "pip", "check", cwd=cwd)
    places = "import ap2o_fast, ap2o_kernels, ap2o_fast.pipeline, ap2o_fast.preferences.trainer as t; print(t.__file__)"
    where = run(inside, "-c", places, cwd=cwd).strip()
    if not Path(where).is_relative_to(environment):
        raise SystemExit(f"imported from {where}, not from the wheel")
    ap2o = environment / "bin" / "ap2o"
    if "demo" not in run(ap2o, "--help", cwd=cwd):
        raise SystemExit("ap2o --help does not name its commands")
    run(ap2o, "doctor", cwd=cwd)
    judge(ap2o, cwd)
    if demo:
        run(ap2o, "demo", "--quiet", *DEMO, f"run_dir={cwd / 'demo'}", cwd=cwd)
        for name in ("report.html", "README.md", "checkpoints/best/model.safetensors"):
            if not (cwd / "demo" / name).is_file():
                raise SystemExit(f"the demo has left no {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "pythons", nargs="+", help="commands, or paths; those that are not there are named and left out"
    )
    parser.add_argument("--torch", default="torch", help="what pip is given for torch")
    parser.add_argument("--wheel", type=Path, help="without it the one in dist/")
    parser.add_argument("--environments", type=Path, help="a folder where the environments stay")
    parser.add_argument("--no-demo", action="store_true")
    given = parser.parse_args()
    wheels = [given.wheel] if given.wheel else list((ROOT / "dist").glob("*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"dist/ holds {len(wheels)} wheels: `make dist`")
    found = [python for python in given.pythons if shutil.which(python)]
    for python in set(given.pythons) - set(found):
        print(f"{python}: not here, left out")
    if not found:
        raise SystemExit("none of these Pythons is here")
    with tempfile.TemporaryDirectory() as folder:
        for number, python in enumerate(found):
            cwd = Path(folder) / f"work-{number}"
            cwd.mkdir()
            name = run(python, "-c", "import sys; print('python%d.%d' % sys.version_info[:2])", cwd=cwd).strip()
            environments = (given.environments or Path(folder)).resolve()
            began = time.monotonic()
            demo = number == 0 and not given.no_demo
            check(python, wheels[0].resolve(), environments / name, given.torch, cwd, demo=demo)
            print(f"{name}: works{', demo included' if demo else ''}, {time.monotonic() - began:.0f} s", flush=True)
            if given.environments is None:
                shutil.rmtree(environments / name)


if __name__ == "__main__":
    sys.exit(main())
