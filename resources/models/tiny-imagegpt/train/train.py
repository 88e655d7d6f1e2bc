"""Train the embedded model ``tiny-imagegpt`` on the pictures beside this script.

The run is deterministic (fixed seeds, deterministic kernels, one thread): it groups near-duplicates, splits by
groups, learns the palette on the training part, trains a small ImageGPT, and writes the model folder and
``metrics.json`` with the held-out bits per pixel of the model and of three simple ones.

    python train.py                       # train, export to the parent folder
    python train.py --resume              # go on after an interruption, with the same result
    python train.py --evaluate            # held-out bits per pixel of the exported folder
    python train.py --grid grid.png       # completions of held-out pictures, unedited
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines import compare
from data import COLOURS, SIDE, Ids, augment, learn_palette, quantise, read, split, weights
from grid import completions
from transformers import GenerationConfig, ImageGPTConfig, ImageGPTForCausalImageModeling, set_seed

HERE = Path(__file__).resolve().parent
SOS, POSITIONS = COLOURS, SIDE * SIDE
SEED, THREADS = 20241, 1
STEPS, BATCH = 3400, 8
WARMUP_STEPS, DECAY_STEPS, PEAK_LR, WEIGHT_DECAY = 100, 800, 2.5e-3, 0.05
CHECK_EVERY = 200


def learning_rate(step: int) -> float:
    """Warm up, stay, and fall linearly to zero over the last part of the run."""
    return PEAK_LR * min(1.0, (step + 1) / WARMUP_STEPS, (STEPS - step) / DECAY_STEPS)


def build_model() -> ImageGPTForCausalImageModeling:
    """Build the untrained network."""
    config = ImageGPTConfig(
        vocab_size=COLOURS + 1,
        n_positions=POSITIONS,
        n_embd=128,
        n_layer=8,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=SOS,
    )
    return ImageGPTForCausalImageModeling(config)


def use_fast_attention(model: ImageGPTForCausalImageModeling) -> None:
    """Train through SDPA, the same arithmetic as the module's own; the file knows nothing of it."""

    def attend(_: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *__: Any) -> tuple[torch.Tensor, None]:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True), None

    for block in model.transformer.h:
        block.attn._attn = types.MethodType(attend, block.attn)


def rows(ids: Ids) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs (SOS and all pixels but the last) and labels (all pixels), each (N, 256)."""
    labels = torch.from_numpy(ids.reshape(len(ids), -1))
    return torch.cat([torch.full((len(ids), 1), SOS), labels[:, :-1]], 1), labels


@torch.no_grad()
def bits_per_pixel(model: ImageGPTForCausalImageModeling, ids: Ids) -> float:
    """Return the mean surprisal of the pixels of ``ids`` (N, 16, 16)."""
    inputs, labels = rows(ids)
    total = 0.0
    for i in range(0, len(ids), 15):
        logits = model(inputs[i : i + 15]).logits.float()
        part = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[i : i + 15].flatten(), reduction="sum")
        total += part.item()
    return total / labels.numel() / math.log(2)


def export(model: ImageGPTForCausalImageModeling, palette: Any, folder: Path) -> None:
    """Write the fp16 model, its palette and the generation defaults to a folder."""
    half = ImageGPTForCausalImageModeling(ImageGPTConfig(**model.config.to_dict()))
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=0.95, max_new_tokens=POSITIONS, bos_token_id=SOS
    )
    half.half().save_pretrained(folder)
    processor = {
        "image_processor_type": "ImageGPTImageProcessor",
        "clusters": [[round(float(c), 6) for c in colour] for colour in palette],
        "do_color_quantize": True,
        "do_normalize": True,
        "do_resize": True,
        "resample": 2,
        "size": {"height": SIDE, "width": SIDE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor) + "\n", encoding="utf-8")


def load(folder: Path) -> ImageGPTForCausalImageModeling:
    """Load an exported folder as the application does, computing in fp32."""
    return ImageGPTForCausalImageModeling.from_pretrained(folder, use_safetensors=True, dtype=torch.float32).eval()


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Build AdamW; matrices decay, vectors do not."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.95), fused=True)


def train_model(
    model: ImageGPTForCausalImageModeling,
    train: Ids,
    weight: Any,
    dev: Ids,
    palette: Any,
    checkpoints: Path,
    resume: bool,
) -> dict[str, Any]:
    """Train in bf16 autocast; keep the state that is best on the dev part in ``checkpoints/best``."""
    optimizer, begin, best, minutes, losses = optimizer_of(model), 0, math.inf, 0.0, []
    last = checkpoints / "last.pt"
    if resume and last.exists():
        state = torch.load(last, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begin, best, minutes = state["step"], state["best"], state["minutes"]
    white, started = int(quantise(np.full((1, SIDE, SIDE, 3), 255, np.uint8), palette)[0, 0, 0]), time.monotonic()
    for step in range(begin, STEPS):
        rng = np.random.default_rng([SEED, step])  # a step's batch depends on nothing before it
        inputs, labels = rows(augment(train[rng.choice(len(train), BATCH, p=weight)], white, rng))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item() / math.log(2))
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == STEPS:
            bits = bits_per_pixel(model, dev)
            spent = minutes + (time.monotonic() - started) / 60
            print(f"step {step + 1}/{STEPS} train {np.mean(losses):.4f} dev {bits:.4f} {spent:.1f} min", flush=True)
            losses.clear()
            if bits < best:
                best = bits
                export(model, palette, checkpoints / "best")
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"step": step + 1, "best": best, "minutes": spent}, last)
    spent = minutes + (time.monotonic() - started) / 60
    return {"steps": STEPS, "pictures_seen": STEPS * BATCH, "minutes": round(spent, 1), "dev_bits_per_pixel": best}


def main() -> None:
    """Parse the command line and train, evaluate or draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=HERE / "emoji16.npz", help="the pictures")
    parser.add_argument("--out", type=Path, default=HERE.parent, help="the model folder")
    parser.add_argument("--checkpoints", type=Path, default=Path(tempfile.gettempdir()) / "tiny-imagegpt")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--evaluate", action="store_true", help="only evaluate the folder")
    parser.add_argument("--grid", type=Path, metavar="PNG", help="only draw completions of held-out pictures")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    pictures, names = read(args.data)
    parts = split(pictures, SEED)
    if args.evaluate or args.grid:
        model = load(args.out)
        clusters = json.loads((args.out / "preprocessor_config.json").read_text(encoding="utf-8"))["clusters"]
        palette = np.array(clusters, np.float32)
        held_out = quantise(pictures[parts.held_out], palette)
        if args.grid:
            print("\n".join(completions(model, held_out, [names[i] for i in parts.held_out], palette, args.grid, SEED)))
        if args.evaluate:
            print(f"{bits_per_pixel(model, held_out):.4f} bits per pixel")
        return
    set_seed(SEED)
    weight = weights(parts.group[parts.train])
    palette = learn_palette(pictures[parts.train], weight, SEED)
    train, dev, held_out = (quantise(pictures[part], palette) for part in (parts.train, parts.dev, parts.held_out))
    metrics: dict[str, Any] = {
        "data": {
            "groups": int(parts.group.max()) + 1,
            "train_pictures": len(train),
            "dev_pictures": len(dev),
            "held_out_pictures": len(held_out),
        },
        "held_out_bits_per_pixel": compare(train, weight * len(weight), dev, held_out),
    }
    print(json.dumps(metrics), flush=True)
    args.checkpoints.mkdir(parents=True, exist_ok=True)
    model = build_model()
    use_fast_attention(model)
    metrics["training"] = train_model(model, train, weight, dev, palette, args.checkpoints, args.resume)
    export(load(args.checkpoints / "best"), palette, args.out)
    reloaded = load(args.out)
    metrics["parameters"] = reloaded.num_parameters()
    metrics["held_out_bits_per_pixel"]["tiny_imagegpt"] = bits_per_pixel(reloaded, held_out)
    rounded = json.loads(json.dumps(metrics), parse_float=lambda text: round(float(text), 4))
    (args.out / "train").mkdir(exist_ok=True)
    (args.out / "train" / "metrics.json").write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(rounded, indent=2))


if __name__ == "__main__":
    main()
