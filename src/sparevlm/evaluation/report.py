"""A run as numbers (results.json) and as a table (report.md)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparevlm.evaluation.loop import Answered, Setting
from sparevlm.evaluation.statistics import interval, relative, same, yes_no_f1
from sparevlm.evaluation.tasks import Item

SCHEMA = 1
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
    found = []
    for (name, budget), members in groups.items():
        outcome = right[name, budget]
        each = [[said[s.key, item.row] for item in asked] for s in members]
        flat = [answer for one in each for answer in one]
        plain, above = relative(float(outcome.mean()), float(full), float(blind))
        f1 = [yes_no_f1([a.said for a in one], [i.answers[0] for i in asked]) for one in each]
        known = [value for value in f1 if value is not None]
        against = {
            other: interval(outcome, right[other, budget])
            for other in _AGAINST
            if (other, budget) in right and other != name
        }
        found.append({
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
                np.mean([a.said == w for one in each for a, w in zip(one, whole, strict=True)])
            ),
            "tokens_before": float(np.mean([a.before for a in flat])),
            "tokens": float(np.mean([a.after for a in flat])),
            "selection_ms": float(np.mean([a.selection_ms for a in flat])),
            "first_token_ms": float(np.mean([a.first_ms for a in flat])),
            "residual": float(np.mean([a.residual for a in flat])),
        })  # fmt: skip
    left_out = {str(row): why for row, why in sorted(odd.items())}
    return {"schema": SCHEMA, "about": about, "questions": len(asked), "left_out": left_out,
            "settings": found}  # fmt: skip


def _by_skill(items: Sequence[Item], outcome: Any) -> dict[str, float]:
    skills = dict.fromkeys(item.skill for item in items if item.skill)
    return {
        skill: float(np.mean([o for i, o in zip(items, outcome, strict=True) if i.skill == skill]))
        for skill in skills
    }


def write_report(found: dict[str, Any], out: Path) -> None:
    """Write results.json and report.md, each under another name first."""
    for name, text in (
        ("results.json", json.dumps(found, indent=1) + "\n"),
        ("report.md", markdown(found)),
    ):
        partial = out / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(out / name)


def markdown(found: dict[str, Any]) -> str:
    """A table: one line a method and budget, in percent."""
    skills = list(dict.fromkeys(skill for s in found["settings"] for skill in s["skills"]))
    head = [
        "kept by", "budget", "tokens", "all", "of unpruned", "above no image", "from SPARE",
        "from random", "agrees", "residual", "selection ms", "first token ms", *skills,
    ]  # fmt: skip
    lines = [
        f"# {found['about']['task']}, {found['about']['model']}",
        "",
        f"{found['questions']:,} questions; accuracy in percent. Differences are on the same "
        "questions, with 95 % paired bootstrap intervals. Milliseconds are a question's share of "
        "its batch, and of selection alone.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for s in found["settings"]:
        cells = [
            s["method"], s["budget"], f"{s['tokens']:.0f}", _percent(s["accuracy"]),
            _percent(s["relative"]), _percent(s["relative_above_no_image"]),
            *(_difference(s["against"].get(other)) for other in _AGAINST),
            _percent(s["agreement"]), f"{s['residual']:.3f}", f"{s['selection_ms']:.1f}",
            f"{s['first_token_ms']:.1f}", *(_percent(s["skills"].get(skill)) for skill in skills),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    if found["left_out"]:
        lines += ["", "Left out:", ""]
        lines += [f"- row {row}: {why}" for row, why in found["left_out"].items()]
    return "\n".join(lines) + "\n"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _difference(value: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    mean, low, high = (100 * part for part in value)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
