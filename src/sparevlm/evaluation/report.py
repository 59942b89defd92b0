"""A run as numbers (results.json), as a table (report.md) and with plots (report.html)."""

from __future__ import annotations

import base64
import html
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparevlm.evaluation.loop import SCHEMA, Answered, Setting
from sparevlm.evaluation.plots import accuracy_plot, difference_plot, residual_plot
from sparevlm.evaluation.statistics import (
    FEW,
    Outcomes,
    interval,
    relative,
    same,
    score_interval,
    yes_no_f1,
)
from sparevlm.evaluation.tasks import Item
from sparevlm.figures import png
from sparevlm.files import write_files

Column = tuple[str, str]
"""Its name, and what it says."""

_AGAINST = ("spare", "random")
COLUMNS: tuple[Column, ...] = (
    ("kept by", "the method"),
    ("budget", "as asked for"),
    ("tokens", "of a picture that are kept, on average"),
    ("right", "% of the answers"),
    ("of unpruned", "% of what is right with all tokens"),
    ("above no image", "% of what the picture adds to no picture"),
    ("from SPARE", "points of right answers more than SPARE of that budget"),
    ("from random", "points more than random tokens"),
    ("agrees", "% of answers that are those with all tokens"),
    ("residual", "share of the features' energy that is not explained"),
    ("selection ms", "of choosing, a question's share of its batch"),
    ("first token ms", "of encoder, choosing and prefill, likewise"),
)
PLOTS = {
    "accuracy.png": "right answers against visual tokens kept",
    "difference.png": "differences of right answers on the same questions",
    "residual.png": "right answers against the error of reconstruction",
}


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
            "interval": score_interval(outcome),
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
    counts = Counter(item.skill for item in asked if item.skill)
    return {"schema": SCHEMA, "about": about, "questions": len(asked), "left_out": left_out,
            "skill_questions": dict(counts), "settings": rows}  # fmt: skip


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
    figures = {
        "accuracy.png": accuracy_plot(summary),
        "difference.png": difference_plot(summary),
        "residual.png": residual_plot(summary),
    }
    drawn = {name: png(figure) for name, figure in figures.items() if figure is not None}
    files = {
        "results.json": (json.dumps(summary, indent=1) + "\n").encode(),
        "report.md": markdown(summary).encode(),
        **drawn,
        "report.html": page(summary, drawn, gallery).encode(),
    }
    write_files(out, files)


def page(summary: dict[str, Any], plots: dict[str, bytes], gallery: str = "") -> str:
    """The report as one HTML file, plots inside."""
    pictures = "".join(
        f'<img alt="{PLOTS[name]}" src="data:image/png;base64,{base64.b64encode(data).decode()}">\n'
        for name, data in plots.items()
    )
    left = "".join(
        f"<li>row {row}: {html.escape(why)}</li>" for row, why in summary["left_out"].items()
    )
    tables = [_table("All questions", *table(summary))]
    if any(s["skills"] for s in summary["settings"]):
        tables.append(_table("By skill", *skill_table(summary)))
    return _PAGE.format(
        title=html.escape(_title(summary)),
        words=html.escape(_words(summary)),
        pictures=pictures,
        tables="".join(tables),
        gallery=gallery + _as_list(_schedules(summary)[3:]),
        left=f"<h2>Left out</h2><ul>{left}</ul>" if left else "",
    )


def _table(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """A table whose headers say what they mean."""
    head = "".join(
        f'<th scope="col">{html.escape(name)}<small>{html.escape(words)}</small></th>'
        for name, words in columns
    )
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n"
        for row in rows
    )
    return (
        f"<h2>{title}</h2>\n<div><table><thead><tr>{head}</tr></thead><tbody>\n"
        f"{body}</tbody></table></div>\n"
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
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem 2rem; color: #222; }}
h1 {{ margin: 0; }}
p {{ max-width: 60rem; }}
img {{ max-width: 100%; }}
div {{ overflow-x: auto; }}
.plots {{
  display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(34rem, 100%), 1fr));
}}
.plots img {{ width: 100%; }}
table {{ border-collapse: collapse; width: 100%; }}
table {{ font-size: 13px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .5rem; text-align: right; border-bottom: 1px solid #ddd; }}
thead th {{ vertical-align: top; }}
th small {{ display: block; font-weight: normal; font-size: 12px; line-height: 1.25; color: #555; }}
td {{ white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; position: sticky; left: 0; background: white; }}
.gallery th, .gallery td {{ text-align: left; vertical-align: top; }}
.gallery td {{ min-width: 7rem; }}
.gallery img {{ width: 100%; max-width: 14rem; margin: 0 0 .3rem; display: block; }}
.gallery tbody th {{ font-weight: normal; min-width: 9rem; }}
@media (max-width: 40rem) {{ body {{ margin: 1rem; }} }}
</style>
<h1>{title}</h1>
<p>{words}</p>
<div class="plots">{pictures}</div>
{tables}{gallery}{left}
</html>
"""


def markdown(summary: dict[str, Any]) -> str:
    """The report as text: one line a method and budget, in percent."""
    columns, rows = table(summary)
    skills, by_skill = skill_table(summary)
    head = [name for name, _ in (*columns, *skills[2:])]
    lines = [
        f"# {_title(summary)}",
        "",
        _words(summary),
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *(
            "| " + " | ".join([*row, *more[2:]]) + " |"
            for row, more in zip(rows, by_skill, strict=True)
        ),
        "",
        *(f"- {name}: {words}" for name, words in columns),
    ]
    if skills[2:]:
        lines.append(
            "- the others: " + ", ".join(f"{name} ({words})" for name, words in skills[2:])
        )
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


def _title(summary: dict[str, Any]) -> str:
    return f"{summary['about']['task']}, answered by {summary['about']['model']}"


def _words(summary: dict[str, Any]) -> str:
    count = summary["questions"]
    words = (
        f"{count:,} question{'s' * (count != 1)}, asked with all visual tokens, with no picture, "
        "and with the tokens that each method keeps; random, uniform, average-pool and downsample "
        "are controls. "
    )
    if count < FEW:
        return words + f"Fewer than {FEW} questions give no interval."
    return words + (
        "In brackets, and as bars in the plots, 95 % intervals: of right answers Wilson's score "
        "interval, of differences on the same questions the paired bootstrap's."
    )


def table(summary: dict[str, Any]) -> tuple[list[Column], list[list[str]]]:
    """Names and meanings of columns, and one row of cells a method and budget."""
    rows = [
        [
            s["method"], s["budget"], f"{s['tokens']:.0f}",
            _interval(s["accuracy"], s.get("interval")),
            _percent(s["relative"]), _percent(s["relative_above_no_image"]),
            *(_difference(s["against"].get(other)) for other in _AGAINST),
            _percent(s["agreement"]), f"{s['residual']:.3f}", f"{s['selection_ms']:.1f}",
            f"{s['first_token_ms']:.1f}",
        ]
        for s in summary["settings"]
    ]  # fmt: skip
    return list(COLUMNS), rows


def skill_table(summary: dict[str, Any]) -> tuple[list[Column], list[list[str]]]:
    """The same for right answers by skill, behind method and budget."""
    skills = list(dict.fromkeys(skill for s in summary["settings"] for skill in s["skills"]))
    counts = summary.get("skill_questions", {})
    columns = [*COLUMNS[:2], *((skill, f"% of {counts.get(skill, '?')}") for skill in skills)]
    rows = [
        [s["method"], s["budget"], *(_percent(s["skills"].get(skill)) for skill in skills)]
        for s in summary["settings"]
    ]
    return columns, rows


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _interval(value: float, bounds: Sequence[float] | None) -> str:
    words = _percent(value)
    return words if bounds is None else f"{words} [{_percent(bounds[0])}, {_percent(bounds[1])}]"


def _difference(value: Sequence[float | None] | None) -> str:
    if value is None or value[0] is None:
        return "-"
    mean, low, high = (None if part is None else 100 * part for part in value)
    return f"{mean:+.1f}" if low is None else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
