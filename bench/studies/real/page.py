"""The page on real features: what was measured, in tables and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bench.studies.common import Page, machine, percent, table
from bench.studies.real import choices
from bench.studies.real.choices import COUNTED
from bench.studies.real.fetch import NEEDED, TOWER, Fetched
from bench.studies.real.figures import light, over_bound, regions_hit
from bench.studies.real.measure import FIRST, KEEPS, LONGER, OUTLIERS, SMALL
from bench.studies.real.measured import Measured

TITLE = "Real features: a trained ViT over photographs"


def head(fetched: Fetched, first: int, second: int) -> str:
    """What it was measured on, and the command."""
    total = sum(fetched.packages.values())
    return (
        f"# {TITLE}\n\n"
        "Everything else here comes from one small model of our own on drawn scenes. This page "
        "looks at the features alone, of a vision tower that others trained, over photographs: no "
        "questions are asked and no language model reads them. By\n\n"
        "    python -m bench.studies.real_features\n\n"
        f"on {machine()}. The command downloads everything into a temporary folder and leaves "
        "nothing behind but this page.\n\n"
        f"- **The tower** is the ViT-S/14 in the Python package `{TOWER}` (12 layers, 384 wide; "
        "its names are those of DINOv2), rebuilt as transformers' `Dinov2Model` from the weights "
        "in its ONNX file: tokens differ from those that onnxruntime computes by at most "
        f"{fetched.apart:.0e} of their length. The package says MIT; whether that covers weights "
        "that may come from elsewhere is unclear, so nothing of it is shipped here. "
        f"({', '.join(NEEDED)} run in the temporary environment.)\n"
        f"- **{total} photographs**, their middle square at 196 x 196 pixels, so 14 x 14 tokens, "
        "as many as the pocket model has. Their licences are free and stand in each package:\n\n"
        + table(["package", "photographs"], [[k, v] for k, v in fetched.packages.items()])
        + "\n"
        "- **Two kinds of features** of them: tokens behind the tower's last norm (*last layer*), "
        "and one layer before the last, which no norm has made alike (*layer 11*; LLaVA reads its "
        "tower there). A projector would come next in a model; there is none here.\n"
        f"- **Beside them** the features of both shipped models, `pocket` and `pocket-natural`, of "
        f"{first} validation scenes (plain, dense and pictograms in turn), and Gaussian rows of "
        "the photographs' shape.\n"
        "- **Regions** are found by colour (Felzenszwalb and Huttenlocher, scikit-image, scale "
        "100, at least the size of one patch). They are *not* objects: in the packages that were "
        "looked through there are no labelled photographs with a clear licence. Of the "
        "models' scenes the things that were drawn are taken. "
        f"Small ones have at most {SMALL} tokens.\n"
        f"- **Two halves**, drawn with a fixed seed: {first} photographs, on which all that "
        f"follows was measured and choices were made, and {second} that were looked at once, for "
        "[the confirmation](#the-other-half).\n"
        "- **Methods**: all of the registry that keep tokens as they are and look at features "
        "alone; SPARE without a question. Methods that draw: three seeds.\n"
    )


def lengths(groups: Sequence[Measured]) -> str:
    """How long tokens are, and how alike."""
    rows = [
        [
            g.title,
            f"{g.norm('longest'):.2f}",
            f"{max(one['longest'] for one in g.norms):.2f}",
            percent(g.norm("twice")),
            f"{g.norm('spread'):.2f}",
            "" if np.isnan(g.norm("small")) else f"{g.norm('small'):.2f}",
            f"{g.norm('cosine'):.2f}",
            f"{g.norm('rank'):.1f}",
        ]
        for g in groups
    ]
    return (
        "\n## Lengths\n\n"
        "Means over pictures. *Longest*: the longest token over the median. *Small regions*: the "
        "mean length of their tokens over that of all others (scenes: of small things). *Cosine*: "
        "of two tokens. *Dimensions*: of the smallest subspace that leaves at most a tenth of the "
        "energy.\n\n"
        + table(
            ["features", "longest", "of any picture", "above 2 medians (%)", "std / mean",
             "small regions", "cosine", "dimensions"],
            rows,
        )
    )  # fmt: skip


def residuals(page: Page, groups: Sequence[Measured]) -> str:
    """Error by budget, beside the bound."""
    text = (
        "\n## Error of reconstruction\n\n"
        "Share of the squared energy that the kept tokens leave unexplained, in percent, mean over "
        "pictures; *SVD* is the bound that no choice can beat. The figure shows the error over "
        "that bound and ends at 120.\n\n"
        + light(page, "errors", over_bound(groups), "error over the SVD's against tokens kept")
    )
    for g in groups:
        bound = ["SVD", *(percent(value) for value in g.least.mean(0))]
        rows = [[n, *(percent(g.mean("error", n, k)) for k in KEEPS)] for n in _sorted(g)]
        text += f"\n{g.title[0].upper()}{g.title[1:]}:\n\n"
        text += table(["kept by", *map(str, KEEPS)], [*rows, bound])
    text += "\nError over SPARE's, at the same number of tokens:\n\n"
    names = ("random", "uniform", "divprune", "greedy-css", choices.exponent_name(1))
    return text + table(
        ["features", "tokens", *names],
        [
            [g.title, k, *(f"{g.mean('error', n, k) / g.mean('error', 'spare', k):.2f}"
             for n in names)]
            for g in groups for k in (8, 32)
        ],
    )  # fmt: skip


def _sorted(group: Measured) -> list[str]:
    return sorted(group.error, key=lambda n: float(np.log(group.error[n]).mean()))


def overlaps(groups: Sequence[Measured]) -> str:
    """Tokens in common with SPARE."""
    names = [name for name in groups[0].same if name != "spare"]
    columns = [(g, k) for g in groups for k in (8, 32)]
    return (
        "\n## The same tokens as SPARE\n\n"
        "Share of a method's tokens that SPARE keeps too, in percent; by chance it would be "
        f"{percent(8 / 196)} with 8 tokens and {percent(32 / 196)} with 32.\n\n"
        + table(
            ["kept by", *(f"{g.title}, {k}" for g, k in columns)],
            [[n, *(f"{100 * g.mean('same', n, k):.0f}" for g, k in columns)] for n in names],
        )
    )


def numerics(found: Mapping[tuple[str, str], Mapping[str, Sequence[float]]]) -> str:
    """Tokens kept in half precision too."""
    rows = [
        [title, dtype, name, *(percent(share) for share in shares)]
        for (title, dtype), each in found.items()
        for name, shares in each.items()
    ]
    return (
        "\n## Half precision\n\n"
        "Share of the tokens kept from fp32 features that are kept from the same features rounded "
        "to half precision, in percent. Which tokens are kept late hangs on residuals of the size "
        "of the rounding.\n\n" + table(["features", "dtype", "kept by", *map(str, KEEPS)], rows)
    )


def injected(found: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Long tokens put among the others."""
    rows = [
        [title, name, f"{values[:, 0].mean():.2f}",
         percent(values[:, 1].mean()), percent(values[:, 2].mean())]
        for title, each in found.items() for name, values in each.items()
    ]  # fmt: skip
    return (
        "\n## Long tokens among the others\n\n"
        f"{OUTLIERS} tokens drawn at random are made {LONGER:g} times as long, as registers on "
        f"background are (arXiv 2309.16588). *Wasted*: how many of the first {FIRST} picks they "
        "are. *Error*: of the other tokens, in percent, of picks from the features as they were, "
        "and with the long ones among them.\n\n"
        + table(["features", "kept by", "wasted", "error before", "error with them"], rows)
    )


def coverage(page: Page, groups: Sequence[Measured], methods: list[str]) -> str:
    """Regions with a kept token."""
    text = (
        "\n## Regions that are hit\n\n"
        "Share of the regions with a kept token in them, in percent, mean over pictures; *at most* "
        "is what so many tokens could hit.\n\n"
        + light(page, "coverage", regions_hit(groups), "regions hit against tokens kept")
    )
    for g in groups:
        limit = ["at most"]
        limit += [percent(np.nanmean(g.most[:, KEEPS.index(k)])) for k in COUNTED]
        limit += [percent(np.nanmean(g.most_small[:, KEEPS.index(k)])) for k in COUNTED]
        rows = [
            [n, *(percent(g.mean("all", n, k)) for k in COUNTED),
             *(percent(g.mean("small", n, k)) for k in COUNTED)]
            for n in sorted(g.all, key=lambda n: -choices.over_budgets(g, "all", n))
        ]  # fmt: skip
        text += f"\n{g.title[0].upper()}{g.title[1:]}:\n\n" + table(
            ["kept by", *(f"all, {k}" for k in COUNTED), *(f"small, {k}" for k in COUNTED)],
            [*rows, limit],
        )
    rows = [
        [g.title, what,
         *(f"{g.agreement(what, k, methods):+.2f}" for k in COUNTED),
         *(f"{g.agreement(what, k, g.better(methods, k)):+.2f}" for k in COUNTED)]
        for g in groups for what in ("all", "small")
    ]  # fmt: skip
    head = [*map(str, COUNTED), *(f"better than random, {k}" for k in COUNTED)]
    return text + (
        "\nDoes less error go with more regions? Spearman's correlation over methods "
        "(-1: always), and over those of them that leave less error than random tokens:\n\n"
        + table(["features", "regions", *head], rows)
    )


def chosen(
    exponent: float, limit: float, found: Measured, long_ones: Mapping[str, np.ndarray]
) -> str:
    """What was chosen on the first half, how, and how near the others came."""
    names = ["spare", *choices.candidates()]
    rows = [
        [n, percent(choices.over_budgets(found, "all", n)),
         f"{100 * choices.over_budgets(found, 'error', n):.2f}",
         f"{100 * long_ones[n][:, 2].mean():.2f}"]
        for n in names
    ]  # fmt: skip
    return (
        "\n## Choices\n\n"
        "Made on the first half, last layer, by rules set down before: the exponent whose picks "
        f"hit most regions (mean of {', '.join(map(str, COUNTED))} tokens) is "
        f"**{exponent:g}**; the limit on lengths that leaves the other tokens least error beside "
        f"long ones, at no more than {100 * choices.DEARER:g} % more error without them, is "
        f"**{limit:g}** medians. The candidates lie close together: with crops that differed in "
        "their outermost pixels alone the same rules had chosen others.\n\n"
        + table(["kept by", "regions hit (%)", "error (%)", "error beside long ones (%)"], rows)
    )


def confirmation(
    groups: Sequence[Measured], rivals: list[str], long_ones: Mapping[str, np.ndarray]
) -> str:
    """The half that is looked at once."""
    comparisons = len(groups) * len(rivals) * len(COUNTED) * 3
    text = (
        "\n## The other half\n\n"
        "Each minus SPARE on the same photographs: shares of regions hit, in points, and the "
        "logarithm of the error in hundredths (nearly percent; below 0 is less error). Intervals "
        "are bootstrapped over photographs and Bonferroni-corrected for all "
        f"{comparisons} comparisons of this section; bold ones are clear of 0.\n"
    )
    for g in groups:
        text += f"\n{g.title[0].upper()}{g.title[1:]}:\n\n" + table(
            ["kept by", "tokens", "regions", "small regions", "error"],
            choices.against(g, rivals, comparisons),
        )
    rows = [
        [n, f"{v[:, 0].mean():.2f}", percent(v[:, 1].mean()), percent(v[:, 2].mean())]
        for n, v in long_ones.items()
    ]
    text += "\nLong tokens among the others, last layer:\n\n"
    return text + table(["kept by", "wasted", "error before", "error with them"], rows)


def limits(groups: Sequence[Measured], methods: list[str]) -> str:
    """What pocket cannot tell."""
    last, before, drawn, natural = groups[:4]

    def random(g: Measured) -> str:
        return f"{g.mean('error', 'random', 8) / g.mean('error', 'spare', 8):.1f}"

    def gap(g: Measured) -> str:
        points = g.mean("all", "spare", 8) - g.mean("all", "random", 8)
        return f"{100 * points:.0f}"

    def normalised(g: Measured) -> str:
        name = choices.exponent_name(1)
        return f"{100 * (g.mean('error', name, 8) / g.mean('error', 'spare', 8) - 1):+.0f}"

    def among(what: str) -> str:
        each = [g.agreement(what, 8, g.better(methods, 8)) for g in (drawn, last, before)]
        return "{:+.2f}, {:+.2f} and {:+.2f}".format(*each)

    def both(what: str) -> str:
        return " and ".join(f"{g.norm(what):.2f}" for g in (last, before))

    return (
        "\n## What pocket cannot tell\n\n"
        f"- **What length does.** Pocket's longest token is {drawn.norm('longest'):.2f} times the "
        f"median, here {both('longest')} (last layer, layer 11); its small things are "
        f"{drawn.norm('small'):.2f} times as long as the rest, small regions here "
        f"{both('small')}. So pocket shows what unnormalised features do in a model whose "
        "lengths mark things, which these do not. Scaling tokens to length 1 changes SPARE's "
        f"error with 8 tokens by {normalised(drawn)} % there, by {normalised(last)} and "
        f"{normalised(before)} % here.\n"
        f"- **How much choosing is worth.** Eight random tokens leave {random(drawn)} times "
        f"SPARE's error in pocket, {random(last)} and {random(before)} times here, and hit "
        f"{gap(drawn)} points fewer regions than SPARE there, {gap(last)} "
        f"and {gap(before)} here.\n"
        "- **Whether less error means that more is seen.** Over methods with 8 tokens the "
        f"correlation of error with regions hit is {drawn.agreement('all', 8, methods):+.2f} in "
        f"pocket, {last.agreement('all', 8, methods):+.2f} and "
        f"{before.agreement('all', 8, methods):+.2f} here; with small regions "
        f"{drawn.agreement('small', 8, methods):+.2f}, "
        f"{last.agreement('small', 8, methods):+.2f} and "
        f"{before.agreement('small', 8, methods):+.2f}. Among methods better than random it is "
        f"{among('all')} with all regions, {among('small')} with small ones.\n"
        f"- **Its twin is nearer, not there.** In `pocket-natural` the longest token is "
        f"{natural.norm('longest'):.2f} times the median, small things are "
        f"{natural.norm('small'):.2f} times as long as the rest, length 1 changes SPARE's error by "
        f"{normalised(natural)} %, eight random tokens leave {random(natural)} times SPARE's error "
        f"and hit {gap(natural)} points fewer regions; error goes with regions hit by "
        f"{natural.agreement('all', 8, methods):+.2f}, with small ones by "
        f"{natural.agreement('small', 8, methods):+.2f}.\n"
        "- **How registers behave.** The tower that was looked at has no tokens many times as long "
        "as the others, as larger ones do: here they were put in by hand, in `pocket-natural` by "
        "training.\n\n"
        "And what this page cannot: whether an answer is right. It has one tower, of self-"
        "supervised kind where most models have CLIP's or SigLIP's, no projector, no question, and "
        "regions of colour for objects.\n"
    )
