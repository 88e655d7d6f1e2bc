"""Pixels a second in the window, canvas and overlays live, against `generate()`; and how late the window is then."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

MODELS = {
    "tiny-imagegpt": ("tiny-imagegpt", 128, 5),
    "12 × 512, 32 × 32": ("new:imagegpt?n_layer=12&n_embd=512&n_head=8&n_positions=1024", 96, 3),
}  # name: model, pixels painted, rounds
SETTLE_S = 600.0


@dataclass(frozen=True)
class Round:
    """One painting in the window."""

    pixels_per_s: float
    work_mean_ms: float
    work_p99_ms: float
    lateness_p99_ms: float


def measure() -> dict[str, dict[str, dict[str, float]]]:
    """By model: pixels/s, how many times `generate()`, frame work and lateness in milliseconds, the worst round's."""
    return {"painting": {name: _model(*of) for name, of in MODELS.items()}}


def _model(model: str, pixels: int, rounds: int) -> dict[str, float]:
    """Rounds in turn, the first of them to warm up; half of the picture is given."""
    from app.offscreen import Stage, stage
    from app.panels.canvas import CanvasPanel
    from app.state import intents as i
    from core.bench_pictures import painter

    def paint(scene: Stage) -> Round:
        scene.settle()  # the window stood still while the library painted
        scene.store.forget_costs()
        scene.run(None, pixels)
        run, cost = scene.state.run, scene.store.cost()
        assert run is not None
        assert run.finish is not None
        assert run.finish.new_tokens == pixels
        scene.settle()
        speed = run.finish.tokens_per_s or 0.0
        return Round(speed, cost.work_mean_ms, cost.work_p99_ms, cost.lateness_p99_ms)

    with stage(model, "image", (1440, 900)) as scene:
        scene.load()
        scene.store.dispatch(i.SetParameter("do_sample", False))
        scene.wait(lambda s: s.draft.image.token_ids is not None, SETTLE_S, "the picture to begin with")
        canvas = scene.window.workspace.cards["canvas"].panel
        assert isinstance(canvas, CanvasPanel)
        library = painter(model, scene.state.draft.image.keep, pixels)
        theirs: list[float] = []
        ours: list[Round] = []
        for number in range(rounds + 1):
            seconds = library()
            found = paint(scene)
            if not number:
                canvas.choose_overlay("attention")  # on the painting's page from the second round on
                continue
            theirs.append(seconds)
            ours.append(found)
    speed = median(one.pixels_per_s for one in ours)
    return {
        "pixels/s": speed,
        "× gen.": speed * median(theirs),
        "frame ms": median(one.work_mean_ms for one in ours),
        "p99 ms": max(one.work_p99_ms for one in ours),
        "late p99": max(one.lateness_p99_ms for one in ours),
    }
