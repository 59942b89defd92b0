"""Asking every question with every method and budget; a killed run goes on where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from sparevlm.asking import FirstToken
from sparevlm.budgets import Budget, Residual, written_budget
from sparevlm.chat import tokenized
from sparevlm.evaluation.tasks import Item
from sparevlm.files import write_whole
from sparevlm.hf.encodings import Encodings, remembering
from sparevlm.methods import PruningMethod, get_method, method_class, read_method
from sparevlm.progress import progress_bar

CONTROLS = ("random", "uniform", "average-pool", "downsample")
ANSWERS, RUN = "answers.jsonl", "run.json"
SCHEMA = 2  # of what a run writes

Draw = Callable[["Setting", Item, Image.Image, Sequence[Any]], None]
"""Called for each question with its picture and the reports on it."""


@dataclass(frozen=True)
class Setting:
    """One way of answering: a method with its budget; None: all tokens."""

    name: str
    budget: str
    seed: int
    method: PruningMethod | None

    @property
    def key(self) -> str:
        """What tells it from the others in a run."""
        return f"{self.name} {self.budget} {self.seed}" if self.budget else self.name


@dataclass(frozen=True)
class Answered:
    """What was said to one question, and what it took.

    Attributes
    ----------
    setting : str
        `Setting.key`.
    row : int
    said : str
    before, after : int
        Visual tokens; for methods inside the language model, what the last layers get.
    selection_ms, first_ms : float
        Selection, and everything to the first new token, for this question's share of its batch.
    residual : float
        Relative squared residual of the kept tokens.
    average : float or None
        For methods inside the language model: visual tokens on average over its layers.
    schedule : dict or None
        And from which layer on there are how many.
    """

    setting: str
    row: int
    said: str
    before: int
    after: int
    selection_ms: float
    first_ms: float
    residual: float
    average: float | None = None
    schedule: dict[str, int] | None = None

    @property
    def tokens(self) -> float:
        """Visual tokens, on average over layers."""
        return self.after if self.average is None else self.average


def make_settings(
    methods: Sequence[str],
    keeps: Sequence[Budget],
    seeds: int,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Setting]:
    """All tokens, no picture, then each method and control at each budget; draws `seeds` times.

    `fields` are settings of methods, by their names. A budget by error is for the methods that know
    one; controls are then left out, which cannot be asked for it.

    Raises
    ------
    ValueError
        If there is no such method, or it does not take a budget or a setting.
    """
    fields = fields or {}
    settings = [
        Setting("all tokens", "", 0, None),
        Setting("no-image", "", 0, get_method("no-image", 1)),
    ]
    names = [method_class(name).name for name in methods]
    for keep in keeps:
        for name in dict.fromkeys([*names, *CONTROLS]):
            if name == "no-image":
                continue
            draws = "seed" in method_class(name).__dataclass_fields__
            for seed in range(seeds if draws else 1):
                if isinstance(keep, Residual) and name not in names:
                    continue
                values = {**({"seed": seed} if draws else {}), **fields.get(name, {})}
                method = read_method(name, keep, values)
                settings.append(Setting(name, written_budget(keep), seed, method))
    return settings


def run(
    model: Any,
    processor: Any,
    items: Sequence[Item],
    settings: Sequence[Setting],
    out: Path,
    *,
    about: dict[str, Any],
    batch: int = 25,
    max_new_tokens: int = 16,
    options: dict[str, Any] | None = None,
    draw: Draw | None = None,
) -> tuple[list[Answered], dict[int, str]]:
    """Answer what is not answered yet in `out`, and return all of it.

    Parameters
    ----------
    about : dict
        What the run is of; a folder that holds another run is refused.
    options : dict or None
        For `attach`.
    draw : callable or None
        Called with setting, item, picture and reports, once for each question that is answered.

    Returns
    -------
    answers : list of Answered
    odd : dict
        Row -> why it was left out: its picture could not be read.

    Raises
    ------
    ValueError
        If `out` holds the answers of another run.
    """
    out.mkdir(parents=True, exist_ok=True)
    _check_same(out / RUN, {"schema": SCHEMA, **about})
    done = {(a.setting, a.row): a for a in _read(out / ANSWERS)}
    odd: dict[int, str] = {}
    asker = _Asker(model, processor, max_new_tokens, draw)
    left = sum((s.key, i.row) not in done for s in settings for i in items)
    with (
        (out / ANSWERS).open("a", encoding="utf-8") as lines,
        progress_bar(left, "question") as bar,
        remembering() as encodings,
    ):
        for start in range(0, len(items), batch):
            encodings.forget()
            asker.inputs.clear()
            for setting in settings:
                some = [i for i in items[start : start + batch] if (setting.key, i.row) not in done]
                if not some:
                    continue
                bar.set_description(setting.key, refresh=False)
                method = setting.method
                pruning = method.attach(model, **(options or {})) if method else nullcontext()
                with pruning as handle:
                    for answer in asker.ask(some, setting, handle, odd, encodings):
                        done[answer.setting, answer.row] = answer
                        lines.write(json.dumps(asdict(answer)) + "\n")
                lines.flush()
                bar.update(len(some))
    return [a for a in done.values() if a.row not in odd], odd


@dataclass(frozen=True)
class _Asker:
    """Asks a model, a batch of questions at a time."""

    model: Any
    processor: Any
    max_new_tokens: int
    draw: Draw | None
    inputs: dict[tuple[int, ...], Any] = field(default_factory=dict)
    """Rows -> their items, pictures and tensors, for the settings that are asked one by one."""

    def ask(
        self,
        items: Sequence[Item],
        setting: Setting,
        handle: Any,
        odd: dict[int, str],
        encodings: Encodings,
    ) -> Iterator[Answered]:
        """Answer what has pictures that can be read; name the others in `odd`.

        The time to the first token holds that of the encoder, also where it ran for another
        setting.
        """
        rows = tuple(item.row for item in items)
        if rows not in self.inputs:
            self.inputs[rows] = self._prepared(items, odd)
        asked, pictures, inputs = self.inputs[rows]
        if not asked:
            return
        encodings.saved = 0.0
        clock, began = FirstToken(), time.perf_counter()
        ids = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.max_new_tokens,
            stopping_criteria=[clock],
        )
        first = 1000 * (clock.when - began + encodings.saved) / len(asked)
        new = ids[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        tokens = (inputs["input_ids"] == self.model.config.image_token_id).sum(1).tolist()
        for row, (item, text) in enumerate(zip(asked, texts, strict=True)):
            seen = [picture for picture in handle.report if picture.row == row] if handle else []
            if self.draw and len(pictures[row]) == 1:
                self.draw(setting, item, pictures[row][0], seen)
            yield Answered(
                setting=setting.key,
                row=item.row,
                said=text.strip(),
                before=sum(p.before for p in seen) if handle else tokens[row],
                after=sum(p.after for p in seen) if handle else tokens[row],
                selection_ms=sum(p.milliseconds for p in seen),
                first_ms=first,
                residual=sum(p.residual for p in seen) / max(len(seen), 1),
                **_inside(seen),
            )

    def _prepared(self, items: Sequence[Item], odd: dict[int, str]) -> tuple[Any, Any, Any]:
        pictures, asked = [], []
        for item in items:
            try:
                if item.row not in odd:
                    pictures.append(item.pictures())
                    asked.append(item)
            except (ValueError, OSError) as error:
                odd[item.row] = " ".join(str(error).split())
        return asked, pictures, self._tensors(asked, pictures) if asked else None

    def _tensors(self, items: Sequence[Item], pictures: list[list[Image.Image]]) -> Any:
        chats = [_chat(i.question, len(p)) for i, p in zip(items, pictures, strict=True)]
        # a list of pictures for each prompt: the form that every processor takes
        inputs = tokenized(self.processor, chats, pictures)
        return inputs.to(self.model.device, self.model.dtype)


def _inside(seen: Sequence[Any]) -> dict[str, Any]:
    """Average and schedule of pictures that lose tokens inside the language model."""
    if not any(picture.stages for picture in seen):
        return {}
    layers = sorted({layer for picture in seen for layer in picture.stages})
    return {
        "average": sum(picture.tokens for picture in seen),
        "schedule": {
            str(layer): sum(len(picture.stages[layer]) for picture in seen) for layer in layers
        },
    }


def _chat(question: str, pictures: int) -> list[dict[str, Any]]:
    content = [{"type": "image"}] * pictures + [{"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def _read(path: Path) -> Iterator[Answered]:
    """The answers written so far; a line that a killed run left unfinished is dropped."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            kept.append(Answered(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    text = "".join(json.dumps(asdict(answer)) + "\n" for answer in kept)
    write_whole(path, text)
    yield from kept


def _check_same(path: Path, about: dict[str, Any]) -> None:
    if not path.exists():
        path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if before.get("schema") != about["schema"]:
        raise ValueError(
            f"{path.parent} holds a run of another version of sparevlm (schema "
            f"{before.get('schema')}, now {about['schema']}): give another folder"
        )
    changed = [name for name in about if before.get(name) != json.loads(json.dumps(about[name]))]
    if changed:
        name = changed[0]
        raise ValueError(
            f"{path.parent} holds a run with {name} {before.get(name)!r}, and this one has "
            f"{about[name]!r}: give another folder"
        )
