"""The head of a model card: what the Hub reads, as YAML between two lines of dashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE

from ap2o_fast.reporting.run import Run


def head(
    run: Run, *, title: str, library: str, tags: list[str], datasets: list[str], name: str, licence: dict[str, Any]
) -> str:
    """The head as text, both lines of dashes included.

    Args:
        title: what was trained with what; the results belong to it.
        library: what loads the checkpoint, ``peft`` or ``transformers``.
        name: the base model's name on the Hub, empty where it is a folder of this machine.
        licence: as `licence_of` found it.
    """
    results = _results(run)
    data = ModelCardData(
        library_name=library,
        pipeline_tag="text-generation",
        base_model=name or None,
        base_model_relation=("adapter" if library == "peft" else "finetune") if name else None,
        datasets=datasets or None,
        tags=tags,
        eval_results=results or None,
        model_name=title if results else None,
        **licence,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def licence_of(model: str, revision: str | None = None) -> dict[str, Any]:
    """The base model's ``license``, ``license_name`` and ``license_link`` as its own card says it; empty where unknown.

    Args:
        model: a folder with a card, or a Hub name whose card is in the cache: nothing is fetched.
    """
    here = Path(model) / "README.md"
    try:
        path = here if here.is_file() else _cached(model, revision)
        if path is None:
            return {}
        said = ModelCard.load(path, ignore_metadata_errors=True).data.to_dict()
    except ValueError:  # a head that is no YAML, or no name of the Hub
        return {}
    return {key: str(said[key]) for key in ("license", "license_name", "license_link") if said.get(key)}


def _cached(model: str, revision: str | None) -> Path | None:
    if Path(model).is_absolute() or model.count("/") != 1:
        return None
    found = try_to_load_from_cache(model, "README.md", revision=revision, cache_dir=HF_HUB_CACHE)
    return Path(found) if isinstance(found, str) else None


def _results(run: Run) -> list[EvalResult]:
    """pass@k of the trained model on each source of the test, where it has one; with its 95 % interval beside it."""
    if run.is_dpo or run.after is None:
        return []
    sources = run.setting("problems.test.source", "")
    names = [str(name) for name in ([sources] if isinstance(sources, str) else sources)]
    # A source is a file of this machine or a data set of the Hub: only its own name is published.
    title = " + ".join(Path(name).name.partition(".")[0] for name in names) or "test"
    how: dict[str, Any] = {
        "problems": run.after.problems,
        "answers": run.after.answers,
        "temperature": run.setting("evaluate.temperature"),
    }
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Code generation, judged by unit tests",
            dataset_type=title.lower(),
            dataset_name=title,
            metric_type=f"pass@{k}",
            metric_name=f"pass@{k}",
            metric_value=round(float(value), 4),
            metric_args={
                **how,
                "interval_95": [None if end is None else round(float(end), 4) for end in (rate["low"], rate["high"])],
            },
        )
        for k, rate in sorted(run.after.pass_at_k.items())
        if (value := rate["value"]) is not None
    ]
