"""Keys and values in 8 bits, with a scale for each token and head.

They are quantised before anything attends to them, the newest position included: what a view shows is what ran.
Between two steps nothing of full precision is held; each step makes it anew from the 8 bits, which is their price.
"""

from __future__ import annotations

import torch

from core.decode.kv.grow import GrowLayer
from core.decode.kv.layer import Held

FP8 = torch.float8_e4m3fn
_LARGEST_FP8 = 448.0
_LARGEST_INT8 = 127.0


class QuantisedLayer(GrowLayer):
    """Stores K, V (B, H_kv, T, D) as bytes and their scales (B, H_kv, T, 1) float32, in doubling buffers."""

    largest: float

    def _encode(self, key_states: torch.Tensor, value_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        keys, key_scales = self._quantise(key_states)
        values, value_scales = self._quantise(value_states)
        return keys, values, key_scales, value_scales

    def _quantise(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bytes (B, H_kv, n, D) uint8 and scales (B, H_kv, n, 1): the largest number of a token is the largest byte."""
        exact = states.float()
        scale = exact.abs().amax(dim=-1, keepdim=True) / self.largest
        scale = torch.where(scale == 0, 1.0, scale)
        return self._to_bytes(exact / scale).view(torch.uint8), scale

    def _to_bytes(self, scaled: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _from_bytes(self, stored: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _decoded(self, part: int) -> torch.Tensor | None:
        if self._buffer is None:
            return None
        stored = self._buffer.parts[part].narrow(2, 0, self.held)
        scale = self._buffer.parts[part + 2].narrow(2, 0, self.held)
        return (self._from_bytes(stored) * scale).to(self.dtype)

    # transformers reads and sets these; nothing of full precision is to stay.
    @property
    def keys(self) -> torch.Tensor | None:
        """(B, H_kv, held, D) as attention sees them, made anew at each reading."""
        return self._decoded(0)

    @keys.setter
    def keys(self, states: torch.Tensor | None) -> None:
        pass

    @property
    def values(self) -> torch.Tensor | None:
        """(B, H_kv, held, D), likewise."""
        return self._decoded(1)

    @values.setter
    def values(self, states: torch.Tensor | None) -> None:
        pass

    def __init__(self, limit: int | None = None) -> None:
        self._buffer = None
        super().__init__(limit)

    def _show(self, length: int) -> None:
        self.length = length

    def sizes(self) -> Held:
        """Bytes of numbers and scales."""
        if self._buffer is None:
            return Held()
        key, value, key_scale, value_scale = self._buffer.position_bytes
        keys, values, key_scales, value_scales = self._buffer.allocated_bytes
        return Held(
            self.held * (key + key_scale),
            self.held * (value + value_scale),
            keys + key_scales,
            values + value_scales,
            scales=self.held * (key_scale + value_scale),
        )


class Int8Layer(QuantisedLayer):
    """Integers from -127 to 127."""

    largest = _LARGEST_INT8
    stored = torch.int8

    def _to_bytes(self, scaled: torch.Tensor) -> torch.Tensor:
        return scaled.round().to(torch.int8)

    def _from_bytes(self, stored: torch.Tensor) -> torch.Tensor:
        return stored.view(torch.int8).float()


class Fp8Layer(QuantisedLayer):
    """Floats of 4 exponent and 3 mantissa bits (e4m3)."""

    largest = _LARGEST_FP8
    stored = FP8

    def _to_bytes(self, scaled: torch.Tensor) -> torch.Tensor:
        return scaled.to(FP8)

    def _from_bytes(self, stored: torch.Tensor) -> torch.Tensor:
        return stored.view(FP8).float()
