"""Judging on the nodes of a Ray cluster, here two on one machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from ap2o_fast.config import JudgeSettings
from ap2o_fast.errors import MachineError, SandboxRefused
from ap2o_fast.judge import ErrorType, Job, Judge, open_judge
from ap2o_fast.judge.nodes import RayJudge
from ap2o_fast.problems.problem import Problem

DOUBLE = Problem(
    task_id="double", prompt="", entry_point="f", test="assert f(2) == 4", solution="def f(x): return 2 * x"
)
BROKEN = Problem(task_id="broken", prompt="", entry_point="f", test="assert f(2) == 5", solution="def f(x): return 4")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    pytest.importorskip("ray", reason="Ray is an extra of its own, and large")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster.address
    cluster.shutdown()


def settings(address: str, **more: Any) -> JudgeSettings:
    return JudgeSettings(ray_address=address, workers=1, cpu_seconds=1, **more)


def test_every_node_judges_and_the_order_is_kept(address: str) -> None:
    with open_judge(settings(address, recheck=1.0)) as judge:
        assert isinstance(judge, RayJudge) and judge.level >= 2 and len(judge._nodes) == 2
        jobs = [Job(key=n, problem=DOUBLE, code=f"def f(x): return {n % 3} * x", seed=n) for n in range(24)]
        used: list[Any] = []
        assert judge._submit(jobs[2], used).result().passed and judge._submit(jobs[2], used).result().passed
        assert len(set(used)) == 2, "a second judging takes another node"
        for n, (job, verdict) in enumerate(judge.judge_all(jobs)):
            assert job.key == n and verdict.passed == (n % 3 == 2), (n, verdict)
        assert judge.check_reference(DOUBLE) is None and "WrongResult" in str(judge.check_reference(BROKEN))
        assert judge.judge(BROKEN, "def f(x): return 4").error is ErrorType.Unjudgeable
        judge.require(["python"])
        with pytest.raises(Exception, match="klingon"):
            judge.require(["klingon"])


def test_a_lost_node_is_named_and_its_answers_are_judged_by_another(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_judge(settings(address)) as judge:
        assert isinstance(judge, RayJudge)
        first, second = judge._nodes
        kill(first)
        assert [verdict.passed for _, verdict in judge.judge_all(_right(8))] == [True] * 8
        said = capsys.readouterr().err
        assert first.name in said and "goes on without it" in said and second.name not in said
        kill(second)
        with pytest.raises(MachineError, match="no node is left"):
            list(judge.judge_all(_right(8)))


def kill(node: Any) -> None:
    import ray

    ray.kill(node.actor)


def _right(count: int) -> list[Job]:
    return [Job(key=n, problem=DOUBLE, code="def f(x): return 2 * x") for n in range(count)]


def test_what_a_node_refuses_is_the_refusal_of_all(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ap2o_fast.__version__", "0.0.0")
    with pytest.raises(MachineError, match=r"node .* has ap2o_fast .*, this is 0\.0\.0"), open_judge(settings(address)):
        pytest.fail("opened")
    monkeypatch.undo()
    error = SandboxRefused("no", why="because", do="this")
    monkeypatch.setattr("ap2o_fast.judge.nodes._Node.call", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(SandboxRefused, match="because"), open_judge(settings(address)):
        pytest.fail("opened")


def test_no_cluster_no_judge() -> None:
    pytest.importorskip("ray", reason="Ray is an extra of its own, and large")
    with pytest.raises(MachineError, match="no Ray cluster at"), open_judge(settings("nowhere")):
        pytest.fail("opened")
    assert type(open_judge(JudgeSettings())) is Judge
