"""The tree of settings: each with its type, default, range and meaning. `config` reads and writes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

UNQUOTED_OFF = BeforeValidator(lambda value: "off" if value is False else value)
"""For settings that may be `off`: on the command line, which is YAML, the bare word means false."""


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
    """Liger's RMSNorm and SwiGLU: `auto` where installed, on a GPU, for models it knows, without `train.compile`."""
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
    source: str | tuple[str, ...] = ""
    """`starter`, a file (.jsonl, .jsonl.gz, .json) or a Hub data set name; or several in a list."""
    split: str = ""
    """Split of each source: train, quiz or test for `starter`, a Hub split for a Hub name; empty takes all."""
    ids: str = ""
    """Only these numbers or names, e.g. `601-974,1-10` or `HumanEval/0,HumanEval/3`; empty takes all."""
    limit: int = Field(0, ge=0)
    """At most this many of each source, the first in file order; 0 takes all."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources, one or more."""
        return (self.source,) if isinstance(self.source, str) else self.source


class ProblemsSettings(Settings):
    train: SourceSettings = SourceSettings(source="starter", split="train")
    """Problems of the exam and of correction."""
    quiz: SourceSettings = SourceSettings(source="starter", split="quiz")
    """Validation problems: they steer replay and pick the best checkpoint."""
    test: SourceSettings = SourceSettings(source="starter", split="test")
    """Problems of the final test. Where training or quiz have some of them the rest is reported by itself, too."""
    audit: bool = True
    """Exclude, by name and with a warning, problems that no answer can pass."""

    @model_validator(mode="before")
    @classmethod
    def _starter(cls, given: Any) -> Any:
        """What names no source, say `limit` alone, is said of the default one."""
        if not isinstance(given, dict):
            return given
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        return {
            name: {**defaults[name].model_dump(), **value}
            if isinstance(defaults.get(name), SourceSettings) and isinstance(value, dict) and "source" not in value
            else value
            for name, value in given.items()
        }


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
    shuffle: Annotated[Literal["pairs", "prompts", "off"], UNQUOTED_OFF] = "pairs"
    """Order of an epoch: `pairs` at random, `prompts` at random with the pairs of one side by side, or the file's."""
    eval: HeldOutSettings = HeldOutSettings()
    """Pairs that are evaluated and never trained on."""


class PromptSettings(Settings):
    style: Literal["paper", "chat"] = "paper"
    """`paper`: one plain sentence, the signature with docstring, an opened code fence. `chat`: the model's template."""
    max_tokens: int = Field(1024, ge=8)
    """Longer prompts are excluded by name."""


class SamplingSettings(Settings):
    engine: Literal["transformers", "vllm"] = "transformers"
    """What answers prompts: `transformers` works anywhere; `vllm` (extra `vllm`), faster on a GPU, beside or apart."""
    server: str = ""
    """A vLLM on other GPUs, started by `ap2o serve`, e.g. `http://host:8000`; empty: in this process."""
    transport: Literal["tcp", "nccl"] = "tcp"
    """How `server` gets the weights: `tcp` works anywhere, `nccl` from GPU to GPU (vLLM is needed here too then)."""
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
    kv_cache_gib: float = Field(4.0, gt=0)
    """Room for keys and values of a vLLM in this process, in GiB; on a GPU held only while answers are sampled."""
    deadline: float = Field(600.0, gt=0)
    """Seconds that vLLM may take to start, to take new weights or for one step before it is given up, a server too."""
    stop: tuple[str, ...] = ("\n```", "\nif __name__", "\nprint(", "\ndef main(", "\n#")
    """Stop strings of the `paper` style; `chat` answers end at the model's end token."""


class JudgeSettings(Settings):
    workers: int = Field(0, ge=0)
    """Programs judged side by side; 0 takes the cores that may be used: a container's limit and `AP2O_CORES` count."""
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
    system: Literal["init", "sft", "dpo", "curri-dpo", "dyn-dpo", "ap2o-l2h", "ap2o-h2l", "ap2o"] = "ap2o-l2h"
    """Which system chooses the pairs (paper, section on correction); `init` trains nothing, `ap2o` goes by `order`."""
    order: Literal["auto", "none"] = "auto"
    """Of `ap2o`: `auto` tries both directions and asks the quiz set which to take; `none`: failures in random order."""
    scope: Literal["problem", "global"] = "problem"
    """Failures are sorted within a `problem`, or over all (`global`): a type across problems in adjacent steps."""
    window: Annotated[Literal["paper", "upstream", "by_type", "off"], UNQUOTED_OFF] = "paper"
    """`paper`: ceil(F/T) failures; `upstream`: their code's; `by_type`: whole error types; `off`: replay alone."""
    replay: Annotated[Literal["paper", "upstream", "off"], UNQUOTED_OFF] = "paper"
    """`paper`: as many replayed failures as the window holds, by the quiz's ratio. `upstream`: as their code. `off`."""
    draw: Literal["paper", "upstream"] = "paper"
    """`paper`: all window and replay pairs (Eq. 8). `upstream`: one pair a problem an epoch, of both pooled."""
    budget: Literal["own", "matched"] = "own"
    """`matched`: every system trains on as many pairs an epoch, twice the paper's window; `own`: on its own number."""
    pairs_per_problem: int = Field(0, ge=0)
    """Window pairs of a problem an epoch at most; 0 takes every failure in the window (M x N_f pairs in all)."""
    min_passed: int = Field(2, ge=1)
    """Problems with fewer distinct passed answers are dropped."""
    min_failed: int = Field(2, ge=1)
    """Problems with fewer distinct failed answers are dropped."""


class ReplaySettings(Settings):
    source: Literal["book", "on_policy", "both"] = "book"
    """What is replayed: failures of the exam (`book`), fresh ones of the current model (`on_policy`), or `both`."""
    n: int = Field(8, ge=1)
    """Fresh answers per problem that is asked again."""
    max_answers: int = Field(256, ge=0)
    """Fresh answers of a round at most; 0 asks every problem that fails with a type of error that the quiz shows."""
    max_seconds: float = Field(0.0, ge=0)
    """Only as many as so many seconds allow at the speed measured in the run so far; 0 sets no limit of time."""
    every: int = Field(1, ge=1)
    """A round of fresh answers at every so many quizzes; the exam is that of the first quiz."""
    temperature: float | None = Field(None, ge=0)
    """Temperature of fresh answers; unset takes `sampling.temperature`."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Nucleus of fresh answers; unset takes `sampling.top_p`."""


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
    clip: float = Field(1.0, ge=0)
    """Largest global gradient norm; 0 leaves gradients as they are."""
    batch_pairs: int = Field(32, ge=1)
    """Pairs of one optimiser step; window pairs where `curriculum.budget=own`, their replay pairs come on top."""
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    """How a bfloat16 model takes its masters' float32 values: by chance, right on average, or to the nearest."""
    masters: bool = True
    """Float32 masters of bfloat16 weights; without them weights are updated and rounded by chance in place."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw_8bit` keeps both of Adam's moments in 8 bits: 2 bytes a weight instead of 8."""
    gradient_release: bool = False
    """Update each weight as soon as its gradient is complete, then free that: needs `clip` 0 and one pass a step."""
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
    profile_steps: str = Field("", coerce_numbers_to_str=True)
    """Record these optimiser steps, e.g. `3-5`, as a trace under the run folder's `profiles`; empty records none."""
    activation_offload: bool = False
    """Keep what checkpointing saves, the inputs of the layers, in host memory until the backward pass."""
    memory_limit_gib: float = Field(0.0, ge=0)
    """Pick the cheapest of the settings above that keep to so much memory; `ap2o doctor --plan` shows them. 0: none."""
    shard: int = Field(0, ge=0)
    """Under torchrun: how many processes divide one copy of the weights (the GPUs of a node, say); 0 takes all."""
    deadline: float = Field(600.0, gt=0)
    """Under torchrun: seconds that a process waits for the tensors of the others before it gives up."""


class LossSettings(Settings):
    type: Literal["sigmoid", "hinge", "ipo", "robust", "exo_pair", "apo_zero", "apo_down", "sft"] = "sigmoid"
    """The loss of a pair, under TRL's names; `sigmoid` is DPO; `sft`, that of system `sft`, is of the chosen one."""
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

    @property
    def compares(self) -> bool:
        """Whether chosen answers are compared with rejected ones and with a reference: all but `sft`."""
        return self.type != "sft"

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


class CompareSettings(Settings):
    systems: tuple[str, ...] = ()
    """What `ap2o compare` compares, e.g. `['init','dyn-dpo','ap2o-l2h','ap2o-l2h/no-replay']`; see docs/compare.md."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2)
    """Every system is trained once with each; they decide pairs, order and test sampling, `seed` the exam."""
    baseline: str = ""
    """The system that the others are compared with; empty takes `dpo`, or `init` where that is not compared."""
    budget: Literal["matched", "own"] = "matched"
    """`matched`: every system trains on as many pairs and steps an epoch as any other; `own`: on its own number."""
    jobs: int = Field(1, ge=1)
    """Runs side by side, each in a process of its own where there are several."""
    resamples: int = Field(10_000, ge=1000)
    """Draws of the bootstrap behind the confidence intervals."""
    keep_checkpoints: bool = False
    """Keep the best checkpoint of every run; otherwise it is deleted once it has been tested."""


class TrackSettings(Settings):
    to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Trackers that show the run's numbers while it goes on, e.g. `['tensorboard','wandb']`; see docs/tracking.md."""
    project: str = "ap2o"
    """Project in Weights & Biases and trackio."""
    name: str = ""
    """Name of the run there; empty takes `run_dir`."""
    deadline: float = Field(60.0, gt=0)
    """Seconds that the end of a run waits for trackers to be done; then they are ended."""


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
    replay: ReplaySettings = ReplaySettings()
    train: TrainSettings = TrainSettings()
    loss: LossSettings = LossSettings()
    quiz: QuizSettings = QuizSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    compare: CompareSettings = CompareSettings()
    track: TrackSettings = TrackSettings()


DPO_DEFAULTS: dict[str, Any] = {"run_dir": "runs/dpo", "train": {"epochs": 3, "checkpoint_steps": 200}}
"""What plain DPO has in place of the tree's own defaults, which are the curriculum's; as it would stand in a file."""
DPO_UNUSED = ("problems.", "prompt.", "sampling.", "judge.", "curriculum.", "replay.", "quiz.", "evaluate.", "compare.")
"""Groups of settings that have no meaning in plain DPO."""
