"""Every hostile folder by name: what is done to it, how it must end, what is said; see `tests/hostile.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from tests.hostile import (
    EITHER,
    INDEX,
    LOADS,
    NO_CHAT,
    REFUSED,
    WEIGHTS,
    Case,
    added,
    code,
    config,
    cut,
    edit,
    first_entry,
    first_of,
    first_token,
    generation,
    grow,
    header,
    index,
    large,
    link_outside,
    make_socket,
    nested,
    normalizer,
    nothing,
    pickled,
    raw_header,
    rename_one,
    secret_path,
    special,
    split_by,
    template,
    tokenizer,
    weights,
    write,
)

BIG = 10**12
CASES: dict[str, Case] = {
    # config.json as a file
    "config missing": Case(lambda f, _: (f / "config.json").unlink(), REFUSED, "no config.json", True),
    "config empty": Case(write("config.json", ""), REFUSED, "not valid JSON"),
    "config null": Case(write("config.json", "null"), REFUSED, "not a JSON object", True),
    "config garbage": Case(write("config.json", bytes(range(256))), REFUSED, "not valid JSON"),
    "config utf-16": Case(write("config.json", '{"model_type": "gpt2"}'.encode("utf-16")), REFUSED, "not valid JSON"),
    "config 100 MB": Case(large("config.json", 100 << 20), REFUSED, "more than the 1 MiB", True),
    "config deep": Case(write("config.json", nested(100_000)), REFUSED, "nested too deeply", True),
    "config rather deep": Case(write("config.json", nested(100)), REFUSED, "nested too deeply"),
    "config with a key twice": Case(
        write("config.json", '{"model_type": "gpt2", "n_layer": 3, "n_layer": 500}'), REFUSED, "twice", True
    ),
    "config with a long number": Case(write("config.json", '{"n_layer": ' + "9" * 10_000 + "}"), REFUSED, "not valid"),
    "config with control characters": Case(config(model_type="gpt2\n\x1b[31m<b>\u202e"), REFUSED, "does not know"),
    # config.json: what it asks for
    "a million layers": Case(config(n_layer=1_000_000), REFUSED, "n_layer = 1000000", True),
    "500 layers of nothing": Case(config(n_layer=500), REFUSED, "do not belong together"),
    "two layers more": Case(config(n_layer=5), REFUSED, "missing from its files", True),
    "no heads": Case(config(n_head=0), REFUSED, "n_head = 0"),
    "negative heads": Case(config(n_head=-1), REFUSED, "n_head = -1"),
    "heads that do not divide": Case(config(n_head=7), REFUSED, "does not describe"),
    "a width of 10^12": Case(config(n_embd=BIG), REFUSED, "n_embd"),
    "the largest width": Case(config(n_embd=65_536, n_layer=512), REFUSED, "do not belong together", True),
    "a vocabulary of 10^12": Case(config(vocab_size=BIG), REFUSED, "vocab_size"),
    "the largest vocabulary": Case(config(vocab_size=1 << 20), REFUSED, "do not belong together"),
    "10^10 positions": Case(config(n_positions=10**10), REFUSED, "n_positions", True),
    "the most positions": Case(config(n_positions=1 << 24), REFUSED, "do not belong together"),
    "numbers as text": Case(config(n_layer="3"), REFUSED, "n_layer"),
    "a list of widths": Case(config(n_embd=[48, 48, 48]), REFUSED, "does not describe"),
    "a NaN epsilon": Case(write("config.json", '{"model_type": "gpt2", "layer_norm_epsilon": NaN}'), REFUSED),
    "a million labels": Case(config(num_labels=30_000_000), LOADS),
    "labels as text": Case(config(id2label="x", label2id=7), LOADS),
    "10^12 of anything": Case(config(anything=BIG), REFUSED, "too large a number", True),
    "attention types of GPT-Neo": Case(
        config(model_type="gpt_neo", attention_types=[[["global", "local"], 33_000_000]]), REFUSED, "attention_types"
    ),
    "attention types, many": Case(
        config(model_type="gpt_neo", attention_types=[[["global"], 500]] * 5000), REFUSED, "attention_types"
    ),
    "a table of 2^24 positions": Case(
        config(model_type="gptj", n_positions=1 << 24, rotary_dim=12), REFUSED, "of masks and position tables"
    ),
    "a mask of 10^10 bytes": Case(
        config(model_type="imagegpt", n_positions=1 << 16, vocab_size=301), REFUSED, "belong together|of masks"
    ),
    "a million experts": Case(config(model_type="mixtral", num_local_experts=10**6), REFUSED, "num_local_experts"),
    "layers of experts": Case(
        config(model_type="mixtral", num_hidden_layers=512, num_local_experts=4096), REFUSED, "experts"
    ),
    "a part with a million layers": Case(
        config(text_config={"num_hidden_layers": 10**6}), REFUSED, "num_hidden_layers"
    ),
    "an unknown family": Case(config(model_type="../../evil"), REFUSED, "does not know", True),
    "a family as a number": Case(config(model_type=7), REFUSED, "what kind of model"),
    "an encoder-decoder": Case(config(is_encoder_decoder=True), REFUSED, "encoder-decoder", True),
    "a T5": Case(config(model_type="t5"), REFUSED, r"encoder-decoder model \(t5\)"),
    "a masked model": Case(config(architectures=["BertForMaskedLM"]), REFUSED, "predicts masked tokens"),
    "a BERT": Case(config(model_type="bert"), REFUSED, "reads in both directions", True),
    "a classifier": Case(config(architectures=["GPT2ForSequenceClassification"]), REFUSED, "classifies texts"),
    "a picture model": Case(config(model_type="vit"), REFUSED, "does not generate text"),
    "no cache": Case(config(model_type="openai-gpt"), REFUSED, "no KV cache"),
    "quantised": Case(
        config(quantization_config={"quant_method": "gptq", "bits": 4}), REFUSED, "quantised with gptq", True
    ),
    "quantised by an unknown method": Case(
        config(quantization_config={"quant_method": "x" * 999}), REFUSED, "quantised"
    ),
    "quantised, as text": Case(config(quantization_config="evil"), REFUSED, "quantised"),
    # config.json: code
    "auto_map": Case(
        code("evil.py", then=config(auto_map={"AutoModelForCausalLM": "evil.X"})), REFUSED, "its own code", True
    ),
    "auto_map of the tokenizer": Case(
        code("evil.py", then=edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.X", None]})),
        REFUSED,
        "its own code",
        True,
    ),
    "auto_map in a part": Case(code("evil.py", then=config(anything={"auto_map": {"AutoConfig": "evil.X"}})), LOADS),
    "attention from a kernel": Case(
        code("evil.py", then=config(_attn_implementation_internal="evil/kernel", attn_implementation="evil/kernel")),
        LOADS,
        short=True,
    ),
    "experts from a kernel": Case(config(experts_implementation="evil/kernel", _experts_implementation="x"), LOADS),
    "a dtype that is none": Case(config(dtype="__import__('os')", torch_dtype="evil"), LOADS),
    "weights from elsewhere": Case(secret_path("transformers_weights", "secret.safetensors", "config.json"), LOADS),
    "a fusion": Case(config(fusion_config={"evil": True}, kernel_config={"a": "b"}), LOADS),
    "attentions asked for": Case(config(output_attentions=True, output_hidden_states=True, return_dict=False), LOADS),
    "a generate of its own": Case(
        code("custom_generate/generate.py", then=generation(custom_generate="evil")), LOADS, short=True
    ),
    "modules beside it": Case(
        code("json.py", "torch.py", "transformers.py", "sitecustomize.py", "jinja2.py", then=nothing), LOADS, short=True
    ),
    # special files
    "a pipe": Case(special("config.json", os.mkfifo), REFUSED, "not a regular file", True),
    "a pipe for a tokenizer": Case(special("tokenizer.json", os.mkfifo), REFUSED, "not a regular file"),
    "a pipe for weights": Case(special(WEIGHTS, os.mkfifo), REFUSED, "not a regular file", True),
    "a pipe for a template": Case(special("chat_template.jinja", os.mkfifo), REFUSED, "not a regular file"),
    "a socket": Case(special("generation_config.json", make_socket), REFUSED, "not a regular file", True),
    "a device": Case(special("config.json", lambda p: p.symlink_to("/dev/zero")), REFUSED, "not a regular file", True),
    "a device for weights": Case(special(WEIGHTS, lambda p: p.symlink_to("/dev/zero")), REFUSED, "regular file"),
    "a folder": Case(special("tokenizer.json", Path.mkdir), REFUSED, "not a regular file"),
    "a link to itself": Case(special("config.json", lambda p: p.symlink_to(p)), REFUSED, "cannot be read", True),
    "a circle of links": Case(
        lambda f, _: (
            (f / "tokenizer.json").unlink(),
            (f / "tokenizer.json").symlink_to("a"),
            (f / "a").symlink_to("tokenizer.json"),
        ),
        REFUSED,
        "cannot be read",
    ),
    "a link to nowhere": Case(special(WEIGHTS, lambda p: p.symlink_to("gone")), REFUSED, "cannot be read"),
    "a link to a secret": Case(link_outside("tokenizer_config.json", "secret.json"), REFUSED, "outside", True),
    "a link to the secret weights": Case(link_outside(WEIGHTS, "secret.safetensors"), REFUSED, "outside", True),
    "a file that cannot be read": Case(lambda f, _: (f / "config.json").chmod(0), EITHER, "cannot be read"),
    # weights
    "no weights": Case(lambda f, _: (f / WEIGHTS).unlink(), REFUSED, "has no weights"),
    "weights empty": Case(write(WEIGHTS, b""), REFUSED, "not a safetensors file"),
    "weights cut": Case(cut(0.5), REFUSED, "incomplete", True),
    "weights cut in the header": Case(cut(0.001), REFUSED, "incomplete"),
    "weights and more": Case(
        lambda f, _: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes() + b"PK\x03\x04"), REFUSED, "longer"
    ),
    "an HTML page": Case(write(WEIGHTS, "<!doctype html>" * 100), REFUSED, "not a safetensors file"),
    "a Git LFS pointer": Case(write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"), REFUSED, "git lfs pull"),
    "a header of 2^63": Case(raw_header(b"{}", 1 << 63), REFUSED, "not a safetensors file", True),
    "a header of 100 MB": Case(large(WEIGHTS, 200 << 20), REFUSED, "incomplete|damaged|not a safetensors"),
    "a header of brackets": Case(raw_header(b"[" * 1_000_000), REFUSED, "damaged header", True),
    "a header of numbers": Case(raw_header(b'{"a": ' + b"9" * 100_000 + b"}"), REFUSED, "damaged header"),
    "a header of a list": Case(raw_header(b"[]"), REFUSED, "damaged header"),
    "a header in latin-1": Case(raw_header('{"é": 1}'.encode("latin-1")), REFUSED, "damaged header"),
    "a header of many names": Case(
        raw_header(json.dumps({f"t{n}": {} for n in range(500_000)}).encode()), REFUSED, "damaged header"
    ),
    "an empty header": Case(raw_header(b"{}"), REFUSED, "do not belong together"),
    "a negative offset": Case(first_entry(data_offsets=[-8, 8]), REFUSED, "damaged header"),
    "offsets the wrong way": Case(first_entry(data_offsets=[100, 0]), REFUSED, "damaged header"),
    "offsets beyond the end": Case(first_entry(data_offsets=[0, BIG]), REFUSED, "damaged header", True),
    "offsets as text": Case(first_entry(data_offsets="ab"), REFUSED, "damaged header"),
    "offsets that are true": Case(first_entry(data_offsets=[False, True]), REFUSED, "damaged header"),
    "overlapping tensors": Case(header(lambda h: h.update(extra=first_of(h) | {})), REFUSED, "damaged header", True),
    "a hole": Case(header(lambda h: h.pop(next(k for k in h if k != "__metadata__"))), REFUSED, "damaged header"),
    "a shape of 2^62": Case(first_entry(shape=[1 << 31, 1 << 31]), REFUSED, "damaged header"),
    "a negative shape": Case(first_entry(shape=[-1, -48]), REFUSED, "damaged header"),
    "an unknown dtype": Case(first_entry(dtype="EVIL"), REFUSED, "quantised format"),
    "fp8 weights": Case(first_entry(dtype="F8_E4M3"), REFUSED, "quantised format"),
    "metadata that is no text": Case(
        header(lambda h: h.update(__metadata__={"a": [1]})), REFUSED, "could not be loaded"
    ),
    "a name with a NUL": Case(header(rename_one), REFUSED, "missing from its files"),
    "a weight less": Case(
        weights(lambda t: t.pop("transformer.h.1.mlp.c_fc.weight")), REFUSED, "missing from its files", True
    ),
    "another shape": Case(
        weights(lambda t: t.update({"transformer.ln_f.weight": np.ones(47, np.float32)})), REFUSED, "another shape"
    ),
    "unknown weights": Case(weights(lambda t: t.update(evil=np.ones(9, np.float32))), LOADS),
    "weights of NaN": Case(weights(lambda t: [a.fill(np.nan) for a in t.values()]), REFUSED, "not numbers", True),
    "one weight infinite": Case(
        weights(lambda t: t["transformer.ln_f.bias"].__setitem__(3, np.inf)), REFUSED, "ln_f.bias holds values"
    ),
    "integers for weights": Case(
        weights(lambda t: t.update({k: v.astype(np.int32) for k, v in t.items()})), REFUSED, "belong together"
    ),
    # the index
    "an index to a secret": Case(
        index({"a": "../outside/secret.safetensors"}), REFUSED, "not a safetensors file of that folder", True
    ),
    "an index to an absolute path": Case(index({"a": "/etc/passwd"}), REFUSED, "not a safetensors file of that"),
    "an index to Windows": Case(index({"a": "C:\\secret.safetensors"}), REFUSED, "not a safetensors file of that"),
    "an index to a pickle": Case(index({"a": "evil.bin"}), REFUSED, "not a safetensors file of that folder"),
    "an index to numbers": Case(index({"a": 7}), REFUSED, "not a safetensors file of that folder"),
    "an index to lists": Case(index({"a": ["b"]}), REFUSED, "not a safetensors file of that folder"),
    "an index to nothing": Case(index({}), REFUSED, "names no weight files"),
    "an index of null": Case(write(INDEX, "null"), REFUSED, "not a JSON object"),
    "an index to a missing shard": Case(index({"a": "model-2.safetensors"}), REFUSED, "is missing", True),
    "an index to 5,000 shards": Case(
        index({str(n): f"model-{n}.safetensors" for n in range(5000)}), REFUSED, "is missing|more than"
    ),
    "an index of 20 MB": Case(large(INDEX, 20 << 20), REFUSED, "more than the 16 MiB"),
    "the same weights twice": Case(
        lambda f, o: (
            index({"a": "model-00001-of-00001.safetensors", "b": "b.safetensors"})(f, o),
            (f / "b.safetensors").write_bytes((f / "model-00001-of-00001.safetensors").read_bytes()),
        ),
        REFUSED,
        "twice",
    ),
    # pickles
    "a pickle": Case(pickled("pytorch_model.bin"), REFUSED, "pytorch_model.bin, a pickle", True),
    "pickles of all names": Case(pickled("model.pt", "model.ckpt", "model.pkl"), REFUSED, "a pickle"),
    "a pickle beside the weights": Case(
        pickled("pytorch_model.bin", "training_args.bin", "optimizer.pt", remove_weights=False), LOADS, short=True
    ),
    "a distributed checkpoint": Case(pickled(".metadata", "__0_0.distcp", remove_weights=False), LOADS),
    "a pickle with the name of weights": Case(pickled(WEIGHTS), REFUSED, "not a safetensors file"),
    "an adapter": Case(
        lambda f, _: ((f / WEIGHTS).unlink(), (f / "adapter_config.json").write_text("{}")), REFUSED, "is an adapter"
    ),
    "an adapter of something else": Case(secret_path("base_model_name_or_path", "base", "adapter_config.json"), LOADS),
    "TensorFlow weights": Case(lambda f, _: (f / WEIGHTS).rename(f / "tf_model.h5"), REFUSED, "TensorFlow"),
    # the tokenizer
    "tokenizer garbage": Case(write("tokenizer.json", b"\xff\x00" * 1000), REFUSED, "tokenizer of"),
    "tokenizer null": Case(write("tokenizer.json", "null"), REFUSED, "tokenizer of"),
    "tokenizer of another kind": Case(write("tokenizer.json", '{"model": {"type": "Evil"}}'), REFUSED, "tokenizer of"),
    "tokenizer deep": Case(write("tokenizer.json", nested(100_000)), REFUSED, "tokenizer of"),
    "tokenizer of 70 MB": Case(large("tokenizer.json", 70 << 20), REFUSED, "more than the 40 MiB"),
    "a normaliser bomb": Case(
        normalizer(*(grow(a, b * 16) for a, b in zip("abcdefgh", "bcdefghi", strict=True))),
        REFUSED,
        "times as long",
        True,
    ),
    "a normaliser bomb of spaces": Case(normalizer(*[grow(" ", " " * 16)] * 8), REFUSED, "times as long"),
    "a normaliser bomb of nothing": Case(normalizer(*[grow("", "x" * 9)] * 3), REFUSED, "times as long"),
    "a decoder bomb": Case(
        tokenizer(
            lambda content: content.update(
                decoder={"type": "Sequence", "decoders": [grow("a", "aa")] * 40 + [{"type": "ByteLevel"}]}
            )
        ),
        REFUSED,
        "times as long",
    ),
    "a regular expression that explodes": Case(split_by(r"(a+)+$"), REFUSED, "tokenizer of", True),
    "a regular expression that explodes otherwise": Case(split_by(r"(x+x+)+y|(0|00)+1"), EITHER),
    "a broken regular expression": Case(split_by(r"((("), REFUSED, "tokenizer of"),
    "ids beyond the embedding": Case(
        tokenizer(lambda content: content["model"]["vocab"].update(evil=999_999)), REFUSED, "ids up to 999999", True
    ),
    "an added id beyond the embedding": Case(
        tokenizer(
            lambda content: content["added_tokens"].append(
                {"id": 4_000_000, "content": "<evil>", "special": True, "single_word": False}
                | {"lstrip": False, "rstrip": False, "normalized": False}
            )
        ),
        REFUSED,
        "tokenizer of",
    ),
    "an id of a post-processor beyond the embedding": Case(
        tokenizer(lambda content: content.update(post_processor=first_token(1_000_000))),
        REFUSED,
        "ids up to 1000000",
        True,
    ),
    "three million entries of one id": Case(
        tokenizer(lambda content: content["model"]["vocab"].update({f"q{n}": 299 for n in range(1_400_000)})),
        REFUSED,
        "share an id",
    ),
    "a vocabulary without end": Case(
        tokenizer(lambda content: content["model"]["vocab"].update({f"q{n}": n for n in range(1_600_000)})),
        REFUSED,
        "more than 1,500,000",
    ),
    "added tokens without end": Case(
        tokenizer(lambda content: content["added_tokens"].extend(added(f"t{n}", 300 + n) for n in range(200_000))),
        REFUSED,
        "adds 200,00. tokens",
    ),
    "added tokens of one id": Case(
        tokenizer(lambda content: content["added_tokens"].extend(added(f"t{n}", 299) for n in range(5_000))),
        REFUSED,
        "share an id",
        True,
    ),
    "merges without end": Case(
        tokenizer(lambda content: content["model"].update(merges=content["model"]["merges"] * 20_000)),
        REFUSED,
        "merges for",
    ),
    "negative ids": Case(tokenizer(lambda content: content["model"]["vocab"].update(evil=-5)), REFUSED, "tokenizer of"),
    "a token of a million characters": Case(
        tokenizer(lambda content: content["model"]["vocab"].update({"a" * 1_000_000: 299})), REFUSED, "tokenizer of"
    ),
    "merges of unknown tokens": Case(
        tokenizer(lambda content: content["model"].update(merges=[["evil", "er"]])), REFUSED, "tokenizer of"
    ),
    "a tokenizer class that is none": Case(edit("tokenizer_config.json", tokenizer_class="os.system"), LOADS),
    "a vocabulary from elsewhere": Case(secret_path("vocab_file", "secret.json"), LOADS),
    "a tokenizer from elsewhere": Case(secret_path("tokenizer_file", "secret.json"), LOADS, short=True),
    "versions of a tokenizer": Case(
        edit("tokenizer_config.json", fast_tokenizer_files=["../outside/tokenizer.1.0.json"]), LOADS
    ),
    "arguments of a tokenizer": Case(edit("tokenizer_config.json", init_inputs=["a", "b"], is_local=False), LOADS),
    "added tokens as numbers": Case(
        edit("tokenizer_config.json", added_tokens_decoder={"0": 7}), REFUSED, "tokenizer of"
    ),
    "tokens that are no text": Case(edit("tokenizer_config.json", bos_token=[1, 2], eos_token={"a": 1}), EITHER),
    "special tokens as null": Case(write("special_tokens_map.json", "null"), REFUSED, "not a JSON object"),
    # chat templates
    "a template that counts": Case(
        template("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"), NO_CHAT, short=True
    ),
    "a template that exponentiates": Case(template("{{ 10 ** (10 ** 9) }}"), NO_CHAT),
    "a template that repeats": Case(template("{{ 'x' * (10 ** 10) }}"), NO_CHAT),
    "a template that doubles": Case(
        template(
            "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}"
        ),
        NO_CHAT,
    ),
    "a template that pads": Case(template("{{ '%1000000000d' % 1 }}"), NO_CHAT),
    "a template that says 5 MB": Case(template("{{ 'x' * 5000000 }}"), NO_CHAT),
    "a template that calls itself": Case(template("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"), NO_CHAT),
    "a template that reads": Case(template("{% include '/etc/passwd' %}"), NO_CHAT),
    "a template that escapes": Case(
        template(
            "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('touch x') }}"
        ),
        NO_CHAT,
        short=True,
    ),
    "a template that escapes by a filter": Case(template("{{ messages | attr('__class__') | attr('mro') }}"), NO_CHAT),
    "a template that is broken": Case(template("{% for"), NO_CHAT),
    "a template of 1 MB": Case(template("x" * (1 << 20)), REFUSED, "more than the 0.25 MiB"),
    "a template of 1 MB inside": Case(
        edit("tokenizer_config.json", chat_template="x" * (1 << 20)), REFUSED, "characters, more than", True
    ),
    "templates with names": Case(
        lambda f, o: (
            (f / "chat_template.jinja").unlink(),
            edit("tokenizer_config.json", chat_template=[{"name": "evil", "template": "{{ 1 / 0 }}"}])(f, o),
        ),
        NO_CHAT,
    ),
    "a template as a number": Case(
        lambda f, o: (
            (f / "chat_template.jinja").unlink(),
            edit("tokenizer_config.json", chat_template=7)(f, o),
        ),
        EITHER,
    ),
    # generation_config.json
    "generation broken": Case(
        write("generation_config.json", "{"), REFUSED, "generation_config.json .* not valid", True
    ),
    "generation null": Case(write("generation_config.json", "null"), REFUSED, "not a JSON object"),
    "a million beams": Case(generation(num_beams=1_000_000), LOADS, "num_beams = 1000000", True),
    "10^12 new tokens": Case(generation(max_new_tokens=BIG, max_length=BIG), LOADS, "too large"),
    "generation of text": Case(generation(temperature="hot", top_k="all", num_beams="x"), LOADS),
    "an infinite temperature": Case(write("generation_config.json", '{"temperature": Infinity}'), LOADS, "finite"),
    "end tokens beyond everything": Case(generation(eos_token_id=[-1, 10**9, 5]), LOADS),
    "bad words without end": Case(generation(bad_words_ids=[[1]] * 50_000), LOADS, "no list of ids"),
    "a watermark of its own": Case(generation(watermarking_config={"seeding_scheme": "evil"}), LOADS),
    "generation of 1 MB": Case(large("generation_config.json", 1 << 20), REFUSED, "more than the 0.25 MiB"),
}
