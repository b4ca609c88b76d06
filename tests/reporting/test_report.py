from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ap2o_fast.book import ErrorBook
from ap2o_fast.errors import DataError
from ap2o_fast.judge.verdict import ErrorType
from ap2o_fast.reporting import cost, failures
from ap2o_fast.reporting.curriculum_page import caveats, render, replay_source, system
from ap2o_fast.reporting.failures import find_failures
from ap2o_fast.reporting.figures import composition, error_profile, fresh_rounds, replay_weights, training_curves
from ap2o_fast.reporting.modelcard import write_model_card
from ap2o_fast.reporting.report import write_report
from ap2o_fast.reporting.run import read_run
from ap2o_fast.reporting.sidebyside import side_by_side
from tests.reporting.conftest import FAULTS, GOOD, append

SECTIONS = [
    "result",
    "errors",
    "training",
    "curriculum",
    "replay",
    "cost",
    "book",
    "problems",
    "judge",
    "settings",
    "environment",
    "caveats",
]
FILES = [
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "quiz.jsonl",
    "plan.jsonl",
    "replay.jsonl",
    "evaluation.json",
    "timing.json",
    "analysis.json",
]


class Page(HTMLParser):
    """What a browser would see: elements with attributes, and text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text += data

    def ids(self, tag: str) -> list[str]:
        return [attributes.get("id", "") for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def html(whole_run: Path) -> str:
    return (whole_run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_every_section_is_there_and_filled(page: Page) -> None:
    assert page.ids("section") == SECTIONS
    assert "Not yet" not in page.text
    plots = [attributes["data-plot"] for _, attributes in page.elements if "data-plot" in attributes]
    wanted = {
        "errors",
        "quiz",
        "curve-loss",
        "curve-rewards-margins",
        "curriculum",
        "fresh",
        "time",
        "weights",
        "curve-tokens-s",
    }
    wanted |= {"curve-peak_mib"}
    assert wanted <= set(plots)


def test_loads_nothing_from_elsewhere(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "data", "srcset", "poster", "action"):
            assert re.match(r"$|#|data:,", attributes.get(name, "")), (tag, attributes)
    assert not [tag for tag, _ in page.elements if tag in ("iframe", "object", "embed", "img", "base")]
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]
    assert "url(" not in (Path(__file__).parents[2] / "ap2o_fast/reporting/templates/report.css").read_text()


def test_model_text_is_escaped_and_clean(html: str, page: Page) -> None:
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "<script>alert(1)</script><img src=http://example.org/x onerror=alert(2)>" in page.text
    assert "<b>hostile</b>/0" in page.text
    assert "{{ 7 * 191 }}" in page.text
    before_scripts = html[: html.rindex("</footer>")]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", before_scripts)
    assert "return 'red'.rots" in page.text  # the terminal sequences went whole, not their first byte only


def test_no_line_is_longer_than_a_reader_wants(page: Page) -> None:
    assert "x" * 301 not in page.text
    assert "(+9,711 characters)" in page.text
    assert "K" * 501 not in page.text


def test_headline_numbers_are_the_evaluations(whole_run: Path, page: Page) -> None:
    saved = json.loads((whole_run / "evaluation.json").read_text())
    text = re.sub(r"\s+", " ", page.text)
    for k in ("1", "5", "10"):
        before, after = saved["before"]["pass_at_k"][k], saved["after"]["pass_at_k"][k]
        assert f"pass@{k} {before['value']:.1%} → {after['value']:.1%}" in text
        assert f"{100 * after['low']:.1f}–{100 * after['high']:.1f}%" in text
    assert "Answers without a verdict in the test before training: 1 Unjudgeable." in text
    assert "de-quantised" in text.partition("Caveats")[2] or "de-quantised" in text
    assert "calls another function <than> the prompt names" in page.text


def test_figures_hold_the_numbers(whole_run: Path) -> None:
    run = read_run(whole_run)
    profile = error_profile(run.before, run.after)
    assert profile
    bars = {bar.name: dict(zip(bar.y, bar.x, strict=True)) for bar in profile.plot.data}
    assert run.before
    assert run.after
    assert bars["before"] == {name: run.before.errors.get(name, 0) for name in bars["before"]}
    assert bars["after"] == {name: run.after.errors.get(name, 0) for name in bars["after"]}
    loss = training_curves(run.metrics)[0].plot.data[0]
    assert list(loss.y) == [row["loss"] for row in run.metrics]
    plan = composition(run.plan)
    assert plan
    assert sum(sum(bar.y) for bar in plan.plot.data) == sum(
        sum(row[part].values()) for row in run.plan for part in ("window", "replay", "fresh")
    )


def test_time_is_divided_and_nothing_is_counted_twice(whole_run: Path) -> None:
    run = read_run(whole_run)
    run.close()
    rows = cost.cost_rows(run.timing, run.metrics)
    stages = [row for row in rows if not row["part"]]
    assert [row["stage"] for row in stages] == list(run.timing)
    assert sum(row["share"] for row in stages) == pytest.approx(1)
    steps, rest = (row["seconds"] for row in rows if row["part"])
    assert steps == pytest.approx(sum(row["seconds"] for row in run.metrics))
    assert steps + rest == pytest.approx(run.timing["correct"]["seconds"])
    plot = cost.stage_times(run.timing, run.metrics)
    assert plot
    assert sum(sum(bar.x) for bar in plot.plot.data) == pytest.approx(sum(row["seconds"] for row in stages))
    assert [row["part"] for row in cost.cost_rows(run.timing)] == [False] * len(run.timing)
    alone = cost.stage_times(run.timing)
    assert alone and len(alone.plot.data) == 1
    assert cost.stage_times({}) is None


def test_replay_weights_are_the_failures_of_the_quiz() -> None:
    quiz = [{"epoch": 0, "errors": {"NameError": 3, "KeyError": 1}}, {"epoch": 1, "errors": {}}]
    quiz.append({"epoch": 2, "errors": {"NameError": 1, "KeyError": 1}})
    plot = replay_weights(quiz)
    assert plot and plot.summary == "Shares at epoch 0 and epoch 2: NameError 75% to 50%, KeyError 25% to 50%."
    assert {bar.name: (list(bar.x), list(bar.y)) for bar in plot.plot.data} == {
        "NameError": ([0, 2], [3, 1]),
        "KeyError": ([0, 2], [1, 1]),
    }
    assert replay_weights([{"epoch": 0, "errors": {}}]) is None


def test_rounds_of_fresh_answers_are_shown_and_kept_apart_from_the_exam(whole_run: Path, page: Page) -> None:
    run = read_run(whole_run)
    plot = fresh_rounds(run.replay)
    assert plot
    assert sum(sum(bar.y) for bar in plot.plot.data) == sum(
        sum(row["asked"].values()) + row["passed"] + sum(row["failures"].values()) for row in run.replay
    )
    text = re.sub(r"\s+", " ", page.text)
    assert "failures of the exam and fresh failures of the model in training, 4 answers a problem, at most 256" in text
    for row in run.replay:
        failed = ", ".join(f"{name} {count}" for name, count in row["failures"].items())
        cells = (row["passed"], failed, 5, 1, 0, f"{row['log_ratio']:.2f}", "14.5 s")
        assert "".join(map(str, cells)) in text
    assert "replay after epoch 3" in text
    assert run.book
    exam = Counter(ErrorType(code).name for code in run.book.column("error")[run.book.column("round") == 0])
    assert f"WrongResult {exam['WrongResult']}," in text
    run.close()


def test_without_fresh_answers_it_says_what_is_replayed(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run("plain", problems=2, epochs=1, hostile=False))
    for changes, said in (
        ({"replay": {"source": "book"}}, "failures of the exam"),
        ({}, "failures of the exam"),
        ({"curriculum": {"replay": "off"}, "replay": {"source": "book"}}, "nothing"),
        ({"curriculum": {"system": "dyn-dpo"}}, "nothing"),
        ({"replay": {"source": "on_policy", "n": 4, "max_answers": 0}}, "fresh failures of the model in training"),
    ):
        assert replay_source(replace(run, config=changes)).startswith(said)
    assert "Not yet: no fresh answers have been asked for" in Page(render(replace(run, replay=[]))).text


def test_the_system_is_named_with_what_is_unusual_about_it(make_run: Callable[..., Path]) -> None:
    run = read_run(make_run("plain", problems=2, epochs=1, hostile=False))
    h2l = {"system": "ap2o-h2l", "certain": False}
    for changes, direction, said in (
        ({"system": "curri-dpo", "budget": "matched"}, {}, "DPO with all static pairs, easy to hard, budget matched"),
        ({"system": "ap2o", "order": "none"}, {}, "AP2O, failures in random order"),
        ({"system": "ap2o", "order": "auto"}, h2l, "AP2O, high to low frequency, as the quiz set decided"),
        ({"system": "ap2o", "order": "auto"}, {}, "AP2O, undecided"),
        ({"system": "ap2o-l2h", "window": "off"}, {}, "AP2O, low to high frequency, window off"),
    ):
        changed = replace(run, config={"curriculum": changes}, direction=direction)
        assert system(changed) == said
        assert any("may be chance" in caveat for caveat in caveats(changed, [])) == bool(direction)
    filled = composition([{"epoch": 1, "window": {"NameError": 3}, "replay": {}, "filled": {"NameError": 2}}])
    assert filled and "3 window pairs and 0 replayed pairs, and 2 filled in" in filled.summary


def test_ln_2_is_marked_where_a_loss_starts_there(make_run: Callable[..., Path]) -> None:
    """Other losses of equal models are other numbers: 1/(4 beta²) for IPO."""
    for kind, marked in (("sigmoid", True), ("robust", True), ("ipo", False), ("apo_zero", False)):
        run = make_run(kind)
        settings = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(settings | {"loss": {"type": kind}}))
        page = write_report(run).read_text(encoding="utf-8")
        assert ("0.6931471805599453" in page) == marked, kind


def test_failing_line_is_marked(html: str) -> None:
    row = re.search(r'<tr class="changed failing">.*?</tr>', html, re.S)
    assert row
    failing = re.findall(r'<tr class="\w+ failing">(.*?)</tr>', html, re.S)
    texts = [re.sub(r"<[^>]+>", "", cell) for cell in failing]
    assert any("▶6" in text and "numbers[number + 1]" in text for text in texts)


def test_the_error_book_says_how_much_of_it_is_shown(whole_run: Path, html: str, page: Page) -> None:
    with ErrorBook.open(whole_run / "book") as book:
        found = find_failures(book, seed=7)
        assert find_failures(book, seed=7) == found
        exam = Counter(ErrorType(code).name for code in book.column("error")[book.column("round") == 0])
    assert {kind.error: kind.answers for kind in found.kinds} == {
        name: count for name, count in exam.items() if ErrorType[name].is_failure
    }
    assert sum(kind.shown for kind in found.kinds) == len(found.shown)
    text = re.sub(r"\s+", " ", page.text)
    assert f"{found.answers:,} failed answers of the exam. {len(found.shown)} of them can be looked at" in text
    assert html.count('<details class="pair"') == len(found.shown) > 20
    for kind in found.kinds:
        mine = [failure for failure in found.shown if failure.error == kind.error]
        assert len(mine) == kind.shown == min(failures.PER_TYPE, kind.distinct)
        assert len({failure.problem for failure in mine}) == min(len(mine), kind.problems)
    assert any("summe" in text for failure in found.shown for line in failure.lines for text, _ in line.right_parts)
    assert page.text.count("What the model was asked") == len(found.shown)
    assert "def running_total(numbers):" in found.shown[0].prompt


def test_failures_that_nothing_solved_are_shown_alone(tmp_path: Path) -> None:
    fault = (ErrorType.NameError, *FAULTS[ErrorType.NameError])
    with ErrorBook.create(tmp_path / "book") as book:
        for i in range(20):
            append(book, f"hard/{i}", 0, [fault, fault])
        for i in range(20):
            append(book, f"easy/{i}", 0, [(ErrorType.Passed, GOOD, 0, ""), fault])
        book.commit()
        found = find_failures(book, seed=0)
    assert [(kind.answers, kind.problems) for kind in found.kinds] == [(60, 40)]
    hard = [failure for failure in found.shown if failure.problem.startswith("hard")]
    assert len(hard) == failures.UNSOLVED_PER_TYPE and len(found.shown) == failures.PER_TYPE
    for failure in found.shown:
        assert (failure.chosen_sample is None) == (failure in hard)
        shown = [line for line in failure.lines if line.right]
        assert "\n".join("".join(text for text, _ in line.right_parts) for line in shown) == fault[1].rstrip("\n")
        assert [line.right for line in shown if line.failing] == [fault[2]]


def test_an_answer_that_was_given_often_is_shown_once(tmp_path: Path) -> None:
    fault = (ErrorType.NameError, *FAULTS[ErrorType.NameError])
    with ErrorBook.create(tmp_path / "book") as book:
        for task_id in ("a", "b"):
            append(book, task_id, 0, [fault] * 5, distinct=False)
        book.commit()
        found = find_failures(book, seed=0)
    assert [(kind.answers, kind.distinct, kind.problems, kind.shown) for kind in found.kinds] == [(10, 2, 2, 2)]
    assert sorted(failure.problem for failure in found.shown) == ["a", "b"]


def test_the_page_is_bounded_whatever_a_model_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "\n".join(f"    x = '{'y ' * 200}{i}'" for i in range(200))
    kinds = [kind for kind in ErrorType if kind.is_failure]
    with ErrorBook.create(tmp_path / "book") as book:
        for i in range(10):
            answers = [(kind, f"def f():\n{long}\n# {kind} {i}", 180, "M" * 9000) for kind in kinds]
            append(book, f"long/{i}", 0, [(ErrorType.Passed, f"def f():\n{long}", 0, ""), *answers])
        book.commit()
        found = find_failures(book, seed=0)
        text = sum(
            len(part)
            for failure in found.shown
            for line in failure.lines
            for part, _ in (*line.left_parts, *line.right_parts)
        )
        assert 0 < text < failures.MOST_TEXT
        assert max(kind.shown for kind in found.kinds) - min(kind.shown for kind in found.kinds) <= 1, (
            "types take turns"
        )
        assert all(any(line.failing for line in failure.lines) for failure in found.shown)
        monkeypatch.setattr(failures, "MOST_TEXT", 10**9)
        monkeypatch.setattr(failures, "MOST_SHOWN", 30)
        assert len(find_failures(book, seed=0).shown) == 30


def test_side_by_side_keeps_every_line_once() -> None:
    chosen, rejected = "a = 1\nb = 2\nreturn a", "a = 1\nb = 3\nprint(b)\nreturn a"
    lines = list(side_by_side(chosen, rejected, 3))
    assert [line.kind for line in lines] == ["same", "changed", "rejected", "same"]
    for numbers, parts, source in (("left", "left_parts", chosen), ("right", "right_parts", rejected)):
        shown = [line for line in lines if getattr(line, numbers)]
        assert [getattr(line, numbers) for line in shown] == list(range(1, len(source.split("\n")) + 1))
        assert "\n".join("".join(text for text, _ in getattr(line, parts)) for line in shown) == source
    assert [line.failing for line in lines] == [False, False, True, False]
    assert lines[1].right_parts == (("b = ", False), ("3", True))


@pytest.mark.parametrize("missing", [*FILES, "book", "all"])
def test_an_incomplete_run_says_not_yet(make_run: Callable[..., Path], missing: str) -> None:
    run = make_run(problems=2, epochs=1, hostile=False)
    for name in [*FILES, "book"] if missing == "all" else [missing]:
        (run / name).rename(run / f"{name}.away")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    write_model_card(run)
    assert page.ids("section") == SECTIONS
    assert missing == "analysis.json" or "Not yet" in page.text or "not saved" in page.text


def test_damaged_files_are_named_and_do_not_stop_the_report(make_run: Callable[..., Path]) -> None:
    run = make_run(problems=2, epochs=1, hostile=False)
    metrics = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join([metrics[0], "{torn\n", *metrics[1:]]))
    (run / "timing.json").write_text('{"exam": ')
    (run / "evaluation.json").write_text('{"before": {"problems": 3}}')
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    for name in ("metrics.jsonl is damaged: line 2", "timing.json is damaged", "evaluation.json, before"):
        assert name in text


def test_a_torn_last_line_is_no_damage(make_run: Callable[..., Path]) -> None:
    run = make_run(problems=2, epochs=1, hostile=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "los')
    found = read_run(run)
    assert found.troubles == ()
    assert len(found.metrics) == 9


def test_no_such_run_is_a_usable_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run folder"):
        write_report(tmp_path / "nothing")


def test_model_card_has_the_real_numbers(whole_run: Path) -> None:
    paths = write_model_card(whole_run)
    assert paths == [whole_run / "README.md", whole_run / "checkpoints" / "best" / "README.md"]
    card = paths[1].read_text(encoding="utf-8")
    saved = json.loads((whole_run / "evaluation.json").read_text())
    assert f"{saved['after']['pass_at_k']['1']['value']:.1%}" in card
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in card
    assert f"| WrongResult | {saved['before']['errors']['WrongResult']} |" in card
    assert "- replayed: failures of the exam and fresh failures of the model in training, 4 answers a problem" in card
    assert "- fresh answers: 72 in 3 rounds" in card
    assert "de-quantised" in card
    assert str(whole_run) not in card


def test_model_card_keeps_the_folders_of_the_machine_to_itself(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(problems=2, epochs=1, hostile=False)
    config = json.loads((run / "config.json").read_text())
    config["model"]["name"] = str(tmp_path / "secret" / "tiny-model")
    (run / "config.json").write_text(json.dumps(config))
    card = write_model_card(run)[0].read_text(encoding="utf-8")
    assert "# tiny-model, trained with" in card
    assert "secret" not in card
    assert "base_model" not in card
