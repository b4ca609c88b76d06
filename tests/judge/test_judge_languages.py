"""JavaScript and C++ behind the protocol that Python stands behind: the same types, lines, limits and jail.

Where node or g++ is not installed their tests are skipped; that this is told is tested everywhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ap2o_fast.cli import main
from ap2o_fast.config import JudgeSettings
from ap2o_fast.errors import MachineError, UsageError
from ap2o_fast.judge import ErrorType, Job, Judge
from ap2o_fast.judge.jail import LEAST
from ap2o_fast.judge.languages import LANGUAGES, language, missing, require
from ap2o_fast.judging import judge_files
from ap2o_fast.problems.problem import Problem

THREE = (
    "def check(candidate):\n    assert candidate(1) == 1\n    assert candidate(2) == 4\n    assert candidate(3) == 9\n"
)
SOURCE = {"javascript": "function f(x) { return x * x }", "cpp": "int f(int x) { return x * x; }"}


def installed(name: str, *values: Any) -> Any:
    """A parameter that is skipped where the language cannot be judged."""
    lack = missing(LANGUAGES[name])
    return pytest.param(
        name, *values, marks=pytest.mark.skipif(bool(lack), reason=lack), id="-".join([name, *values[:1]])
    )


NEEDS_CPP = pytest.mark.skipif(bool(missing(LANGUAGES["cpp"])), reason=missing(LANGUAGES["cpp"]))
NEEDS_NODE = pytest.mark.skipif(bool(missing(LANGUAGES["javascript"])), reason=missing(LANGUAGES["javascript"]))
OTHERS = [installed(name) for name in ("javascript", "cpp")]


def problem(name: str, **fields: Any) -> Problem:
    return Problem(**{"task_id": "p", "prompt": "", "entry_point": "f", "language": name, **fields})


# The beginning of a function whose line 2 does the thing.
JS, CPP = "function f(x) {\n  ", "int f(int x) {\n  "
NODE = {
    "right": (SOURCE["javascript"], "Passed", 0, "", 3),
    "const": ("const f = (x) => x ** 2", "Passed", 0, "", 3),
    "bigint": (JS + "return BigInt(x) * BigInt(x) }", "Passed", 0, "", 3),
    "prints": (JS + "console.log(x, '[\"value\", 1]'); return x * x }", "Passed", 0, "", 3),
    "modules": ("const { sum } = require('util'); " + SOURCE["javascript"], "Passed", 0, "", 3),
    "wrong": (JS + "return x < 2 ? x : x + 1 }", "WrongResult", 0, "f(2) returned 3, expected 4", 1),
    "undefined": (JS + "x * x }", "WrongResult", 0, "f(1) returned None, expected 1", 0),
    "promise": ("async " + JS + "return x }", "WrongResult", 0, "returned a Promise", 0),
    "own class": ("class Pair {}\n" + JS + "return new Pair() }", "WrongResult", 0, "returned a Pair", 0),
    "cyclic": (JS + "const a = []; a.push(a); return a }", "WrongResult", 0, "nested too deeply", 0),
    "syntax": (JS + "return x x }", "SyntaxError", 2, "Unexpected identifier", 0),
    "open brace": (JS + "return x", "SyntaxError", 2, "Unexpected end of input", 0),
    "module": ("import fs from 'fs'\n" + SOURCE["javascript"], "SyntaxError", 1, "import statement", 0),
    "missing": ("function g(x) { return x }", "NameError", 0, "function f is not defined", 0),
    "no function": ("const f = 4", "TypeError", 0, "f is not a function", 0),
    "name": (JS + "return y }", "NameError", 2, "ReferenceError: y is not defined", 0),
    "at load": ("\n\nlet a = b\n" + SOURCE["javascript"], "NameError", 3, "ReferenceError: b is not defined", 0),
    "type": (JS + "return null.x }", "TypeError", 2, "Cannot read properties of null", 0),
    "deepest line": ("const g = (x) => x.y.z\n\n" + JS + "return g(x) }", "TypeError", 1, "reading 'z'", 0),
    "value": (JS + "return x < 3 ? x * x : (1).toFixed(200) }", "ValueError", 2, "RangeError: toFixed()", 2),
    "index": (JS + "return new DataView(new ArrayBuffer(1)).getInt8(x) }", "IndexError", 2, "outside the bounds", 0),
    "json": (JS + "return JSON.parse('{') }", "ValueError", 2, "JSON", 0),
    "zero": (JS + "return BigInt(x) / 0n }", "ZeroDivisionError", 2, "Division by zero", 0),
    "recursion": (JS + "return f(x) + 1 }", "RecursionError", 2, "Maximum call stack size exceeded", 0),
    "memory": (JS + "return 'x'.repeat(2 ** 30) }", "MemoryError", 2, "Invalid string length", 0),
    "import": ("require('no_such_module')\n" + SOURCE["javascript"], "ImportError", 1, "Cannot find module", 0),
    "os": (JS + "return require('fs').readFileSync('/nowhere') }", "OSError", 2, "ENOENT", 0),
    "assertion": (JS + "require('assert')(x > 1, 'small') }", "AssertionError", 2, "small", 0),
    "error": (JS + "throw new Error('mine') }", "OtherError", 2, "Error: mine", 0),
    "no error": (JS + "throw 'a text' }", "OtherError", 0, "threw a text", 0),
    "hostile error": (JS + "throw { toString() { throw 1 } } }", "OtherError", 0, "", 0),
    "busy": (JS + "while (true) {} }", "TimeoutError", 0, "", 0),
    "asleep": (
        JS + "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0) }",
        "TimeoutError",
        0,
        "still running after 3 s",
        0,
    ),
    "flood": (JS + "while (true) console.log('x'.repeat(1000)) }", "OutputLimit", 0, "more than 64 KiB", 0),
    # More than a pipe holds, in one piece.
    "flood at once": (JS + "console.log('x'.repeat(2 ** 20)); return x * x }", "OutputLimit", 0, "more than 64 KiB", 0),
    "exit": (JS + "process.exit(0) }", "Exit", 0, "exit status 0", 0),
    "abort": (JS + "process.abort() }", "OtherError", 0, "killed by SIG", 0),
}
VECTOR, STRING = "#include <vector>\n", "#include <string>\n"
SORTS = "#include <algorithm>\n#include <vector>\nstruct A {};\n" + CPP
SORTS += "std::vector<A> v; std::sort(v.begin(), v.end()); return x; }"
GXX = {
    "right": (SOURCE["cpp"], "Passed", 0, "", 3),
    "wide": ("long long f(const long long& x) noexcept { return x * x; }", "Passed", 0, "", 3),
    "own main": (SOURCE["cpp"] + "\nint main() { return f(2); }", "Passed", 0, "", 3),
    "macros": ("#define int long long\n#define return return\n" + SOURCE["cpp"], "Passed", 0, "", 3),
    "prints": (
        "#include <iostream>\n" + CPP + 'std::cout << "[\\"value\\", 1]" << std::endl; return x * x; }',
        "Passed",
        0,
        "",
        3,
    ),
    "wrong": (CPP + "return x < 2 ? x : x + 1; }", "WrongResult", 0, "f(2) returned 3, expected 4", 1),
    "void": ("void f(int x) {}", "WrongResult", 0, "f(1) returned None, expected 1", 0),
    "syntax": (CPP + "return x x; }", "SyntaxError", 2, "before ‘x’", 0),
    "open brace": (CPP + "if (x) { return x;\n", "SyntaxError", 3, "ends in the middle", 0),
    "open class": ("struct A {\n" + SOURCE["cpp"], "SyntaxError", 2, "ends in the middle", 0),
    "name": (CPP + "return y; }", "NameError", 2, "‘y’ was not declared in this scope", 0),
    "forgotten include": ("int f(std::vector<int> x) { return 1; }", "NameError", 1, "‘vector’ is not a member", 0),
    "missing": ("int g(int x) { return x; }", "NameError", 0, "has not been declared", 0),
    "type": (STRING + CPP + 'return std::string("a"); }', "TypeError", 3, "cannot convert", 0),
    "in the library": (SORTS, "TypeError", 5, "no match for ‘operator<’", 0),
    "attribute": (STRING + CPP + "std::string s; return s.foo; }", "AttributeError", 3, "no member named ‘foo’", 0),
    "include": ("#include <no_such_header>\n" + SOURCE["cpp"], "ImportError", 1, "No such file", 0),
    "overloads": (SOURCE["cpp"] + "\nlong f(long x) { return x * x; }", "TypeError", 0, "no matching function", 0),
    "parameter": (STRING + "int f(std::string x) { return 1; }", "TypeError", 0, "argument 1: no text", 0),
    "arity": ("int f(int x, int y) { return 1; }", "TypeError", 0, "argument 2: too few arguments", 0),
    "huge program": ("int a[1 << 27] = {1};\n" + SOURCE["cpp"], "SyntaxError", 0, "", 0),
    "at": (
        VECTOR + CPP + "std::vector<int> v;\n  return x < 3 ? x * x : v.at(x); }",
        "IndexError",
        4,
        "out_of_range",
        2,
    ),
    "index": (VECTOR + CPP + "std::vector<int> v(2); return v[x + 1]; }", "IndexError", 3, "this->size()", 0),
    "key": ("#include <map>\n" + CPP + "std::map<int, int> m; return m.at(x); }", "KeyError", 3, "map::at", 0),
    "zero": (CPP + "int y = x - x; return x / y; }", "ZeroDivisionError", 2, "division by zero", 0),
    "value": (STRING + CPP + 'return std::stoi("a"); }', "ValueError", 3, "std::invalid_argument: stoi", 0),
    "recursion": (CPP + "volatile int y = f(x + 1); return y; }", "RecursionError", None, "stack overflow", 0),
    "deepest line": (
        VECTOR + "int g(std::vector<int> v) { return v.at(9); }\n" + CPP + "return g({}); }",
        "IndexError",
        2,
        "",
        0,
    ),
    "runtime": (
        "#include <stdexcept>\n" + CPP + 'throw std::runtime_error("\\"a\\" \\\\"); }',
        "RuntimeError",
        3,
        "'a' '",
        0,
    ),
    "assertion": ("#include <cassert>\n" + CPP + "assert(x > 1); return x; }", "AssertionError", 3, "x > 1", 0),
    "no exception": (CPP + "throw 3; }", "OtherError", 2, "no std::exception", 0),
    "static": (VECTOR + "int a = std::vector<int>().at(3);\n" + SOURCE["cpp"], "IndexError", 2, "out_of_range", 0),
    "noexcept": (VECTOR + "int f(int x) noexcept {\n  return std::vector<int>().at(x); }", "IndexError", 3, "", 0),
    "no return": (CPP + "if (x > 100) return 1; }", "RuntimeError", None, "no return value", 0),
    "abort": ("#include <cstdlib>\n" + CPP + "std::abort(); }", "RuntimeError", 3, "abort", 0),
    "memory": (VECTOR + CPP + "std::vector<long> v(1L << 40); return v[x]; }", "MemoryError", 3, "std::bad_alloc", 0),
    "null": (CPP + "int* volatile p = nullptr; return *p; }", "OtherError", 2, "SIGSEGV", 0),
    "busy": (CPP + "for (volatile int i = 0;; i = i + 1) {} }", "TimeoutError", 0, "", 0),
    "flood": (
        "#include <cstdio>\n" + CPP + 'while (true) std::puts("xxxxxxxxxxxxxxxx"); }',
        "OutputLimit",
        0,
        "64 KiB",
        0,
    ),
    "exit": ("#include <cstdlib>\n" + CPP + "std::exit(0); }", "Exit", 0, "exit status 0", 0),
}
CASES = {"javascript": NODE, "cpp": GXX}


@pytest.mark.parametrize(("name", "case"), [installed(name, case) for name, cases in CASES.items() for case in cases])
def test_type_line_message_and_count(judge: Judge, name: str, case: str) -> None:
    code, error, line, message, passed = CASES[name][case]
    verdict = judge.judge(problem(name, test=THREE), code)
    assert verdict.error is ErrorType[error], verdict
    assert message in verdict.message, verdict
    assert line is None or verdict.line == line, verdict
    assert (verdict.tests_passed, verdict.tests_total) == (passed, 3)
    assert verdict.sandbox_level == judge.level
    assert verdict.peak_mib < 80, "a compiler counts as the answer"
    assert verdict.cpu_seconds < 0.9 or verdict.error is ErrorType.TimeoutError, "a compiler counts as the answer"


@NEEDS_CPP
def test_a_sleeper_in_cpp_is_stopped_by_the_wall(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LANGUAGES["cpp"], "build_seconds", 9.0)
    verdict = judge.judge(problem("cpp", test=THREE), "#include <unistd.h>\nint f(int x) { sleep(600); return x; }")
    assert verdict.error is ErrorType.TimeoutError
    assert verdict.message == "still running after 12 s"  # 9 of them for the compiler


# ---- values


@NEEDS_NODE
def test_values_of_javascript(judge: Judge) -> None:
    same = [None, True, 0, -7, 1.5, 1e300, 'é\U0001f600\n"\\', [], [1, [2, "x"]], {"a": {"__proto__": 1}}, 2**60]
    given = problem("javascript", inputs=tuple((value,) for value in same), expected=tuple(same))
    assert judge.judge(given, "const f = (x) => x").tests_passed == len(same)
    test = (
        "assert f((1, 2), {3, 4}, {5: 6}) == [[1, 2], {3, 4}, {'5': 6}]\n"
        "assert f(float('inf'), float('-inf'), 10 ** 400 // 10 ** 380) == [float('inf'), float('-inf'), 1e20]\n"
        "assert str(f(float('nan'))) == '[nan]'\n"
    )
    assert judge.judge(problem("javascript", test=test), "const f = (...x) => x").passed
    test = "assert f(1) == [{1: [2], 'a': 3}, {1, 2}, -2 ** 70, None, {}]"
    code = (
        "const f = () => [new Map([[1, [2]], ['a', 3]]), new Set([1, 2]), -(2n ** 70n), undefined, Object.create(null)]"
    )
    assert judge.judge(problem("javascript", test=test), code).passed


EVERYTHING = """
#include <bits/stdc++.h>
using namespace std;
using Given = tuple<bool, long long, unsigned long long, double, float, char, string, vector<vector<int>>, vector<bool>,
                    map<string, int>, unordered_map<int, string>, set<int>, pair<int, string>, optional<int>,
                    optional<int>, array<int, 2>, deque<double>, list<string>>;
Given f(bool a, long long b, unsigned long long c, double d, float e, char g, string h, vector<vector<int>>& i,
        const vector<bool>& j, map<string, int> k, unordered_map<int, string>&& l, set<int> m, pair<int, string> n,
        optional<int> o, optional<int> p, array<int, 2> q, deque<double> r, list<string> s) {
  i.push_back({});  // its own copy: the next call sees none of it
  return {a, b, c, d, e, g, h + "\\xc3\\xa9\\"\\\\\\n", i, j, k, l, m, n, o, p, q, r, s};
}
"""


@pytest.mark.slow
@NEEDS_CPP
def test_values_of_cpp(judge: Judge) -> None:
    given = (
        *(True, -(2**63), 2**64 - 1, 0.1, 0.1, "c", 'a\U0001f600\n"\\/\x01', [[1, 2], []], [True, False]),
        *({"a": 1}, {1: "b"}, {3, 1}, (5, "x"), None, 7, [8, 9], [1, 2.5], ["y"]),
    )
    got = list(given)
    got[6] += 'é"\\\n'
    got[7] = [[1, 2], [], []]
    given_problem = problem("cpp", inputs=(given, given), expected=(tuple(got), tuple(got)))
    verdict = judge.judge(given_problem, EVERYTHING)
    assert verdict.tests_passed == 2, verdict
    numbers = (
        "#include <cmath>\n#include <vector>\nstd::vector<double> f(double x) { return {x, INFINITY, -INFINITY}; }"
    )
    test = "assert f(2) == [2, float('inf'), float('-inf')]\n"
    test += "assert str(f(float('nan'))[0]) == 'nan'\nassert f(1e-9)[0] == 1e-9"
    assert judge.judge(problem("cpp", test=test), numbers).passed
    text = '#include <string>\nstd::string f(int x) { return "\\xff"; }'
    assert judge.judge(problem("cpp", test="assert f(1) == b'\\xff'"), text).passed
    for value in (2**31, -(2**31) - 1, 1.5, True, "1", None, [1]):
        verdict = judge.judge(problem("cpp", inputs=((value,),), expected=(1,)), "int f(int x) { return 1; }")
        assert verdict.error is ErrorType.TypeError, (value, verdict)
    assert judge.judge(problem("cpp", inputs=((3.0,),), expected=(9,)), SOURCE["cpp"]).passed


# ---- tests of each kind


@pytest.mark.parametrize("name", OTHERS)
def test_expected_values_come_from_the_solution(judge: Judge, name: str) -> None:
    given = problem(name, inputs=((2,), (5,)), solution=SOURCE[name])
    assert judge.check_reference(given) is None
    assert judge.judge(given, SOURCE[name]).tests_passed == 2
    assert judge.judge(given, SOURCE[name].replace("x * x", "2 * x")).message == "f(5) returned 10, expected 25"
    broken = problem(name, inputs=((2,),), solution=SOURCE[name].replace("f(", "g("))
    assert "NameError" in str(judge.check_reference(broken))


@pytest.mark.parametrize("name", OTHERS)
def test_tests_are_python_and_a_preamble_is_the_answers(judge: Judge, name: str) -> None:
    preamble, code = {
        "javascript": (
            "const ONE = 1\n\n",
            "function f(x) {\n  if (x < 0) throw new RangeError('no')\n  return x + ONE\n}",
        ),
        "cpp": (
            "#include <stdexcept>\nconstexpr int ONE = 1;\n",
            'int f(int x) {\n  if (x < 0) throw std::invalid_argument("no");\n  return x + ONE;\n}',
        ),
    }[name]
    test = (
        "import math\ndef check(candidate):\n    try:\n        candidate(-1)\n    except ValueError:\n        pass\n"
        "    assert math.isclose(candidate(1), two())\n    assert candidate(2) == 3\n"
    )
    given = problem(name, test=test, setup="def two(): return 2", preamble=preamble)
    assert judge.judge(given, code).tests_passed == 2
    verdict = judge.judge(given, code.replace("<", ">"))
    assert (verdict.error, verdict.line) == (ErrorType.ValueError, 2), "lines count from the answer's first"


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("call", ["f(x=1)", "f(1j)", "f([b'a'])", "f({'a': range(3)})"])
def test_what_the_language_has_no_value_for_is_unjudgeable(judge: Judge, name: str, call: str) -> None:
    verdict = judge.judge(problem(name, test=f"assert {call} == 1"), SOURCE[name])
    assert verdict.error is ErrorType.Unjudgeable, verdict


@NEEDS_NODE
def test_node_that_finds_no_memory_is_told() -> None:
    code = JS + "const a = []; for (;;) a.push(new Array(1000).fill(x)) }"
    with Judge(JudgeSettings(workers=1, cpu_seconds=20, memory_mib=64)) as judge:
        verdict = judge.judge(problem("javascript", test=THREE), code)
        assert verdict.error is ErrorType.MemoryError, verdict
        verdict = judge.judge(
            problem("javascript", test=THREE), JS + "const a = []; for (;;) a.push(Buffer.alloc(1 << 22, 1)) }"
        )
        assert verdict.error is ErrorType.MemoryError, verdict
        assert verdict.peak_mib < 64 + 160, verdict


def test_python_gets_nothing_that_the_others_need() -> None:
    assert LANGUAGES["python"].policy() is LEAST
    assert LEAST.calls == LEAST.execute == () and LEAST.processes == 0 and LEAST.spare_mib is None
    assert not LEAST.run_made and not LEAST.least_mib and not LEAST.least_cpu_seconds


# ---- which languages there are


def test_an_unknown_language_is_told_with_those_there_are(judge: Judge) -> None:
    for use in (judge.judge, lambda given, code: judge.check_reference(given)):
        with pytest.raises(UsageError, match=r"'rust'[\s\S]*python, javascript, cpp"):
            use(problem("rust", test=THREE, solution="fn"), "")


@pytest.mark.parametrize("name", ["javascript", "cpp"])
def test_a_language_that_is_not_installed_is_told_before_anything_is_judged(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language, "_FOLDERS", (str(tmp_path),))
    rows = [row("python", "def f(x): return x * x"), row(name, SOURCE[name])]
    files = write(tmp_path, [given for given, _ in rows], [answer for _, answer in rows])
    with pytest.raises(MachineError, match=rf"{name} cannot be judged here[\s\S]*do:  install"):
        judge_files(*files, tmp_path / "v.jsonl", JudgeSettings(workers=1), quiet=True)
    assert not list(tmp_path.glob("v.jsonl*"))


def test_a_program_that_the_jail_does_not_show_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node").write_text("#!/bin/sh\n")
    (tmp_path / "node").chmod(0o755)
    monkeypatch.setattr(language, "_FOLDERS", (str(tmp_path),))
    assert missing(LANGUAGES["javascript"]) == f"there is no node in {tmp_path}"


def test_too_little_memory_for_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "find", lambda program: f"/usr/bin/{program}")
    with pytest.raises(UsageError, match=r"judge.memory_mib=255[\s\S]*256"):
        require(["cpp"], 255)


@pytest.mark.skipif(any(missing(each) for each in LANGUAGES.values()), reason="node or g++ is not installed")
def test_the_language_goes_from_the_file_to_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        row("python", "def f(x): return x * x"),
        row("javascript", SOURCE["javascript"]),
        row("cpp", SOURCE["cpp"]),
        row("javascript", "def f(x): return x * x", "js2"),
        row("cpp", "function f(x) { return x }", "cpp2"),
    ]
    problems, answers = write(tmp_path, [given for given, _ in rows], [answer for _, answer in rows])
    out = tmp_path / "v.jsonl"
    with pytest.raises(SystemExit) as stopped:
        main(["judge", "--problems", str(problems), "--answers", str(answers), "--out", str(out), "--quiet"])
    assert not stopped.value.code, capsys.readouterr()
    verdicts = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(verdict["task_id"], verdict["error"]) for verdict in verdicts] == [
        *(("python", "Passed"), ("javascript", "Passed"), ("cpp", "Passed")),
        *(("js2", "SyntaxError"), ("cpp2", "NameError")),
    ]


@pytest.mark.skipif(any(missing(each) for each in LANGUAGES.values()), reason="node or g++ is not installed")
@pytest.mark.parametrize("without", [("namespaces",), ("landlock",), ("seccomp",), ("landlock", "seccomp", "cgroup")])
def test_every_level_judges_alike(without: tuple[str, ...]) -> None:
    with Judge(JudgeSettings(workers=2), without=without) as judge:
        jobs = [Job(key=name, problem=problem(name, test=THREE), code=code) for name, code in SOURCE.items()]
        for job, verdict in judge.judge_all(jobs):
            assert verdict.passed, (job.key, verdict)


def row(name: str, code: str, task_id: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    task_id = task_id or name
    given = {"task_id": task_id, "prompt": "f", "entry_point": "f", "inputs": [[2]], "expected": [4], "language": name}
    return given, {"task_id": task_id, "solution": code}


def write(folder: Path, problems: list[dict[str, Any]], answers: list[dict[str, Any]]) -> tuple[Path, Path]:
    for name, rows in (("p.jsonl", problems), ("a.jsonl", answers)):
        (folder / name).write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return folder / "p.jsonl", folder / "a.jsonl"
