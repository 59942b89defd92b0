"""Write docs/methods.md and docs/models.md from the code: python docs/make.py."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from sparevlm.commands import known
from sparevlm.commands.listings import described_methods
from sparevlm.hf import family_facts
from sparevlm.hf.supported import REASONS
from sparevlm.methods import (
    DecoderMethod,
    PruningMethod,
    list_methods,
    method_class,
    told,
    works_with,
)

TARGET = Path(__file__).with_name("methods.md")
HEAD = """# Methods

Written by `make docs` from the docstrings; do not edit. Every method is made the same way,
`get_method(name, keep, **settings)` or its class, and used the same way, `with method(model): ...`.
`keep` is a number of tokens, a fraction, or (where it says so) `Residual(error)`; merged and
summary tokens count. With `keep=1.0` every method but `no-image` leaves the model's output
bit-identical. Settings that all have are `per` ("image", "prompt") and `positions` ("auto",
"compact", "original"). In the formulas x_i is the feature of token i as the language model gets it,
after the projector; an encoder state is the row that goes into the projector. What a selection
costs: [selection_cost.md](selection_cost.md).

"""

INSIDE = """
# Methods inside the language model

They drop tokens between its layers, on stock transformers: `with FastV(keep=96)(model): ...`, with
`generate` and forward, batches, padding, beams, further turns; later layers' caches are really
shorter, and the fast attention stays on. `keep` is what a picture has on average over all layers,
as papers count; with `average=False` it is what the last layers get. `handle.report` says which
tokens each stage left. Position ids stay. `Staged(SPARE(keep=64), FastV(keep=0.5))` prunes before
the language model and then inside it. Every family in [models.md](models.md) can be pruned so but
Qwen3.5, whose linear attention has no queries and keys to read. Refused: static caches, prompts and
answers longer than a sliding window, stages among the layers to which Qwen3-VL adds features, text
models that make their queries in a way of their own.

"""

LOOKS_AT = {
    "query": "question",
    "encoder_attention": "encoder attention",
    "encoder_keys": "encoder keys",
    "projector": "encoder states",
    "encoder": "picture",
    "first_layer": "the language model's first layer",
    "decoder_attention": "attention",
    "decoder_next_attention": "attention",
    "decoder_embeddings": "words",
    "decoder_keys": "keys",
    "decoder_states": "hidden states",
    "decoder_changes": "what layers change",
}

PEERS = """
# Beside the authors' programs

    python -m bench.peers --agreement

In how many of 50 pictures of random features without ties (60 to 600 tokens, 60 to 1,100 wide, up
to half of them kept) ours keep the same tokens as the loops that the authors publish, where these
work in fp32, in bf16 and in fp16:

| method | fp32 | bf16 | fp16 |
| --- | ---: | ---: | ---: |
| divprune | 100 % | 14 % | 46 % |
| cdpruner | 100 % | 100 % | 100 % |
| vispruner | 100 % | 0 % | 2 % |
| scope | 100 % | 82 % | 98 % |
| mmtok | 98 % | 8 % | 14 % |

Ours read features in bf16 and fp16 as they are and decide in fp32 (MMTok and SCOPE sum in fp64);
theirs decide on cosines that are rounded to the dtype (CDPruner's converts first). Of near ties, of
which rounding makes many, they keep another token; scores published from half-precision runs carry
that. `dart` keeps what its authors' program would if pivots took turns by norm (its text above).

Left out, of 2025 and 2026: ERASE (2605.09982) has a public program, which ranks tokens by the
entropy of their grey pixels from 0 to 255, which a model is not given (it has them normalised by a
processor it does not know), and drops the rest at a layer that depends on the picture, from the
caches of earlier layers too, by thresholds that were searched for two models. Of these no program
and no text precise enough was at hand: ToDRE (2505.18757: at which layer all tokens go, and by what
attention), FSR (2602.05809: how saliency and relevance are joined, and how many tokens each part
gets), SPpruner (2605.20950), ST-Prune, RTPrune, AOT.
"""

MODELS_HEAD = """# Model families

Written by `make docs` from `families.py`; do not edit. Each family passes one test matrix on the
oldest and the newest transformers that are supported, with tiny random models and the family's real
processor; what of it cannot be imported without torchvision (all video processors, and the image
processors of Perception LM, Command A Vision, Gemma 4 unified, LFM2-VL, Kimi and Molmo 2) has a
stand-in that cuts tiles and frames. With torchvision (`make test-torchvision`) none has: all go
through the processors that `AutoProcessor` gives, for pictures and for videos
([what differs](questions.md#does-torchvision-matter)). Molmo 2 came to transformers after 5.19.
With a static cache, stock transformers masks the tokens of a picture otherwise, pruned or not, for
Gemma 4 unified, and in 5.18 and 5.19 for the large checkpoints of Gemma 4; unpruned, 5.19 takes no
video of Gemma 4.
Checkpoints themselves were not run here: no hub was at hand. `positions="auto"` was measured for
LLaVA alone (docs/defaults.md); the others follow it. A budget is for a picture, and for a frame of
a video; `per="prompt"` shares one over all of a prompt.

"""


def link(paper: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{5}(?:v\d+)?)", r"[arXiv \1](https://arxiv.org/abs/\1)", paper)


def body(doc: str) -> str:
    """A docstring as Markdown: parameters become a list, less those that the page's heads tell."""
    head, *rest = told.sections(doc).items()
    lines = [head[1].strip()]
    shared = [*parameters(PruningMethod).items(), *parameters(DecoderMethod).items()]
    for title, text in rest:
        if title != told.PARAMETERS:
            lines += ["", text.strip()]
            continue
        listed = [words(*e) for e in told.entries(text).items() if e not in shared]
        lines += ["", *listed] if listed else []
    return "\n".join(lines)


def parameters(cls: type[PruningMethod]) -> dict[str, str]:
    return told.entries(told.sections(cls.__doc__ or "")[told.PARAMETERS])


def words(names: str, entry: str) -> str:
    """A parameter, or several told together, as an item of a list."""
    marked = ", ".join(f"`{name}`" for name in names.split(", "))
    return f"- {marked}: {' '.join(entry.split(chr(10), 1)[1].split())}"


def settings(cls: type[PruningMethod]) -> str:
    known = [f for f in fields(cls) if f.name not in ("keep", "per", "positions")]
    values = {f.name: f.default for f in known if f.default is not MISSING}
    return ", ".join(
        f"`{name}={value:.4g}`" if isinstance(value, float) else f"`{name}={value!r}`"
        for name, value in values.items()
    )


def section(cls: type[PruningMethod]) -> str:
    facts = {
        "class": f"`sparevlm.{cls.__name__}`",
        "from": link(cls.paper),
        "needs": ", ".join(f"`{need}`" for need in sorted(cls.needs)) or "features alone",
        "merges": "yes" if cls.merges else "no",
        "works with": "; ".join(works_with(cls)) or "every supported model",
        "settings": ", ".join(["`keep`", settings(cls)]).rstrip(", ")
        + (" (`Residual` too)" if cls.bounds_error and cls.name != "no-image" else ""),
    }
    table = "".join(f"| {name} | {words} |\n" for name, words in facts.items())
    return f"## {cls.name}\n\n{body(cls.__doc__ or '')}\n\n|  |  |\n| --- | --- |\n{table}"


def overview(inside: bool) -> str:
    """A line for every method, SPARE first."""
    lines = ["| name | keeps | looks at | from |", "| --- | --- | --- | --- |"]
    for name in sorted(list_methods(inside=inside), key=lambda name: (name != "spare", name)):
        cls = method_class(name)
        looks = ", ".join(dict.fromkeys(LOOKS_AT[need] for need in sorted(cls.needs)))
        anchor = re.sub(r"[^\w-]", "", name)
        lines.append(
            f"| [`{name}`](#{anchor}) | {cls.keeps} | {looks or '-'} | {link(cls.paper)} |"
        )
    return "\n".join(lines) + "\n\n"


def text() -> str:
    before, inside = (
        "\n".join(section(method_class(name)) for name in list_methods(inside=place))
        for place in (False, True)
    )
    return HEAD + overview(False) + before + INSIDE + overview(True) + inside + PEERS


def family_section(facts: dict[str, Any]) -> str:
    name = facts["hub"][0]
    hub = ", ".join(f"[{hub}](https://huggingface.co/{hub})" for hub in facts["hub"])
    table = {
        "classes": ", ".join(f"`{cls}`" for cls in facts["classes"]),
        "checkpoints": hub,
        "pictures": "yes" if facts["images"] else "no",
        "video": "yes" if facts["video"] else "no",
        "visual tokens a picture": facts["tokens"],
        "visual tokens a frame": facts["tokens_a_frame"] or "-",
        "the question is compared by": (
            f'the {facts["text_tower"]} that its vision tower comes from, or `relevance="llm"`'
            if facts["text_tower"]
            else '`relevance="llm"`'
        ),
        'positions="auto"': facts["positions"],
    }
    lines = "".join(f"| {key} | {value} |\n" for key, value in table.items())
    return (
        f"## {facts['name']}\n\n|  |  |\n| --- | --- |\n{lines}\n"
        f'    model, processor = sparevlm.load("{name}")\n'
        "    with sparevlm.SPARE(keep=64)(model):\n"
        "        out = model.generate(**inputs, max_new_tokens=64)\n"
    )


def models_text() -> str:
    refused = "".join(f"| `{kind}` | {why} |\n" for kind, why in sorted(REASONS.items()))
    return (
        MODELS_HEAD
        + "\n".join(family_section(facts) for facts in family_facts())
        + "\n## Not supported\n\n| model_type | why |\n| --- | --- |\n"
        + refused
    )


if __name__ == "__main__":
    TARGET.write_text(text())
    TARGET.with_name("models.md").write_text(models_text())
    known.PATH.write_text(known.written(described_methods()))
