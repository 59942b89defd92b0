"""A run as numbers (results.json), as a table (report.md) and with plots (report.html)."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparevlm.evaluation.loop import SCHEMA, Answered, Setting
from sparevlm.evaluation.plots import accuracy_plot, residual_plot
from sparevlm.evaluation.statistics import (
    FEW,
    Outcomes,
    interval,
    relative,
    same,
    yes_no_f1,
)
from sparevlm.evaluation.tasks import Item
from sparevlm.figures import png
from sparevlm.files import write_files

_AGAINST = ("spare", "random")


def results(
    items: Sequence[Item],
    settings: Sequence[Setting],
    answers: Sequence[Answered],
    odd: dict[int, str],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Accuracies, differences and costs of a finished run; seeds of a method are averaged."""
    asked = [item for item in items if item.row not in odd]
    said = {(a.setting, a.row): a for a in answers}
    groups: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings:
        groups.setdefault((setting.name, setting.budget), []).append(setting)
    right = {
        key: np.mean(
            [[same(said[s.key, i.row].said, i.answers) for i in asked] for s in members], axis=0
        )
        for key, members in groups.items()
    }
    full, blind = right["all tokens", ""].mean(), right["no-image", ""].mean()
    whole = [said["all tokens", item.row].said for item in asked]
    rows = []
    for (name, budget), members in groups.items():
        outcome = right[name, budget]
        each = [[said[s.key, item.row] for item in asked] for s in members]
        flat = [answer for draw in each for answer in draw]
        plain, above = relative(float(outcome.mean()), float(full), float(blind))
        f1 = [yes_no_f1([a.said for a in draw], [i.answers[0] for i in asked]) for draw in each]
        known = [value for value in f1 if value is not None]
        against = {
            other: difference(outcome, right[other, budget])
            for other in _AGAINST
            if (other, budget) in right and other != name
        }
        rows.append({
            "method": name,
            "budget": budget,
            "seeds": len(members),
            "accuracy": float(outcome.mean()),
            "skills": _by_skill(asked, outcome),
            "relative": plain,
            "relative_above_no_image": above,
            "against": against,
            "yes_no_f1": float(np.mean(known)) if known else None,
            "agreement": float(
                np.mean([a.said == w for draw in each for a, w in zip(draw, whole, strict=True)])
            ),
            "tokens_before": float(np.mean([a.before for a in flat])),
            "tokens": float(np.mean([a.tokens for a in flat])),
            "tokens_last": float(np.mean([a.after for a in flat])),
            "schedule": flat[0].schedule,
            "selection_ms": float(np.mean([a.selection_ms for a in flat])),
            "first_token_ms": float(np.mean([a.first_ms for a in flat])),
            "residual": float(np.mean([a.residual for a in flat])),
        })  # fmt: skip
    left_out = {str(row): why for row, why in sorted(odd.items())}
    return {"schema": SCHEMA, "about": about, "questions": len(asked), "left_out": left_out,
            "settings": rows}  # fmt: skip


def difference(ours: Outcomes, theirs: Outcomes) -> list[float | None]:
    """Mean difference and its interval, or None for both bounds of a few questions.

    A bootstrap of n questions draws from n values: of one it knows no spread at all.
    """
    if len(ours) < FEW:
        return [float((ours - theirs).mean()), None, None]
    return list(interval(ours, theirs))


def _by_skill(items: Sequence[Item], outcome: Any) -> dict[str, float]:
    skills = dict.fromkeys(item.skill for item in items if item.skill)
    return {
        skill: float(np.mean([o for i, o in zip(items, outcome, strict=True) if i.skill == skill]))
        for skill in skills
    }


def write_report(summary: dict[str, Any], out: Path, gallery: str = "") -> None:
    """Write results.json, report.md, the plots and report.html, each under another name first.

    `gallery` is HTML for the page.
    """
    plots = {"accuracy.png": accuracy_plot(summary), "residual.png": residual_plot(summary)}
    drawn = {name: png(figure) for name, figure in plots.items()}
    files = {
        "results.json": (json.dumps(summary, indent=1) + "\n").encode(),
        "report.md": markdown(summary).encode(),
        **drawn,
        "report.html": page(summary, drawn, gallery).encode(),
    }
    write_files(out, files)


def page(summary: dict[str, Any], plots: dict[str, bytes], gallery: str = "") -> str:
    """The report as one HTML file, plots inside."""
    head, rows = table(summary)
    title = html.escape(f"{summary['about']['task']}, {summary['about']['model']}")
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n"
        for row in rows
    )
    pictures = "".join(
        f'<img alt="{html.escape(name)}" src="data:image/png;base64,'
        f'{base64.b64encode(data).decode()}">\n'
        for name, data in plots.items()
    )
    left = "".join(
        f"<li>row {row}: {html.escape(why)}</li>" for row, why in summary["left_out"].items()
    )
    return _PAGE.format(
        title=title,
        words=html.escape(_words(summary)),
        pictures=pictures,
        head=cells,
        body=body,
        gallery=gallery + _as_list(_schedules(summary)[3:]),
        left=f"<h2>Left out</h2><ul>{left}</ul>" if left else "",
    )


def _as_list(lines: list[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line.removeprefix('- '))}</li>" for line in lines)
    return f"<h2>Tokens inside the language model</h2><ul>{items}</ul>"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; }}
img {{ max-width: 100%; width: 44rem; display: block; margin: 1rem 0; }}
div {{ overflow-x: auto; }}
.plots {{ display: flex; flex-wrap: wrap; gap: 2rem; }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }}
td {{ white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
.gallery th, .gallery td {{ text-align: left; vertical-align: top; min-width: 8rem; }}
.gallery img {{ width: 9rem; margin: 0 0 .3rem; }}
.gallery tbody th {{ font-weight: normal; }}
</style>
<h1>{title}</h1>
<p>{words}</p>
<div class="plots">{pictures}</div>
<div><table><thead><tr>{head}</tr></thead><tbody>
{body}</tbody></table></div>
{gallery}{left}
</html>
"""


def markdown(summary: dict[str, Any]) -> str:
    """The report as text: one line a method and budget, in percent."""
    head, rows = table(summary)
    lines = [
        f"# {summary['about']['task']}, {summary['about']['model']}",
        "",
        _words(summary),
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    lines += _schedules(summary)
    if summary["left_out"]:
        lines += ["", "Left out:", ""]
        lines += [f"- row {row}: {why}" for row, why in summary["left_out"].items()]
    return "\n".join(lines) + "\n"


def _schedules(summary: dict[str, Any]) -> list[str]:
    """What methods inside the language model leave to which layers, of the first question."""
    inside = [s for s in summary["settings"] if s.get("schedule")]
    if not inside:
        return []
    lines = ["", "Tokens on average over layers; inside the language model there are really:", ""]
    for s in inside:
        steps = ", ".join(f"{k} from layer {layer}" for layer, k in s["schedule"].items())
        lines.append(f"- {s['method']} {s['budget']}: {s['tokens_before']:.0f} at first, {steps}")
    return lines


def _words(summary: dict[str, Any]) -> str:
    count = summary["questions"]
    spread = "with 95 % paired bootstrap intervals"
    if count < FEW:
        spread = f"without intervals, which fewer than {FEW} questions cannot give"
    return (
        f"{count:,} question{'s' * (count != 1)}; accuracy in percent. Differences are on the same "
        f"questions, {spread}. Milliseconds are a question's share of its batch, and of selection "
        "alone."
    )


def table(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column names, and one row of cells a method and budget."""
    skills = list(dict.fromkeys(skill for s in summary["settings"] for skill in s["skills"]))
    head = [
        "kept by", "budget", "tokens", "all", "of unpruned", "above no image", "from SPARE",
        "from random", "agrees", "residual", "selection ms", "first token ms", *skills,
    ]  # fmt: skip
    rows = [
        [
            s["method"], s["budget"], f"{s['tokens']:.0f}", _percent(s["accuracy"]),
            _percent(s["relative"]), _percent(s["relative_above_no_image"]),
            *(_difference(s["against"].get(other)) for other in _AGAINST),
            _percent(s["agreement"]), f"{s['residual']:.3f}", f"{s['selection_ms']:.1f}",
            f"{s['first_token_ms']:.1f}", *(_percent(s["skills"].get(skill)) for skill in skills),
        ]
        for s in summary["settings"]
    ]  # fmt: skip
    return head, rows


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _difference(value: Sequence[float | None] | None) -> str:
    if value is None or value[0] is None:
        return "-"
    mean, low, high = (None if part is None else 100 * part for part in value)
    return f"{mean:+.1f}" if low is None else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
