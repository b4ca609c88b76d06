"""The one tree of settings: documented, typed, checked; TOML on disk, dotted overrides on the command line.

Precedence: defaults < file < overrides. pydantic validates, OmegaConf parses and merges the overrides.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ap2o_fast.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Settings(BaseModel):
    """Base of every node: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelSettings(Settings):
    name: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Hugging Face model: a folder or a Hub name."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Precision of weights and arithmetic. On a CPU float32: bfloat16 products are ~100 times slower there."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4`: the blocks' linear layers in 4 bits (QLoRA), computed in `dtype`; an adapter is what is trained then."""
    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1."""
    attention: Literal["auto", "exact", "torch", "flash2", "flash3", "flash4"] = "auto"
    """`auto`: the best there is. FlashAttention 2, 3, 4 or torch's: a GPU, bfloat16. `exact`: anywhere, slower."""
    liger: Literal["auto"] | bool = "auto"
    """Liger's RMSNorm and SwiGLU kernels: `auto` on a GPU where liger-kernel is installed and knows the model."""
    threads: int = Field(0, ge=0)
    """CPU threads of torch; 0 leaves torch's own choice. Results are bit-exact only at one number of threads."""


class AdapterSettings(Settings):
    kind: Literal["none", "lora", "dora"] = "none"
    """Train small matrices beside frozen weights: LoRA, or DoRA, slower, which learns lengths of rows too."""
    rank: int = Field(16, ge=1)
    """Rank of the trained matrices."""
    alpha: float = Field(32.0, gt=0)
    """What they add is scaled by alpha / rank; adapters want a learning rate 10 to 100 times that of all weights."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(rank) instead (rsLoRA)."""
    targets: tuple[str, ...] = ()
    """Linear layers of the blocks that get one, e.g. `['q_proj','v_proj']`; empty takes all. Never the head."""


class SourceSettings(Settings):
    source: str = ""
    """`starter`, a file (.jsonl, .jsonl.gz, .json) or a Hub data set name (see `ap2o data --help`)."""
    split: str = ""
    """Split of the source: train, quiz or test for `starter`, a Hub split for a Hub name; empty takes all."""
    ids: str = ""
    """Only these numbers or names, e.g. `601-974,1-10` or `HumanEval/0,HumanEval/3`; empty takes all."""
    limit: int = Field(0, ge=0)
    """At most this many, the first in file order; 0 takes all."""


class ProblemsSettings(Settings):
    train: SourceSettings = SourceSettings(source="starter", split="train")
    """Problems of the exam and of correction."""
    quiz: SourceSettings = SourceSettings(source="starter", split="quiz")
    """Validation problems: they steer replay and pick the best checkpoint."""
    test: SourceSettings = SourceSettings(source="starter", split="test")
    """Problems of the final test; never seen by training, quiz or any choice."""
    audit: bool = True
    """Exclude, by name and with a warning, problems that no answer can pass."""


class HeldOutSettings(Settings):
    share: float = Field(0.0, ge=0, lt=1)
    """Share of the prompts, drawn by `seed`, whose pairs are not trained on but evaluated after every epoch."""
    source: str = ""
    """Pairs to evaluate instead of a share: a file or a Hub data set; those whose prompt is trained on are left out."""
    split: str = ""
    """Split of a Hub data set, e.g. `test`."""
    limit: int = Field(0, ge=0)
    """At most this many, the first in order; 0 takes all."""


class PreferenceSettings(Settings):
    source: str = ""
    """Pairs for `ap2o dpo` in TRL's format: .jsonl, .jsonl.gz, .json, .parquet or a Hub data set."""
    split: str = ""
    """Split of a Hub data set; empty takes `train`, or the only one."""
    limit: int = Field(0, ge=0)
    """At most this many, the first in order; 0 takes all."""
    max_tokens: int = Field(0, ge=0)
    """Longest prompt with an answer; longer pairs are excluded by name. 0 takes the model's own limit."""
    shuffle: Literal["pairs", "prompts", "off"] = "pairs"
    """Order of an epoch: `pairs` at random, `prompts` at random with the pairs of one side by side, or the file's."""
    eval: HeldOutSettings = HeldOutSettings()
    """Pairs that are evaluated and never trained on."""


class PromptSettings(Settings):
    style: Literal["paper", "chat"] = "paper"
    """`paper`: one plain sentence, the signature with docstring, an opened code fence. `chat`: the model's template."""
    max_tokens: int = Field(1024, ge=8)
    """Longer prompts are excluded by name."""


class SamplingSettings(Settings):
    engine: Literal["transformers"] = "transformers"
    """The engine that answers prompts."""
    n: int = Field(100, ge=1)
    """Answers per training problem in the exam (paper: 100)."""
    temperature: float = Field(1.0, ge=0)
    """Exam temperature; 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus of the exam."""
    max_new_tokens: int = Field(1024, ge=1)
    """Token limit of every answer: exam, quiz and test."""
    batch_answers: int = Field(64, ge=1)
    """Answers decoded side by side."""
    stop: tuple[str, ...] = ("\n```", "\nif __name__", "\nprint(", "\ndef main(", "\n#")
    """Stop strings of the `paper` style; `chat` answers end at the model's end token."""


class JudgeSettings(Settings):
    workers: int = Field(0, ge=0)
    """Programs judged side by side; 0 takes the number of cores."""
    min_level: int = Field(2, ge=0, le=3)
    """Least isolation; below it nothing runs. 1 process limits, 2 namespaces or Landlock + seccomp, 3 both + cgroup."""
    cpu_seconds: float = Field(2.0, gt=0)
    """CPU-time limit of one answer: this, or `reference_factor` times the reference solution where that is more."""
    reference_factor: float = Field(4.0, ge=1)
    """CPU limit as a multiple of the reference solution's time."""
    wall_factor: float = Field(10.0, ge=1)
    """Wall-time back-stop as a multiple of the CPU limit."""
    memory_mib: int = Field(1024, ge=64)
    """Address-space limit of one answer."""
    output_kib: int = Field(1024, ge=1)
    """An answer that prints more than this is stopped (`OutputLimit`)."""
    recheck: float = Field(0.01, ge=0, le=1)
    """Share of answers judged twice to measure flakiness; one whose verdicts differ is `Flaky` and never trained on."""
    ray_address: str = ""
    """Ray cluster whose nodes judge (`auto`, or `host:port`); needs the extra `ray`. Empty: this machine alone."""


class CurriculumSettings(Settings):
    system: Literal["dyn-dpo", "ap2o-l2h", "ap2o-h2l"] = "ap2o-l2h"
    """Which system chooses the pairs (paper, section on correction)."""
    replay: Literal["paper", "off"] = "paper"
    """`paper`: as many replayed failures as the window holds, split by the quiz's error ratio. `off`: none."""
    pairs_per_problem: int = Field(0, ge=0)
    """Window pairs of a problem an epoch; 0 takes every failure in the window (the paper's M x N_f pairs in all)."""
    min_passed: int = Field(2, ge=1)
    """Problems with fewer distinct passed answers are dropped."""
    min_failed: int = Field(2, ge=1)
    """Problems with fewer distinct failed answers are dropped."""


class TrainSettings(Settings):
    epochs: int = Field(200, ge=1)
    """T: the window slides over all failures in this many epochs; a quiz follows each. 3 passes in `ap2o dpo`."""
    patience: int = Field(0, ge=0)
    """Stop after this many epochs in a row without a new best evaluation or quiz; 0 never does."""
    checkpoint_steps: int = Field(0, ge=0)
    """Optimiser steps between checkpoints, beside those after each epoch; 0 for none. 200 in `ap2o dpo`."""
    lr: float = Field(5e-7, gt=0)
    """Peak learning rate (paper: 5e-7 in bf16 on GPUs)."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of all steps with a rising learning rate; linear decay to zero after it."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's betas."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's epsilon."""
    clip: float = Field(1.0, gt=0)
    """Largest global gradient norm."""
    batch_pairs: int = Field(32, ge=1)
    """Pairs of one optimiser step; of the curriculum window pairs, and their replay pairs come on top."""
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    """How a bfloat16 model takes its masters' float32 values: by chance, right on average, or to the nearest."""
    masters: bool = True
    """Float32 masters of bfloat16 weights; without them weights are updated and rounded by chance in place."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw_8bit` keeps both of Adam's moments in 8 bits: 2 bytes a weight instead of 8."""
    offload_optimizer: bool = False
    """Keep moments and masters in host memory; they pass through the GPU slice by slice at each step."""
    token_budget: int = Field(4096, ge=64)
    """Packed tokens of one forward pass; a step runs as many as its pairs need."""
    chunk_rows: int = Field(0, ge=0)
    """Completion tokens whose logits exist at one time; 0 leaves it to the head: 1024, or on a GPU up to 4096."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    compile: bool = False
    """torch.compile each decoder layer: the first steps take minutes, the later ones less time."""
    deterministic: bool = False
    """Equal runs give equal weights on a GPU too, more slowly; needs CUBLAS_WORKSPACE_CONFIG=:4096:8 set."""
    profile_steps: str = ""
    """Record these optimiser steps, e.g. `3-5`, as a trace under the run folder's `profiles`; empty records none."""
    activation_offload: bool = False
    """Keep what checkpointing saves, the inputs of the layers, in host memory until the backward pass."""
    memory_limit_gib: float = Field(0.0, ge=0)
    """Pick the cheapest of the settings above that keep to so much memory; `ap2o doctor --plan` shows them. 0: none."""
    shard: int = Field(0, ge=0)
    """Under torchrun: how many processes divide one copy of the weights (the GPUs of a node, say); 0 takes all."""
    deadline: float = Field(600.0, gt=0)
    """Under torchrun: seconds that a process waits for the others before it gives up."""


class LossSettings(Settings):
    type: Literal["sigmoid", "hinge", "ipo", "robust", "exo_pair", "apo_zero", "apo_down"] = "sigmoid"
    """The loss of a pair, under TRL's names; `sigmoid` is DPO."""
    beta: float = Field(0.1, gt=0)
    """DPO's beta (Eq. 2)."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of pairs taken for flipped: with `sigmoid` conservative DPO; `robust` and `exo_pair` use it too."""
    sft_weight: float = Field(0.0, ge=0)
    """Times the chosen answer's mean negative log-probability a token, added to the loss of every pair."""
    length_normalized: bool = False
    """Log-ratios averaged over an answer's tokens, as `ipo` always does; TRL's `sigmoid_norm` with `sigmoid`."""
    impl: Literal["auto", "chunked", "triton", "reference"] = "auto"
    """The fused head: `chunked` holds the logits of `train.chunk_rows` tokens, `triton` (GPU) none, `reference` all."""

    def options(self) -> dict[str, Any]:
        """What the kernels' `PairLoss` and `linear_dpo` are given, by their names."""
        return {"loss_type": self.type} | self.model_dump(exclude={"type", "impl"})


class QuizSettings(Settings):
    temperature: float = Field(0.01, ge=0)
    """Temperature of the quiz (paper: 0.01)."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus of the quiz."""
    n: int = Field(1, ge=1)
    """Answers per quiz problem (paper: 1)."""


class EvaluateSettings(Settings):
    n: int = Field(10, ge=1)
    """Answers per test problem."""
    k: tuple[int, ...] = (1, 5, 10)
    """Which pass@k to report; each at most `n`."""
    temperature: float = Field(0.6, ge=0)
    """Temperature of the test (paper: 0.6)."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus of the test."""
    before: bool = True
    """Test the initial model too, for the comparison before/after."""


class Config(Settings):
    """All settings of a run."""

    run_dir: str = "runs/ap2o"
    """Folder that the run writes; it must not hold another run."""
    seed: int = Field(0, ge=0)
    """Every random stream derives from it: sampling, pairs, order."""
    model: ModelSettings = ModelSettings()
    adapter: AdapterSettings = AdapterSettings()
    problems: ProblemsSettings = ProblemsSettings()
    preferences: PreferenceSettings = PreferenceSettings()
    prompt: PromptSettings = PromptSettings()
    sampling: SamplingSettings = SamplingSettings()
    judge: JudgeSettings = JudgeSettings()
    curriculum: CurriculumSettings = CurriculumSettings()
    train: TrainSettings = TrainSettings()
    loss: LossSettings = LossSettings()
    quiz: QuizSettings = QuizSettings()
    evaluate: EvaluateSettings = EvaluateSettings()


def load(
    path: str | Path | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    *,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Read a TOML (or saved JSON) file, apply ``key.path=value`` overrides, validate.

    Args:
        path: a file, or what would stand in one.
        defaults: what a command puts in place of the tree's own defaults, as it would stand in a file.

    Returns: the resolved `Config`.
    Errors: `UsageError` for an unreadable file, an unknown key (with the nearest name), a value out of range or values
    that do not go together.
    """
    named = isinstance(path, (str, Path))
    tree = _read(Path(path)) if isinstance(path, (str, Path)) else dict(path or {})
    for text in overrides:
        key, equals, _ = text.lstrip("-").partition("=")
        if not equals:
            raise UsageError(f"override {text!r} has no value", do="write key=value, e.g. train.lr=1e-6")
        if not _known(key):
            raise _unknown(key)
    try:
        dotted = OmegaConf.from_dotlist([text.lstrip("-") for text in overrides])
        layers = (OmegaConf.create(dict(defaults or {})), OmegaConf.create(tree), dotted)
        merged = OmegaConf.to_container(OmegaConf.merge(*layers))
    except OmegaConfBaseException as error:
        raise UsageError(f"overrides cannot be merged: {error}") from error
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise _usage_error(error, str(path) if named else "overrides") from error
    check_adapter(config.model, config.adapter)
    if max(config.evaluate.k) > config.evaluate.n:
        raise UsageError(
            f"evaluate.k asks for pass@{max(config.evaluate.k)} from evaluate.n = {config.evaluate.n} answers",
            why="pass@k needs at least k answers a problem",
            do=f"set evaluate.n to {max(config.evaluate.k)} or drop the k that are larger",
        )
    _check_loss(config.loss)
    return config


def check_adapter(model: ModelSettings, adapter: AdapterSettings) -> None:
    """Errors: `UsageError` for a quantisation that cannot be trained or computed."""
    if model.quantization == "none":
        return
    if adapter.kind == "none":
        raise UsageError(
            f"model.quantization = {model.quantization!r} needs an adapter",
            why="weights of 4 bits cannot take an optimiser's small steps: they stay frozen",
            do="set adapter.kind=lora, or model.quantization=none",
        )
    if model.dtype == "float64":
        raise UsageError(
            f"model.quantization = {model.quantization!r} does not go with model.dtype = 'float64'",
            why="bitsandbytes computes in bfloat16 or float32",
            do="set model.dtype=bfloat16 on a GPU, float32 on a CPU",
        )


def save(config: Config, path: Path) -> None:
    """Write the resolved settings as JSON; `load(path)` gives the same `Config`."""
    path.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def explain(key: str) -> str:
    """Return type, default and documentation of the setting at a dotted `key`, or of all settings under it."""
    if key and not _known(key):
        raise _unknown(key)
    return "\n".join(_describe(key))


def template() -> str:
    """A TOML file with every setting at its default, each with its meaning; `load` takes it as it is."""
    lines, group = ["# Settings of ap2o: delete what you leave at its default."], ""
    defaults = Config()
    for key, field in _leaves(Config, ""):
        table, _, name = key.rpartition(".")
        if table != group:
            lines += ["", f"[{table}]"]
            group = table
        value = value_of(defaults, key)
        shown = "" if value is None else json.dumps(list(value) if isinstance(value, tuple) else value)
        lines += [f"# {field.description}", f"{name} = {shown}" if shown else f"# {name} ="]
    return "\n".join(lines) + "\n"


def keys() -> list[str]:
    """Every dotted key of the tree, in order."""
    return [key for key, _ in _leaves(Config, "")]


def value_of(config: Config, key: str) -> Any:
    """The value at a dotted key."""
    return functools.reduce(getattr, key.split("."), config)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot read the settings file {path}",
            why=str(error.strerror),
            do="`ap2o init` writes one to start from",
        ) from error
    try:
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} is not valid {path.suffix.lstrip('.').upper()}: {error}") from error


def _leaves(model: type[Settings], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            found += _leaves(inner, f"{prefix}{name}.")
        else:
            found.append((prefix + name, field))
    return found


def _known(key: str) -> bool:
    """Whether a dotted key names a setting or a group of settings."""
    return any(leaf == key or leaf.startswith(key + ".") for leaf in keys())


def _unknown(key: str) -> UsageError:
    near = difflib.get_close_matches(key, keys(), n=1, cutoff=0.4)
    if not near:
        near = [leaf for leaf in keys() if leaf.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    return UsageError(
        f"unknown setting {key!r}" + (f"; nearest is {near[0]!r}" if near else ""),
        do="`ap2o config --explain` lists every setting",
    )


def _describe(key: str) -> list[str]:
    lines = []
    defaults = Config()
    for leaf, field in _leaves(Config, ""):
        if not key or leaf == key or leaf.startswith(key + "."):
            kind = str(field.annotation).replace("typing.", "").replace("<class '", "").replace("'>", "")
            lines.append(f"{leaf} = {json.dumps(value_of(defaults, leaf))}  ({kind})\n    {field.description}")
    return lines


def _check_loss(loss: LossSettings) -> None:
    """Refuse what the kernels define no loss for. Only settings that ask for more than plain DPO load torch."""
    if loss.model_copy(update={"beta": 0.1, "impl": "auto"}) == LossSettings():
        return
    from ap2o_kernels.losses import PairLoss

    try:
        PairLoss(**loss.options())
    except ValueError as error:
        text = str(error).replace("loss_type", "type")
        named = re.sub(r"\b(type|label_smoothing|sft_weight|length_normalized)\b", r"loss.\1", text)
        raise UsageError(named, do="`ap2o config --explain loss`") from error


def _usage_error(error: ValidationError, where: str) -> UsageError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown(key)
    return UsageError(
        f"{where}: {key} = {first['input']!r} is refused", why=first["msg"], do=f"`ap2o config --explain {key}`"
    )
