"""Finished runs of lmms-eval and of ``sparevlm bench`` as scores that can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparevlm.evaluation.loop import SCHEMA


@dataclass(frozen=True)
class Task:
    """How a task of lmms-eval gives the score that papers print.

    Attributes
    ----------
    benchmark : str
        As in published.csv.
    metric : str
    scale : float
        Papers print the metric times this.
    remark : str
        What differs from what papers report.
    """

    benchmark: str
    metric: str
    scale: float = 100.0
    remark: str = ""


_TEST_DEV = "papers report test-dev, scored by the benchmark's server; this is validation"
_CHOSEN = "answers are matched to options by a language model, whose version moves the score"
TASKS: dict[str, tuple[Task, ...]] = {
    "vqav2_val": (Task("vqav2", "exact_match", remark=_TEST_DEV),),
    "gqa": (Task("gqa", "exact_match"),),
    "vizwiz_vqa_val": (Task("vizwiz", "exact_match", remark=_TEST_DEV),),
    "scienceqa_img": (Task("sqa", "exact_match"),),
    "textvqa_val": (Task("textvqa", "exact_match"),),
    "textvqa_val_ocr": (Task("textvqa", "exact_match"),),
    "pope": (Task("pope", "pope_f1_score"),),
    "mme": (Task("mme_p", "mme_perception_score", 1.0), Task("mme_c", "mme_cognition_score", 1.0)),
    "mmbench_en_dev_static": (Task("mmb", "gpt_eval_score", 1.0),),
    "mmbench_en_dev": (Task("mmb", "gpt_eval_score", 1.0, _CHOSEN),),
    "mmbench_cn_dev": (Task("mmb_cn", "gpt_eval_score", 1.0, _CHOSEN),),
    "mmvet": (
        Task("mmvet", "gpt_eval_score", 1.0, "scored by a language model: state its version"),
    ),
    "ocrbench": (Task("ocrbench", "ocrbench_accuracy", 1000.0),),
    "chartqa": (Task("chartqa", "relaxed_overall"),),
    "ai2d": (Task("ai2d", "exact_match"),),
}


@dataclass(frozen=True)
class Finished:
    """One method at one budget, as a run found it.

    Attributes
    ----------
    model, method : str
        As the run names them; "none" is the unpruned model.
    keep : str
        The budget as it was given; "" without pruning.
    tokens : float or None
        Visual tokens that were kept, by count.
    scores : dict of str to float
        Benchmark -> score on the scale of papers.
    remarks : list of str
        What makes a score differ from what papers report.
    ocr : bool or None
        Whether the prompts of TextVQA held OCR tokens.
    """

    model: str
    method: str
    keep: str
    tokens: float | None
    scores: dict[str, float]
    remarks: list[str] = field(default_factory=list)
    ocr: bool | None = None


def read_finished(path: str | Path, benchmark: str | None = None) -> list[Finished]:
    """Read results.json of a bench, results of lmms-eval, or the newest of either in a folder.

    Parameters
    ----------
    benchmark : str or None
        What the questions of a bench are from, as in published.csv.

    Raises
    ------
    ValueError
        If there are no results, or they are of another kind or version.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no {path}: give a results file or a folder that holds one")
    if path.is_dir():
        files = [p for p in path.rglob("*results.json") if not p.name.startswith(".")]
        if not files:
            raise ValueError(f"{path} holds no results.json of bench and no results of lmms-eval")
        path = max(files, key=lambda p: p.stat().st_mtime)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON file ({error})") from None
    if isinstance(data, dict) and "schema" in data:
        return list(_of_bench(path, data, benchmark))
    if isinstance(data, dict) and isinstance(data.get("results"), dict):
        return [_of_lmms(path, data)]
    raise ValueError(
        f"{path} is neither results.json of sparevlm bench nor results of lmms-eval: its top level "
        "has no 'schema' and no 'results'"
    )


def _of_bench(path: Path, data: dict[str, Any], benchmark: str | None) -> Iterator[Finished]:
    if data["schema"] != SCHEMA:
        raise ValueError(
            f"{path} is of another version of sparevlm (schema {data['schema']}, now {SCHEMA}): "
            "run bench again"
        )
    if benchmark is None:
        raise ValueError(
            f"{path} does not say which benchmark its questions are from: give --benchmark, such "
            "as gqa or pope"
        )
    for setting in data["settings"]:
        score = setting["accuracy"]
        if benchmark == "pope" and setting["yes_no_f1"] is not None:
            score = setting["yes_no_f1"]
        yield Finished(
            model=data["about"]["model"],
            method="none" if setting["method"] == "all tokens" else setting["method"],
            keep=setting["budget"],
            tokens=setting["tokens"],
            scores={benchmark: 100 * score},
        )


def _of_lmms(path: Path, data: dict[str, Any]) -> Finished:
    config = data.get("config") or {}
    arguments = _arguments(config.get("model_args"))
    scores: dict[str, float] = {}
    remarks, ocr = [], None
    for name, values in data["results"].items():
        for task in TASKS.get(name, ()):
            value = _metric(values, task.metric)
            if value is None:
                remarks.append(f"{name}: it has no {task.metric}")
                continue
            scores[task.benchmark] = task.scale * value
            if task.remark:
                remarks.append(f"{name}: {task.remark}")
        if name not in TASKS and name.split("_")[0] in {t.split("_")[0] for t in TASKS}:
            remarks.append(f"{name}: not among the tasks that papers report, left out")
        if name.startswith("textvqa_val"):
            ocr = _ocr((data.get("configs") or {}).get(name) or {})
    if "mme_p" in scores and "mme_c" in scores:
        scores["mme_pc"] = scores["mme_p"] + scores["mme_c"]
    scores.pop("mme_c", None)
    if not scores:
        known = ", ".join(TASKS)
        raise ValueError(f"{path} has none of the tasks that have published scores: {known}")
    method = str(arguments.get("method", "none" if "keep" not in arguments else "spare"))
    return Finished(
        model=str(arguments.get("pretrained") or config.get("model") or ""),
        method=method,
        keep=str(arguments.get("keep", "")),
        tokens=_tokens(data, arguments, method),
        scores=scores,
        remarks=remarks,
        ocr=ocr,
    )


def _arguments(written: Any) -> dict[str, Any]:
    if isinstance(written, dict):
        return written
    pairs = (part.split("=", 1) for part in str(written or "").split(",") if "=" in part)
    return {name.strip(): value.strip() for name, value in pairs}


def _metric(values: Any, metric: str) -> float | None:
    for name, value in values.items() if isinstance(values, dict) else ():
        if name.split(",")[0] == metric and isinstance(value, int | float):
            return float(value)
    return None


def _tokens(data: dict[str, Any], arguments: dict[str, Any], method: str) -> float | None:
    """As our adapter counted them, or as they were asked for."""
    counted = (data.get("throughput") or {}).get("avg_kept_tokens_per_image")
    if counted is not None:
        return float(counted)
    keep = str(arguments.get("keep", ""))
    return float(keep) if keep.isdigit() and method != "none" else None


def _ocr(config: dict[str, Any]) -> bool | None:
    arguments = config.get("lmms_eval_specific_kwargs")
    if not isinstance(arguments, dict):
        return None
    flags = [arguments, *(part for part in arguments.values() if isinstance(part, dict))]
    answers = [part["ocr"] for part in flags if "ocr" in part]
    return bool(answers[0]) if answers else None
