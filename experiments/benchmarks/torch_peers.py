"""What PyTorch, Liger and TRL offer for the same work, each in its best form on a CPU.

On one thread, which is the least process time: idle threads of OpenMP spin.
"""

import functools
import importlib.util
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.measuring import Contender

__all__ = ["available", "grpo", "liger", "logits"]


def available(*modules: str) -> bool:
    """Whether PyTorch and these are installed, and JAX itself is on a CPU."""
    there = all(importlib.util.find_spec(x) for x in ("torch", *modules))
    return there and jax.default_backend() == "cpu"


@functools.cache
def _torch() -> Any:
    import torch  # pyrefly: ignore[missing-import]

    torch.set_num_threads(1)
    return torch


def _kl(torch: Any, p: Any, q: Any) -> Any:
    log_p, log_q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
    terms = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True)
    return terms.sum(-1)


def _gkd(torch: Any, p: Any, q: Any) -> Any:
    """Generalized JS with β = ½, as TRL's GKD has it."""
    log_p, log_q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
    log_m = torch.logsumexp(torch.stack([log_q, log_p]) - math.log(2), dim=0)
    kl_div = functools.partial(
        torch.nn.functional.kl_div, log_m, reduction="none", log_target=True
    )
    return (0.5 * kl_div(log_p) + 0.5 * kl_div(log_q)).sum(-1)


ROWS = {"forward_kl": _kl, "jensen_shannon": _gkd}


def logits(
    name: str,
    made: Callable[[], Sequence[jax.Array]],
    *,
    gradient: bool,
    compiled: bool,
    errors: Callable[[Callable], Mapping[str, float]] | None,
) -> Contender:
    """Of logits: the value, or the value with the gradient in the model's logits.

    `errors` takes a function from two NumPy arrays to one value a row.
    """
    title = f"torch, {'compiled' if compiled else 'eager'}"
    if not available():
        return Contender(title, None)
    torch = _torch()
    rows = functools.partial(ROWS[name], torch)

    def summed(p: Any, q: Any) -> Any:
        return rows(p, q).sum()

    # Every size has a program of its own: past the limit torch falls back to eager.
    torch._dynamo.config.recompile_limit = 1 << 16
    total = torch.compile(summed, dynamic=False) if compiled else summed

    def with_gradient(p: Any, q: Any) -> Any:
        q = q.detach().requires_grad_()
        total(p, q).backward()
        return q.grad.numpy()

    def value(p: Any, q: Any) -> Any:
        with torch.no_grad():
            return total(p, q).numpy()

    def evaluate(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return rows(torch.from_numpy(p), torch.from_numpy(q)).numpy()

    arguments = [torch.from_numpy(np.array(x)) for x in made()]
    return Contender(
        title,
        with_gradient if gradient else value,
        compiled=False,
        arguments=arguments,
        error=None if errors is None else functools.partial(errors, evaluate),
    )


def liger(
    name: str,
    chunk: int,
    made: Callable[[], Sequence[jax.Array]],
    errors: Callable[[Callable], Mapping[str, float]] | None,
) -> Contender:
    """Liger's chunked distillation loss, gradients in the model's side.

    `errors` takes a function from the four arrays to the hidden states' gradient.
    """
    title = f"Liger, chunks of {chunk}"
    if not available("liger_kernel"):
        return Contender(title, None)
    torch = _torch()
    from liger_kernel.chunked_loss import (  # pyrefly: ignore[missing-import]
        LigerFusedLinearJSDLoss,
    )

    # Liger's beta 0 is KL(target‖model).
    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        beta=0.0 if name == "forward_kl" else 0.5,
        compiled=False,
        chunk_size=chunk,
    )

    def of(p_hidden: Any, p_head: Any, q_hidden: Any, q_head: Any, labels: Any) -> Any:
        q_hidden, q_head = (x.detach().requires_grad_() for x in (q_hidden, q_head))
        loss(q_hidden, q_head, p_hidden, p_head, labels).backward()
        return q_hidden.grad.float().numpy()

    def given(arrays: Sequence[Any]) -> list[Any]:
        found = []
        for i, x in enumerate(arrays):
            wide = torch.from_numpy(np.array(x, np.float32))
            tensor = wide.to(getattr(torch, np.dtype(x.dtype).name))
            found.append(tensor.T.contiguous() if i % 2 else tensor)
        return [*found, torch.zeros(found[0].shape[0], dtype=torch.long)]

    def evaluate(*arrays: Any) -> np.ndarray:
        return of(*given(arrays))

    return Contender(
        title,
        of,
        compiled=False,
        arguments=given(made()),
        error=None if errors is None else functools.partial(errors, evaluate),
    )


def grpo(
    config: Any, prompt: np.ndarray, group: int, written: int, beta: float, rate: float
) -> Contender:
    """A step of TRL's trainer, with a Llama of the same sizes from transformers.

    `config` is a kljax `TransformerConfig`, `prompt` `[b, t]` ids. Nothing ends a text
    early; words are numbers, so that the tokenizer has nothing to do.
    """
    title = "TRL"
    if not available("trl"):
        return Contender(title, None)
    torch = _torch()
    import pyarrow  # pyrefly: ignore[missing-import]
    import tokenizers
    import transformers
    from datasets import Dataset, table  # pyrefly: ignore[missing-import]
    from trl import GRPOConfig, GRPOTrainer  # pyrefly: ignore[missing-import]

    words = {str(i): i for i in range(config.vocab_size)}
    alone = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    alone.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    names = dict.fromkeys(("pad_token", "unk_token"), "0") | {"eos_token": "1"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=alone, **names)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=config.width,
            intermediate_size=config.hidden, num_hidden_layers=config.depth,
            num_attention_heads=config.heads, tie_word_embeddings=True,
            max_position_embeddings=config.max_length,
            pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    rows = [" ".join(map(str, row)) for row in prompt.clip(2).tolist()]
    # A fingerprint of one's own: else the table's library is pickled to make one.
    data = Dataset(
        table.InMemoryTable(pyarrow.table({"prompt": rows})), fingerprint="0"
    )

    def paid(completion_ids: Any, **_: Any) -> list[float]:
        return [float(np.mean(np.array(ids) % 2 == 0)) for ids in completion_ids]

    with tempfile.TemporaryDirectory() as folder:  # the reference is read from it
        model.save_pretrained(folder)
        trainer = GRPOTrainer(
            model=folder, reward_funcs=paid, processing_class=tokenizer,
            train_dataset=data,
            args=GRPOConfig(
                output_dir=folder, per_device_train_batch_size=len(rows) * group,
                gradient_accumulation_steps=1, num_generations=group, beta=beta,
                max_completion_length=written, learning_rate=rate, loss_type="grpo",
                generation_kwargs={"min_new_tokens": written}, bf16=False,
                gradient_checkpointing=False, use_cpu=True, report_to=[],
                disable_tqdm=True,
            ),
        )  # fmt: skip
    optimizer = trainer.create_optimizer()
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    asked = [{"prompt": row} for row in rows for _ in range(group)]

    def step(*_: Any) -> np.ndarray:
        torch.set_num_threads(1)
        loss = trainer.training_step(trainer.model, list(map(dict, asked)), None)
        optimizer.step()
        optimizer.zero_grad()
        return loss.numpy()

    return Contender(title, step, compiled=False, arguments=())
