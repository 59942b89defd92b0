"""Relevance by itself, its maps, and what each part of SPARE selects (Figs. 3, 4, 6)."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.figure import Figure

from bench.studies.alone import RelevanceAlone
from bench.studies.common import (
    KEEPS,
    Bench,
    Page,
    by_skill,
    lines_plot,
    percent,
    random,
    table,
)
from sparevlm import SPARE, viz
from sparevlm.pocket.questions import sample

SHOWN = 5  # questions in the figures
KEPT = 12


def study(bench: Bench, page: Page) -> None:
    full = bench.ask({"all tokens": [None]})["all tokens"]
    sources = {"CLIP": "clip", "word embeddings": "llm"}
    rows, plotted, found = [], {}, {}
    for keep in KEEPS:
        found["random", keep] = bench.ask({f"random {keep}": random(keep)})[f"random {keep}"]
        found["reconstruction", keep] = bench.ask(
            {f"spare none {keep}": [SPARE(keep, guidance="none")]}
        )[f"spare none {keep}"]
        for title, relevance in sources.items():
            for guidance in ("normal", "anti"):
                label = f"alone {guidance} {keep}"
                asked = {label: [RelevanceAlone(keep, guidance=guidance)]}
                name = f"{guidance}-relevance alone, {title}"
                found[name, keep] = bench.ask(asked, relevance)[label]
    names = list(dict.fromkeys(name for name, _ in found))
    skills = list(dict.fromkeys(bench.skills.tolist()))
    for name in names:
        plotted[name] = [(keep, found[name, keep].accuracy) for keep in KEEPS]
        for keep in KEEPS:
            one = found[name, keep]
            difference = "" if name == "random" else one.minus(found["random", keep])
            rows.append(
                [name, keep, percent(one.accuracy), difference, *by_skill(bench, one)]
            )  # fmt: skip
    drawn = lines_plot(plotted, "visual tokens kept", {"all tokens": full.accuracy})
    page.write(
        "Relevance to the question, by itself",
        bench,
        [
            "The paper's Fig. 3 asks which tokens to keep if nothing is known but their similarity "
            "with the question: those most like it (normal) or least like it (anti).\n",
            page.figure("alone", drawn, "accuracy of relevance alone against tokens kept"),
            table(["kept by", "tokens", "all", "from random", *skills], rows),
            _verdict(found, sources),
            "\n## Relevance maps (Fig. 4)\n",
            "Similarity of each patch with the question; bright is more alike. Above each map is "
            "how much more alike patches of the things that the question names are than the rest "
            "of the picture, in standard deviations, as a mean over all questions that name one.\n",
            _maps(bench, page),
            "\n## What each part selects (Fig. 6)\n",
            f"{KEPT} of 196 tokens, and the answer with them.\n",
            _selections(bench, page),
        ],
    )


def _verdict(found: dict, sources: dict) -> str:
    lines = ["Anti- minus normal relevance at the same number of tokens:\n"]
    for title in sources:
        signed = [
            [found[f"{guidance}-relevance alone, {title}", keep] for guidance in ("anti", "normal")]
            for keep in KEEPS
        ]
        each = [
            f"{keep}: {anti.minus(normal)}"
            for keep, (anti, normal) in zip(KEEPS, signed, strict=True)
        ]
        lines.append(f"- {title}: " + "; ".join(each))
    return "\n".join(lines) + "\n"


def _pruned(bench: Bench, row: int, method, relevance: str):
    """Report and answer for one question."""
    model, processor = bench.loaded
    item = bench.items[row]
    picture = item.pictures()[0]
    text = f"USER: <image>\n{item.question} ASSISTANT:"
    inputs = processor(images=picture, text=text, return_tensors="pt")
    with method.attach(model, tokenizer=processor.tokenizer, relevance=relevance) as handle:
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    new = out[:, inputs["input_ids"].shape[1] :]
    said = processor.batch_decode(new, skip_special_tokens=True)[0].strip()
    return picture, handle.report[0], said


def _contrast(bench: Bench, relevance: str, limit: int = 200) -> float:
    """How far patches of what is named stand out, in standard deviations of their picture."""
    method, found = RelevanceAlone(0.99), []
    for row in range(min(limit, bench.limit)):
        scene, question = sample(bench.split, row, bench.scenes)
        words = set(question.text.split())
        named = [i for i, t in enumerate(scene.things) if t.kind in words]
        inside = np.isin(scene.owner.reshape(-1), named)
        if not named or not inside.any():
            continue
        scores = _pruned(bench, row, method, relevance)[1].scores.numpy()
        scores = (scores - scores.mean()) / max(scores.std(), 1e-9)
        found.append(scores[inside].mean() - scores[~inside].mean())
    return float(np.mean(found))


def _maps(bench: Bench, page: Page) -> str:
    figure = Figure(figsize=(2.3 * SHOWN, 7.2), layout="constrained")
    axes = figure.subplots(3, SHOWN)
    contrast = {how: _contrast(bench, how) for how in ("clip", "llm")}
    for column, row in enumerate(_rows(bench)):
        for line, how in enumerate(("clip", "llm"), 1):
            picture, report, _ = _pruned(bench, row, RelevanceAlone(0.99), how)
            axes[0, column].imshow(picture)
            scores = report.scores.reshape(report.grid)
            axes[line, column].imshow(scores, cmap="viridis")
            title = {"clip": "CLIP", "llm": "word embeddings"}[how]
            axes[line, column].set_title(f"{title} ({contrast[how]:+.2f})", fontsize=9)
        axes[0, column].set_title(_wrapped(bench.items[row].question), fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    return page.figure("maps", figure, "relevance maps of five questions")


def _selections(bench: Bench, page: Page) -> str:
    parts = {
        "reconstruction": SPARE(KEPT, guidance="none"),
        "anti alone": RelevanceAlone(KEPT, guidance="anti"),
        "normal alone": RelevanceAlone(KEPT, guidance="normal"),
        "SPARE (anti, 0.25)": SPARE(KEPT),
        "SPARE (anti, 1)": SPARE(KEPT, strength=1.0),
        "normal, 1": SPARE(KEPT, guidance="normal", strength=1.0),
    }
    figure = Figure(figsize=(2.3 * len(parts), 2.75 * SHOWN), layout="constrained")
    axes = figure.subplots(SHOWN, len(parts))
    for line, row in enumerate(_rows(bench)):
        for column, (title, method) in enumerate(parts.items()):
            picture, report, said = _pruned(bench, row, method, "clip")
            axis = axes[line, column]
            axis.imshow(viz.overlay(picture, report))
            axis.set_axis_off()
            right = said == bench.items[row].answers[0]
            head = f"{title}\n" if line == 0 else ""
            axis.set_title(f"{head}{said}", fontsize=10, color="#007a55" if right else "#c03000")
        item = bench.items[row]
        axes[line, 0].text(
            -8, 112 * 2, _wrapped(f"{item.question} {item.answers[0]}", 16),
            ha="right", va="center", fontsize=9,
        )  # fmt: skip
    return page.figure("selections", figure, "tokens kept by each part of SPARE")


def _rows(bench: Bench) -> list[int]:
    """The first question of each of some skills that name something."""
    wanted = [s for s in ("color", "count", "relation", "position", "nearest") if s in bench.skills]
    wanted += [s for s in dict.fromkeys(bench.skills.tolist()) if s not in wanted]
    return [int(np.nonzero(bench.skills == skill)[0][0]) for skill in wanted[:SHOWN]]


def _wrapped(text: str, width: int = 22) -> str:
    return "\n".join(textwrap.wrap(text, width))
