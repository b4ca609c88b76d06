"""TRL's DPOTrainer on the pairs of a case, in its own loop: `tick` is called when it is ready and after each step."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.training.cases import PAIRS, Case, make_model


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Settings of TRL.

    Attributes:
        weights: dtype of the weights; computation is in bfloat16 on a GPU (TRL's own default), float32 on the CPU.
        micro: pairs of a forward pass, a divisor of the step's.
        checkpointing: gradient checkpointing.
        precomputed: reference log-probabilities before training instead of in each step.
        liger: Liger's layer kernels.
    """

    weights: torch.dtype = torch.float32
    micro: int = 8
    checkpointing: bool = True
    precomputed: bool = False
    liger: bool = False


def train(case: Case, device: str, setup: Setup, tick: Callable[[], None]) -> dict[str, float]:
    """Train on all steps. Returns means over the steps, under TRL's names."""
    import datasets
    from transformers import TrainerCallback
    from trl import DPOConfig, DPOTrainer

    class Ticks(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            tick()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            tick()

    class Tokenized(DPOTrainer):  # type: ignore[misc]
        """Takes tokens as they are; TRL's step is what is compared, not its tokenisation."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    datasets.disable_progress_bars()
    book = case.book
    rows = [
        {
            "prompt_ids": book.prompt_ids(problem).tolist(),
            "chosen_ids": book.tokens(chosen).tolist(),
            "rejected_ids": book.tokens(rejected).tolist(),
        }
        for plan in case.plans()
        for problem, chosen, rejected in zip(plan.problem, plan.chosen, plan.rejected, strict=True)
    ]
    model = make_model(case.shape, device, setup.weights)
    reference: PreTrainedModel | None = None
    if not setup.precomputed and case.adapter == "none":
        reference = copy.deepcopy(model)
    on_gpu = device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        trainer = Tokenized(
            model=model,
            ref_model=reference,
            peft_config=_lora() if case.adapter != "none" else None,
            args=DPOConfig(
                output_dir=folder,
                use_cpu=not on_gpu,
                bf16=on_gpu,
                learning_rate=1e-6,
                max_length=None,
                per_device_train_batch_size=setup.micro,
                gradient_accumulation_steps=case.problems * PAIRS // setup.micro,
                max_steps=case.steps,
                train_sampling_strategy="sequential",
                gradient_checkpointing=setup.checkpointing,
                precompute_ref_log_probs=setup.precomputed,
                use_liger_kernel=setup.liger,
                logging_steps=case.steps,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=_tokenizer(),
            callbacks=[Ticks()],
        )
        trainer.train()
    logged = next(line for line in trainer.state.log_history if "logps/chosen" in line)
    return {name: logged[name] for name in ("logps/chosen", "logps/rejected", "loss")}


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def _tokenizer() -> Any:
    """Knows its end and padding; nothing is tokenised with it."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<pad>": 0, "<bos>": 1, "<eos>": 2}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
