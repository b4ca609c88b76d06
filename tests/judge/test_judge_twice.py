"""Answers that are judged twice, verdicts that differ, and the canaries: the judge watches itself."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ap2o_fast.book import ErrorBook
from ap2o_fast.cli import main
from ap2o_fast.config import CurriculumSettings, JudgeSettings, PromptSettings
from ap2o_fast.curriculum import make_pools, plan_epoch
from ap2o_fast.errors import MachineError
from ap2o_fast.evaluation import Flakiness, flakiness
from ap2o_fast.judge import ErrorType, Job, Judge, Verdict, judge, stream
from ap2o_fast.judge.lane import Lane
from ap2o_fast.judge.twice import is_drawn, settle
from ap2o_fast.problems.problem import Problem
from ap2o_fast.sampling import Answer, Request
from ap2o_fast.sitting import Sitting, sit

DOUBLE = Problem(
    task_id="double",
    prompt='def f(x):\n    """Twice x."""\n',
    entry_point="f",
    test="def check(f):\n    assert f(2) == 4\n    assert f(5) == 10",
)
RIGHT, WRONG = "def f(x): return 2 * x", "def f(x): return x"


def until(moment: float) -> str:
    """An answer that is right before the moment and wrong after it."""
    return f"import time\ndef f(x): return 2 * x if time.time() < {moment} else x"


def test_the_draw_is_a_matter_of_task_and_seed() -> None:
    drawn = [seed for seed in range(20_000) if is_drawn(0.01, "Mbpp/2", seed)]
    assert drawn == [seed for seed in range(20_000) if is_drawn(0.01, "Mbpp/2", seed)]
    assert 140 <= len(drawn) <= 260
    assert drawn != [seed for seed in range(20_000) if is_drawn(0.01, "Mbpp/3", seed)]
    assert set(drawn) <= {seed for seed in range(20_000) if is_drawn(0.05, "Mbpp/2", seed)}
    assert not any(is_drawn(0.0, "a", seed) for seed in range(100))
    assert all(is_drawn(1.0, "a", seed) for seed in range(100))


def test_an_answer_whose_verdicts_differ_is_flaky(monkeypatch: pytest.MonkeyPatch) -> None:
    by: defaultdict[str, list[int]] = defaultdict(list)
    run = Lane.run

    def noted(lane: Lane, key: str, problem: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        by[request["code"]].append(id(lane))
        return run(lane, key, problem, request)

    with Judge(JudgeSettings(workers=2, recheck=1.0)) as opened:
        monkeypatch.setattr(Lane, "run", noted)
        moment = time.time() + 2
        codes = [until(moment), RIGHT, WRONG, "def f(x):"]

        def jobs() -> Iterator[Job]:
            yield from (Job(key=number, problem=DOUBLE, code=code, seed=number) for number, code in enumerate(codes))
            time.sleep(max(0.0, moment - time.time()) + 0.05)  # while jobs may still come, no second judging begins

        verdicts = [verdict for _, verdict in opened.judge_all(jobs())]
    assert [verdict.error.name for verdict in verdicts] == ["Flaky", "Passed", "WrongResult", "SyntaxError"]
    assert verdicts[0].message.startswith("judged twice: Passed, then WrongResult (f(2) returned 2, expected 4")
    assert not verdicts[0].passed and not verdicts[0].error.is_failure
    assert (verdicts[0].tests_passed, verdicts[0].tests_total) == (0, 2)
    assert verdicts[0].cpu_seconds > 0 and verdicts[0].sandbox_level >= 2
    assert {code: len(lanes) for code, lanes in by.items()} == dict.fromkeys(codes, 2)


def test_the_second_verdict_is_another_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    by: defaultdict[str, list[int]] = defaultdict(list)
    run = Lane.run

    def noted(lane: Lane, key: str, problem: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        by[request["code"]].append(id(lane))
        return run(lane, key, problem, request)

    slow = f"import time\ntime.sleep(1.5)\n{RIGHT}"  # so the first one's worker has been free for longer: it is next
    jobs = [Job(key=0, problem=DOUBLE, code=code, seed=0) for code in (RIGHT, slow)]
    with Judge(JudgeSettings(workers=2, recheck=1.0)) as opened:
        monkeypatch.setattr(Lane, "run", noted)

        def given() -> Iterator[Job]:
            yield from jobs
            time.sleep(3)

        assert all(verdict.passed for _, verdict in opened.judge_all(given()))
    assert len(by[RIGHT]) == len(set(by[RIGHT])) == 2


def test_results_wait_for_the_second_verdict_of_few_answers_only(opened: Judge) -> None:
    """Else a stream of a hundred thousand answers would be held in memory because one of its first is judged twice."""
    drawn = next(seed for seed in range(10_000) if is_drawn(0.01, DOUBLE.task_id, seed))
    others = [seed for seed in range(1000) if not is_drawn(0.01, DOUBLE.task_id, seed)][: 2 * stream.LATER]
    taken = []

    def jobs() -> Iterator[Job]:
        for seed in [drawn, *others]:
            taken.append(seed)
            yield Job(key=seed, problem=DOUBLE, code=RIGHT, seed=seed)

    results = opened.judge_all(jobs())
    assert next(results)[0].key == drawn
    assert stream.LATER < len(taken) <= stream.LATER + 6
    assert [job.key for job, _ in results] == others


def test_an_answer_without_a_seed_is_judged_once(monkeypatch: pytest.MonkeyPatch, opened: Judge) -> None:
    runs = []
    run = Lane.run
    monkeypatch.setattr(Lane, "run", lambda lane, *given: runs.append(given) or run(lane, *given))
    opened.settings = opened.settings.model_copy(update={"recheck": 1.0})
    assert [verdict.passed for _, verdict in opened.judge_all([Job(key=0, problem=DOUBLE, code=RIGHT)])] == [True]
    assert len(runs) == 1


def test_what_becomes_of_two_verdicts() -> None:
    passed, wrong = (Verdict(error=error, tests_total=3) for error in (ErrorType.Passed, ErrorType.WrongResult))
    lost = Verdict(error=ErrorType.SandboxFailure, message="the fork server is gone")
    vague = Verdict(error=ErrorType.Unjudgeable)
    assert settle(passed, passed) is passed and settle(wrong, wrong) is wrong
    assert settle(passed, wrong).error is settle(wrong, passed).error is settle(passed, vague).error is ErrorType.Flaky
    assert settle(passed, lost) is settle(lost, passed) is lost, "the judge's own failure says nothing of the answer"
    assert len(settle(passed, Verdict(error=ErrorType.ValueError, message="x" * 500)).message) <= 500


class Recorded:
    """A sampler that gives the answers it was made with."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def sample(self, requests: Sequence[Request], **_: Any) -> Iterator[list[Answer]]:
        (request,) = requests
        yield [
            Answer(
                task_id=request.task_id,
                sample=sample,
                seed=request.seeds[sample],
                token_ids=np.frombuffer(text.encode(), np.uint8).astype(np.int32),
                logprobs=np.full(len(text), -0.1, np.float32),
                text=text,
                finish="eos",
            )
            for sample, text in enumerate(self.texts)
        ]


def test_a_flaky_answer_is_in_the_book_and_in_no_pair(tmp_path: Path) -> None:
    moment = time.time() + 4
    turning = until(moment)
    rising = turning.replace("<", ">=")  # wrong at first, right later
    pause = f"import time\ntime.sleep(max(0, {moment} - time.time()) + 0.1)\n{WRONG}"
    texts = [turning, rising, RIGHT, RIGHT + " + 0", WRONG, "def f(x): return y", pause]
    how = Sitting(stage="exam", round=0, policy="init", n=len(texts), temperature=1, top_p=1, max_new_tokens=9, stop=())
    with (
        ErrorBook.create(tmp_path / "book") as book,
        # One worker: the pause lies between the two judgings of every answer.
        Judge(JudgeSettings(workers=1, recheck=1.0)) as opened,
    ):
        sit(
            how,
            [DOUBLE],
            book=book,
            sampler=Recorded(texts),
            judge=opened,
            tokenizer=lambda text, **_: {"input_ids": list(text.encode())},
            prompt=PromptSettings(style="paper"),
            seed=0,
            quiet=True,
        )
        error = [ErrorType(code).name for code in book.column("error")]
        assert error == ["Flaky", "Flaky", "Passed", "Passed", "WrongResult", "NameError", "WrongResult"]
        assert flakiness(book, 0, recheck=1.0) == Flakiness(twice=7, flaky=2)
        pools, _ = make_pools(book, CurriculumSettings())
        plan = plan_epoch(pools, CurriculumSettings(), epoch=0, epochs=1, quiz_errors={1: 1}, seed=0)
        assert set(plan.chosen) <= {2, 3} and set(plan.rejected) == {4, 5, 6}


def test_the_rate_says_how_sure_it_is() -> None:
    assert Flakiness(twice=0, flaky=0).rate is None and Flakiness(twice=0, flaky=0).interval == (0, 1)
    # Clopper-Pearson: each end is where the count seen, or one further from it, has a chance of 2.5 %.
    for flaky, twice in ((0, 100), (3, 40), (1, 500)):
        found = Flakiness(twice=twice, flaky=flaky)
        low, high = found.interval
        assert found.rate == flaky / twice and low <= found.rate < high
        chance = [[math.comb(twice, k) * p**k * (1 - p) ** (twice - k) for k in range(twice + 1)] for p in (low, high)]
        assert sum(chance[1][: flaky + 1]) == pytest.approx(0.025)
        assert (sum(chance[0][flaky:]) == pytest.approx(0.025)) if flaky else low == 0
    assert Flakiness(twice=5, flaky=5).interval == pytest.approx((0.47817625, 1), abs=1e-7)
    assert Flakiness(twice=5, flaky=1) + Flakiness(twice=2, flaky=2) == Flakiness(twice=7, flaky=3)


@pytest.fixture
def opened() -> Iterator[Judge]:
    with Judge(JudgeSettings(workers=2)) as judge:
        yield judge


@pytest.mark.parametrize(("fault", "seen"), [("soft", "WrongResult expected, got Passed"), ("hard", "Passed expected")])
def test_an_unexpected_verdict_on_a_canary_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str, seen: str
) -> None:
    """A judge that goes wrong half-way: at the next canary `ap2o judge` ends with 4 and writes nothing."""
    monkeypatch.setattr(judge, "_CANARY_EVERY", 10)
    decide = judge.decide
    judged = []

    def broken(*given: Any) -> Any:
        verdict = decide(*given)
        judged.append(verdict)
        if len(judged) <= 6:  # two canaries at the start, then honest work
            return verdict
        return Verdict(error=ErrorType.Passed if fault == "soft" else ErrorType.WrongResult)

    monkeypatch.setattr(judge, "decide", broken)
    problem = {"task_id": "double", "prompt": DOUBLE.prompt, "entry_point": "f", "test": DOUBLE.test}
    (tmp_path / "p.jsonl").write_text(json.dumps(problem) + "\n")
    answer = json.dumps({"task_id": "double", "solution": WRONG}) + "\n"
    (tmp_path / "a.jsonl").write_text(answer * 60)
    files = [f"{tmp_path}/{name}.jsonl" for name in "pav"]
    with pytest.raises(SystemExit) as stopped:
        main(["judge", "--problems", files[0], "--answers", files[1], "--out", files[2], "--quiet", "judge.workers=1"])
    assert stopped.value.code == MachineError.exit_code
    said = capsys.readouterr().err
    assert "fails its self-test" in said and seen in said and "ap2o doctor" in said
    assert len(judged) < 30 and not Path(files[2]).exists()
