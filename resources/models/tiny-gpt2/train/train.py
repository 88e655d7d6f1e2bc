"""Train the embedded model ``tiny-gpt2`` from the stories beside this script.

The run is deterministic (fixed seeds, deterministic kernels, a fixed number of
threads): it splits the stories, trains a byte-level BPE tokenizer and a small GPT-2
on the training part, fits a modified Kneser-Ney trigram to the same tokens, and
writes the model folder and ``metrics.json`` with the held-out losses of both.

    python train.py                            # train, export to the parent folder
    python train.py --evaluate                 # held-out loss of the exported folder
    python train.py --sample "Once upon a time" --seed 1
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import encode, epoch_rows, in_dev, split_stories
from ngram import KneserNeyTrigram
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    set_seed,
)

HERE = Path(__file__).resolve().parent
EOS = "<|endoftext|>"
VOCAB_SIZE, CONTEXT = 4096, 512
SEED, THREADS = 20240, 2
EPOCHS, BATCH_ROWS = 7, 4
PEAK_LR, FINAL_LR, WARMUP_STEPS, WEIGHT_DECAY, DROPOUT = 2e-3, 2e-5, 100, 0.1, 0.1


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE vocabulary; every byte is in it, so any text encodes."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=EOS,
        eos_token=EOS,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def learning_rate(step: int, steps: int) -> float:
    """Warm up linearly, then fall along a cosine from PEAK_LR to FINAL_LR."""
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return FINAL_LR + (PEAK_LR - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, stories: list[list[int]]) -> float:
    """Return nats per token; each story alone, its text and final <eos> predicted."""
    model.eval()
    total, count = 0.0, 0
    ordered = sorted(stories, key=len)
    for i in range(0, len(ordered), 16):
        batch = ordered[i : i + 16]
        width = max(map(len, batch))
        ids = torch.tensor([s + [0] * (width - len(s)) for s in batch])
        labels = torch.tensor([s[1:] + [-100] * (width - len(s)) for s in batch])
        logits = model(ids[:, :-1]).logits.float()
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
        ).item()
        count += sum(len(s) - 1 for s in batch)
    model.train()
    return total / count


def build_model(eos: int) -> GPT2LMHeadModel:
    """Build the untrained network; the dropout is set for training only."""
    config = GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_positions=CONTEXT,
        n_embd=256,
        n_layer=6,
        n_head=8,
        resid_pdrop=DROPOUT,
        embd_pdrop=DROPOUT,
        attn_pdrop=0.0,
        bos_token_id=eos,
        eos_token_id=eos,
    )
    return GPT2LMHeadModel(config)


def export(model: GPT2LMHeadModel, tokenizer: Any, folder: Path) -> None:
    """Write the fp16 model, its tokenizer and the generation defaults to a folder."""
    config = GPT2Config(**(model.config.to_dict() | {"resid_pdrop": 0.0, "embd_pdrop": 0.0}))
    eos = tokenizer.eos_token_id
    half = GPT2LMHeadModel(config)
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.8,
        top_k=40,
        max_new_tokens=200,
        bos_token_id=eos,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    half.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load(folder: Path) -> tuple[GPT2LMHeadModel, Any]:
    """Load an exported folder as the application does, computing in fp32."""
    model = GPT2LMHeadModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def train_model(
    model: GPT2LMHeadModel,
    tokenizer: Any,
    stories: list[list[int]],
    checkpoints: Path,
    max_steps: int | None,
) -> dict[str, float]:
    """Train the network in bf16 autocast; export a checkpoint after every epoch."""
    rng = random.Random(SEED)
    epochs = [epoch_rows(stories, CONTEXT, rng) for _ in range(EPOCHS)]
    ends = set(np.cumsum([len(rows) // BATCH_ROWS for rows in epochs]).tolist())
    steps = max(ends)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.95), fused=True)
    batches = [
        rows[i : i + BATCH_ROWS]
        for rows in epochs
        for i in range(0, len(rows) - BATCH_ROWS + 1, BATCH_ROWS)
    ]
    started, running, tokens = time.monotonic(), 0.0, 0
    model.train()
    for step, batch in enumerate(batches[:max_steps]):
        ids = torch.tensor(batch)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tokens += ids[:, 1:].numel()
        running += loss.item()
        if (step + 1) % 20 == 0:
            pace = tokens / (time.monotonic() - started)
            print(f"step {step + 1}/{steps} loss {running / 20:.4f} {pace:.0f} tok/s", flush=True)
            running = 0.0
        if step + 1 in ends:
            export(model, tokenizer, checkpoints / f"step-{step + 1:05d}")
    return {
        "steps": min(steps, max_steps or steps),
        "epochs": EPOCHS,
        "tokens_seen": tokens,
        "minutes": round((time.monotonic() - started) / 60, 1),
    }


def sample(folder: Path, prompt: str, seed: int) -> str:
    """Continue a prompt with the folder's own generation defaults."""
    model, tokenizer = load(folder)
    set_seed(seed)
    output = model.generate(**tokenizer(prompt, return_tensors="pt"))
    return str(tokenizer.decode(output[0], skip_special_tokens=True))


def main() -> None:
    """Parse the command line and train, evaluate or sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=HERE.parent, help="the model folder")
    parser.add_argument("--checkpoints", type=Path, default=None, help="default: a temporary one")
    parser.add_argument("--max-steps", type=int, default=None, help="stop early, for a trial")
    parser.add_argument("--evaluate", action="store_true", help="only evaluate the folder")
    parser.add_argument("--sample", metavar="PROMPT", help="only continue this prompt")
    parser.add_argument("--seed", type=int, default=SEED, help="the seed of --sample")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    if args.sample is not None:
        print(sample(args.out, args.sample, args.seed))
        return
    train, held_out, near = split_stories()
    if args.evaluate:
        model, tokenizer = load(args.out)
        print(f"{held_out_loss(model, encode(tokenizer, held_out)):.4f} nats per token")
        return
    checkpoints = args.checkpoints or Path(tempfile.gettempdir()) / "tiny-gpt2"
    set_seed(SEED)
    tokenizer = train_tokenizer([s["text"] for s in train])
    train_ids, held_ids = encode(tokenizer, train), encode(tokenizer, held_out)
    fit_ids = encode(tokenizer, [s for s in train if not in_dev(s)])
    dev_ids = encode(tokenizer, [s for s in train if in_dev(s)])
    discounts = KneserNeyTrigram(fit_ids, VOCAB_SIZE).tune(dev_ids)
    trigram = KneserNeyTrigram(train_ids, VOCAB_SIZE)
    metrics: dict[str, Any] = {
        "data": {
            "train_stories": len(train),
            "held_out_stories": len(held_out),
            **near,
            "train_tokens": sum(len(s) - 1 for s in train_ids),
            "held_out_tokens": sum(len(s) - 1 for s in held_ids),
        },
        "trigram": {
            "held_out_nats_per_token": round(trigram.loss(held_ids, discounts), 4),
            "discounts": np.round(discounts, 3).tolist(),
        },
    }
    print(json.dumps(metrics), flush=True)
    model = build_model(tokenizer.eos_token_id)
    metrics["training"] = train_model(model, tokenizer, train_ids, checkpoints, args.max_steps)
    export(model, tokenizer, args.out)
    reloaded, _ = load(args.out)
    metrics["tiny_gpt2"] = {
        "parameters": reloaded.num_parameters(),
        "held_out_nats_per_token": round(held_out_loss(reloaded, held_ids), 4),
    }
    for name in ("trigram", "tiny_gpt2"):
        nats = metrics[name]["held_out_nats_per_token"]
        metrics[name]["held_out_perplexity"] = round(math.exp(nats), 2)
    text = json.dumps(metrics, indent=2)
    (args.out / "train").mkdir(exist_ok=True)
    (args.out / "train" / "metrics.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
