"""Does the length of a feature vector matter? The same methods with features scaled to length 1."""

from __future__ import annotations

import numpy as np
import torch

from bench.studies.common import COMPOSITIONAL, KEEPS, Bench, Page, known_scenes, percent, table
from sparevlm import SPARE, VisualTokens, get_method
from sparevlm.pocket.questions import sample


def study(bench: Bench, page: Page) -> None:
    those = bench.of(COMPOSITIONAL)
    groups = {"compositional": (bench, those), "simple": (bench, ~those)}
    if "dense" in known_scenes():
        dense = Bench(bench.out.parent, bench.limit, bench.split, "dense")
        groups["dense scenes, two or three skills"] = (dense, np.ones(dense.limit, bool))
    rows = []
    for keep in KEEPS:
        for guidance in ("none", "anti"):
            for title, (asked, which) in groups.items():
                raw, unit = (
                    asked.ask({label: [method]}, "clip")[label]
                    for label, method in (
                        (
                            f"spare {guidance} normalize {normalize} {keep}",
                            SPARE(keep, guidance=guidance, normalize=normalize),
                        )
                        for normalize in (False, True)
                    )
                )
                rows.append(
                    [f"guidance {guidance}", keep, title, percent(raw.right[which].mean()),
                     percent(unit.right[which].mean()), unit.minus(raw, which)]
                )  # fmt: skip
    simple = [s for s in dict.fromkeys(bench.skills.tolist()) if s not in COMPOSITIONAL]
    head = ["SPARE", "tokens", "questions", "as they are", "length 1", "length 1 - as they are"]
    page.write(
        "Does magnitude matter?",
        bench,
        [
            "SPARE keeps the lengths of the features, DivPrune and CDPruner look at directions "
            "alone. With `normalize=True` SPARE does so too: everything else being equal, the "
            "difference is what magnitude is worth.\n",
            f"Compositional: {', '.join(COMPOSITIONAL)}. Simple: {', '.join(simple)}.\n",
            table(head, rows),
            "\n## Where the tokens lie\n",
            _places(bench),
        ],
    )


def _places(bench: Bench, keep: int = 11, pictures: int = 200) -> str:
    """Lengths of features on things and on background, and what methods keep of either."""
    model, processor = bench.loaded
    methods = {
        "SPARE without guidance": SPARE(keep, guidance="none"),
        "the same, length 1": SPARE(keep, guidance="none", normalize=True),
        "DivPrune": get_method("divprune", keep),
        "greedy CSS": get_method("greedy-css", keep),
        "random": get_method("random", keep),
    }
    kept: dict[str, list[float]] = {name: [] for name in methods}
    lengths: dict[bool, list[float]] = {True: [], False: []}
    share = []
    for row in range(min(pictures, bench.limit)):
        scene, _ = sample(bench.split, row, bench.scenes)
        pixels = processor.image_processor(scene.picture(), return_tensors="pt").pixel_values
        with torch.no_grad():
            features = model.model.get_image_features(pixels, return_dict=True).pooler_output[0]
        background = scene.owner.reshape(-1) < 0
        share.append(background.mean())
        norms = features.norm(dim=1).numpy()
        for on in (True, False):
            lengths[on].append(norms[background == on].mean())
        for name, method in methods.items():
            found = method.reduce(VisualTokens(features, grid=scene.owner.shape))
            kept[name].append(background[found.indices.numpy()].mean())
    rows = [[name, f"{percent(np.mean(values))} %"] for name, values in kept.items()]
    return "\n".join([
        f"Of the first {min(pictures, bench.limit)} pictures, {percent(np.mean(share))} % of the "
        f"patches are plain background. Features there are {np.mean(lengths[True]):.1f} long on "
        f"average, those on things {np.mean(lengths[False]):.1f}. Of {keep} kept tokens, this "
        "share is background:\n",
        table(["kept by", "background"], rows),
    ])  # fmt: skip
