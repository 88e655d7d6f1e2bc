"""top_p and typical_p without sorting the whole vocabulary (4 ms for 49,152 tokens): the likeliest few decide.

The result is that of transformers' classes, bit for bit: the values kept are the input's, and a token is kept or
killed by the same rule. Where the rule leaves it to something else, the class itself runs, which is counted: where a
sum comes so close to the threshold that rounding could decide, where only some of several equal tokens fit, and where
the few do not reach the mass. On other devices than a CPU sorting is quick and always done.
"""

from __future__ import annotations

import torch
from transformers import TopPLogitsWarper, TypicalLogitsWarper

from core.decode.pipeline.stage import Rows

SMALL = 4096  # tokens that are sorted as fast as they are searched
STEPS = (128, 1024, 8192)  # of the likeliest tokens, one after the other
CLOSE = 2e-6  # float32 sums of a softmax agree to 3e-7 in practice


class PartialSort:
    """Counts how often it was called for a row of a large vocabulary, and how often the full sort was needed."""

    def __init__(self) -> None:
        self.calls = 0
        self.fallbacks = 0

    def __call__(self, rows: Rows, scores: torch.Tensor) -> torch.Tensor:
        """scores (B, V) → (B, V), a `StageFn`."""
        raise NotImplementedError

    def _searches(self, scores: torch.Tensor) -> bool:
        return scores.shape[-1] > SMALL and scores.device.type == "cpu"


class PartialTopP(PartialSort):
    """`TopPLogitsWarper`: a token is killed where the mass of it and all below is at most 1 - top_p.

    In descending order that keeps a token while the mass before it is less than top_p.
    """

    def __init__(self, top_p: float, least: int) -> None:
        super().__init__()
        self.top_p, self.least = top_p, least
        self._full = TopPLogitsWarper(top_p, min_tokens_to_keep=least)

    def __call__(self, rows: Rows, scores: torch.Tensor) -> torch.Tensor:
        """scores (B, V) → (B, V)."""
        if not self._searches(scores):
            return self._sorted(rows, scores)
        kept = []
        for row in range(scores.shape[0]):
            self.calls += 1
            mask = self._kept(scores[row])
            if mask is None:
                self.fallbacks += 1
                return self._sorted(rows, scores)
            kept.append(mask)
        return scores.masked_fill(~torch.stack(kept), -torch.inf)

    def _sorted(self, rows: Rows, scores: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self._full(rows.ids, scores)
        return result

    def _kept(self, scores: torch.Tensor) -> torch.Tensor | None:
        """Mask (V,) of the kept tokens; None where only the full sort can say."""
        weights = (scores - scores.max()).exp_()
        total = float(weights.sum(dtype=torch.float64))
        needed = 1
        for most in STEPS:
            if most < needed:
                continue
            values, places = torch.topk(scores, min(most, scores.shape[0]))
            mass = weights[places].double().cumsum(0) / total
            if mass[-1] < self.top_p + CLOSE:
                needed = _needed(mass, self.top_p)
                continue
            before = torch.cat([mass.new_zeros(1), mass[:-1]])  # of the tokens above each
            if bool(((before - self.top_p).abs() <= CLOSE)[self.least :].any()):
                return None
            count = max(self.least, int((before < self.top_p).sum()))
            kept = scores >= values[count - 1]
            # Of equal ones only some fit: which, the sort decides.
            return kept if int(torch.count_nonzero(kept)) == count else None
        return None


def _needed(mass: torch.Tensor, wanted: float) -> int:
    """How many of the likeliest tokens it takes at least: those to come are no likelier than the last one."""
    last = float(mass[-1] - mass[-2])
    return len(mass) + (int((wanted - float(mass[-1])) / last) if last > 0 else STEPS[-1])


class PartialTypical(PartialSort):
    """`TypicalLogitsWarper`: keep the tokens whose surprisal is closest to the entropy, up to the mass.

    Every token as close as the one that reaches the mass is kept, so that the order of equal ones does not matter.
    """

    def __init__(self, mass: float, least: int) -> None:
        super().__init__()
        self.mass, self.least = mass, least
        self._full = TypicalLogitsWarper(max(mass, SMALLEST_MASS), min_tokens_to_keep=least)

    def __call__(self, rows: Rows, scores: torch.Tensor) -> torch.Tensor:
        """scores (B, V) → (B, V)."""
        if not self._searches(scores):
            return self._sorted(rows, scores)
        # The same operations as in the class, so that distances are equal to the last bit.
        normalized = torch.nn.functional.log_softmax(scores, dim=-1)
        p = torch.exp(normalized)
        entropy = -(normalized * p).nansum(-1, keepdim=True)
        distance = torch.abs((-normalized) - entropy)  # (B, V)
        kept = torch.empty_like(scores, dtype=torch.bool)
        for row in range(scores.shape[0]):
            self.calls += 1
            edge = self._edge(distance[row], p[row])
            if edge is None:
                self.fallbacks += 1
                return self._sorted(rows, scores)
            torch.le(distance[row], edge, out=kept[row])
        return scores.masked_fill(~kept, -torch.inf)

    def _sorted(self, rows: Rows, scores: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self._full(rows.ids, scores)
        return result

    def _edge(self, distance: torch.Tensor, p: torch.Tensor) -> torch.Tensor | None:
        """The largest distance (0-d) that is kept; None where only the full sort can say."""
        for most in STEPS:
            near, places = torch.topk(distance, min(most, distance.shape[0]), largest=False)
            mass = p[places].double().cumsum(0)
            if mass[-1] < self.mass + CLOSE:
                continue
            if bool(((mass - self.mass).abs() <= CLOSE).any()):
                return None
            index = int((mass < self.mass).sum())
            # Fewer than must be kept: which ones of equal distance, the sort decides.
            return near[index] if index + 1 >= self.least else None
        return None


SMALLEST_MASS = 1e-9  # the class refuses 0, where the closest token alone is kept
