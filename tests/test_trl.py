"""Exported pairs and groups, as chat messages, train in the trainers of TRL."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiers import deep

from trajrec.cli.main import main

pytest.importorskip("trl", reason="pip install trl")

# TRL's own configurations take a name that the newest transformers has replaced.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"
)

CORPUS = Path(__file__).parent.parent / "sample_trajectories" / "support"

TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %} {{ c.function.name }} {{ c.function.arguments }}{% endfor %}"
    " </s> {% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)


def make_model(folder: Path, text: str) -> str:
    """Store a random tiny model whose tokenizer knows the words of a text; return its place."""
    import tokenizers
    import transformers

    special = ["<pad>", "<s>", "</s>", "<unk>", "assistant", "tool", "user", "system"]
    words = [*special, *sorted(set(re.findall(r"\w+|[^\w\s]", text)))]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    fast.chat_template = TEMPLATE
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=2048,
        pad_token_id=0,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


def exported(kind: str, target: Path, *options: str) -> tuple[Any, str]:
    """Return the rows of an export as a dataset, and their text."""
    import datasets

    words = ["export", str(CORPUS), kind, "-o", str(target), "--messages", *options]
    assert main(words) == 0
    rows = datasets.load_dataset(
        {".jsonl": "json", ".parquet": "parquet"}[target.suffix],
        data_files=str(target),
        split="train",
        cache_dir=str(target.parent / "cache"),
    )
    return rows, json.dumps(list(rows))


def settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "out"),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
    }


@deep("trainers")
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_pairs_of_messages_train_by_dpo(tmp_path: Path, suffix: str) -> None:
    from trl import DPOConfig, DPOTrainer

    rows, text = exported("dpo", tmp_path / f"pairs{suffix}")
    trainer = DPOTrainer(
        model=make_model(tmp_path / "model", text),
        args=DPOConfig(**settings(tmp_path)),
        train_dataset=rows.select_columns(["prompt", "chosen", "rejected", "tools"]),
    )
    assert trainer.train().global_step == 2


@deep("trainers")
def test_prompts_of_groups_train_by_grpo(tmp_path: Path) -> None:
    from trl import GRPOConfig, GRPOTrainer

    rows, text = exported("grpo", tmp_path / "groups.jsonl", "--measure", "outcome")
    assert {len(row["completions"]) == len(row["advantages"]) for row in rows} == {True}
    options = settings(tmp_path) | {"num_generations": 2, "max_completion_length": 8}
    trainer = GRPOTrainer(
        model=make_model(tmp_path / "model", text),
        args=GRPOConfig(**options),
        train_dataset=rows.select_columns(["prompt"]),
        reward_funcs=lambda completions, **_: [float(len(str(row))) for row in completions],
    )
    assert trainer.train().global_step == 2
