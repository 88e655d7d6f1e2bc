"""What a model cannot do, or a script gives that cannot be: one sentence each, before anything runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import core
from core.contract import CacheSpec, ParameterError, PromptError, ViewUnavailableError
from core.contract.errors import PromptCancelledError
from core.contract.interventions import ScaleHeads, SkipPart, Steer
from core.decode import embeds, forward, interventions
from core.decode.extras import Extras
from core.decode.kv import kinds
from core.decode.session import Session
from core.models.anatomy import Anatomy, find_anatomy
from core.models.block import find_parts
from core.models.loaded import LoadedModel
from tests.parity.reference import open_session, prompt_of, run

CONTRASTIVE: dict[str, Any] = {"penalty_alpha": 0.6, "top_k": 4}


def test_contrastive_search_wants_to_see_the_final_norm(
    random_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def normless(module: Any) -> Anatomy:
        return replace(find_anatomy(module), final_norm=None)

    monkeypatch.setattr(forward, "find_anatomy", normless)
    with pytest.raises(ParameterError, match=r"needs the model's final norm, which .* hides; choose another mode"):
        open_session(random_llama, [prompt_of(random_llama, 5)], CONTRASTIVE)


@pytest.mark.parametrize("layers", [2, 99])
def test_a_draft_of_all_layers_is_none(layers: int, random_llama: LoadedModel) -> None:
    assert random_llama.info.layers == 2
    with pytest.raises(ParameterError, match=f"assistant_early_exit cannot be {layers}; .* has 2 layers"):
        open_session(random_llama, [prompt_of(random_llama, 5)], {"assistant_early_exit": layers})


def test_a_model_that_takes_ids_alone_takes_no_embeddings(
    random_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_ids(module: Any) -> Anatomy:
        found = find_anatomy(module)
        return replace(found, accepts=found.accepts - {"inputs_embeds"})

    given = Extras(inputs_embeds=torch.zeros(1, 3, random_llama.info.hidden_size))
    spec = open_session(random_llama, [[1]]).spec
    monkeypatch.setattr(embeds, "find_anatomy", by_ids)
    with pytest.raises(ParameterError, match="takes no inputs_embeds; give it token ids"):
        Session(random_llama, spec, extras=given)


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (ScaleHeads(1, (0,), 0.0), "Layer 1 of .* has no output projection whose heads could be scaled"),
        (SkipPart(0, "mlp"), "Layer 0 of .* has no mlp that Tokenglass can find"),
        (SkipPart(1, "attention"), "Layer 1 of .* has no attention that Tokenglass can find"),
    ],
)
def test_parts_that_are_not_found_are_named(
    one: ScaleHeads | SkipPart, sentence: str, random_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bare(layer: Any) -> Any:
        return replace(find_parts(layer), attention=None, mlp=None, projection=None)

    monkeypatch.setattr(interventions, "find_parts", bare)
    with pytest.raises(ParameterError, match=sentence):
        open_session(random_llama, [[1, 2, 3]], interventions=(one,))


def test_a_steering_prompt_that_something_else_broke_off(random_llama: LoadedModel) -> None:
    steered = replace(
        open_session(random_llama, [[1, 2, 3]]).spec, interventions=(Steer(1, 2.0, toward=(7, 8, 9), away=(4,)),)
    )
    with pytest.raises(PromptCancelledError, match="was not read to its end, because something else came"):
        Session(random_llama, steered, cancelled=lambda: True)
    assert Session(random_llama, steered).acts.now.asked == steered.interventions


def test_layers_of_a_type_of_their_own_have_the_growing_cache_alone(
    random_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def types(model: Any, layers: int) -> list[tuple[str, int | None]]:
        return [("full_attention", None), ("chunked_attention", 8)]

    monkeypatch.setattr(kinds, "layer_types", types)
    with pytest.raises(ParameterError, match="the type chunked_attention, for which there is only the growing cache"):
        open_session(random_llama, [[1, 2, 3]], cache=CacheSpec("dynamic"))
    assert open_session(random_llama, [[1, 2, 3]]).cache.length == 0


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (CacheSpec("sink", sinks=-1), "cannot keep -1 first positions; it takes 0 or more"),
        (CacheSpec("heavy_hitters", heavy=0), "cannot keep 0 heavy positions; it takes 1 or more"),
    ],
)
def test_sizes_of_a_cache_that_make_no_sense(spec: CacheSpec, sentence: str, random_llama: LoadedModel) -> None:
    with pytest.raises(ParameterError, match=sentence):
        open_session(random_llama, [[1, 2, 3]], cache=spec)


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ({"trace_budget_mb": 0}, ParameterError, "trace_budget_mb must be at least 1"),
        ({"prompt": None, "messages": ["hello"]}, PromptError, "'hello' is no chat message"),
        ({"prompt": None, "messages": [{"role": "user"}]}, PromptError, "is a dictionary with role and content"),
        ({"past_key_values": "run"}, ParameterError, "is an earlier RunResult or a cache of transformers, not a str"),
    ],
)
def test_arguments_of_a_script(arguments: dict[str, Any], kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        core.run("tiny-gpt2", device="cpu", dtype="fp32", **{"prompt": "Once", **arguments})


def test_a_closed_result_has_no_cache(random_llama: LoadedModel) -> None:
    from core.decode.outputs import row_cache

    ours = run(random_llama, [prompt_of(random_llama, 5)])
    ours.session.close()
    with pytest.raises(ViewUnavailableError, match="The run was closed and holds no cache any more; run it again"):
        row_cache(ours.session, 0, 0, 5)
