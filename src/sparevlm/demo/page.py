"""The page itself, with Gradio."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from sparevlm.demo import panel
from sparevlm.demo.explorer import Explorer, Look, Ranks
from sparevlm.demo.scenes import examples
from sparevlm.images import open_picture
from sparevlm.methods import list_methods, method_class

VIEWS = ("Kept tokens", "Order picked", "Scores")
SIDES = ("a", "b")
LABELS = ("Method", "Beside it")
METHODS = ("spare", "divprune")
KEEP = 12  # 6 % of the pocket model's tokens
LONGEST = 2000  # characters of a question
MEGABYTES = 20  # of an upload
FORGET = 3600  # seconds until a session's pictures are dropped

_SHOW = (
    "(keep, view, ...rest) => { sparevlm.show(keep, view); sparevlm.address(keep, view, ...rest); }"
)


def theme() -> Any:
    """Gradio's plain theme with fonts that every machine has: nothing is loaded from elsewhere."""
    return gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )


def looks() -> dict[str, Any]:
    """What `launch` takes beside the page: theme, style and script."""
    here = files("sparevlm.demo")
    script = (here / "page.js").read_text(encoding="utf-8")
    return {
        "theme": theme(),
        "css": (here / "page.css").read_text(encoding="utf-8"),
        "head": f"<script>{script}</script>",
    }


@dataclass(frozen=True)
class _Seen:
    """What one visitor looks at, and which of the two panels are drawn."""

    path: str
    look: Look
    drawn: set[str]


class Page:
    """The page over one model.

    Parameters
    ----------
    explorer : Explorer
    folder : Path
        Where the drawn pictures are put.
    model : str
        The model's name, for the heading.
    """

    def __init__(self, explorer: Explorer, folder: Path, model: str) -> None:
        self._explorer = explorer
        self._examples = {}
        for example in examples():
            path = folder / f"{example.name}.png"
            example.picture.save(path)
            self._examples[example.name] = (str(path), example)
        self._model = model

    def build(self) -> gr.Blocks:
        """The page, to be launched with `looks`."""
        names = list_methods(inside=None)
        with gr.Blocks(
            title="sparevlm", analytics_enabled=False, delete_cache=(600, FORGET)
        ) as page:
            gr.Markdown(
                f"# What does the model still see?\nA question to **{self._model}** about a "
                "picture, with few of its visual tokens. Drag the budget: the patches that stay "
                "are the ones the language model gets."
            )
            state = gr.State(None, time_to_live=FORGET)
            example = gr.Textbox(visible=False)
            with gr.Row():
                with gr.Column(scale=1, min_width=280):
                    picture = gr.Image(
                        label="Picture", type="filepath", sources=["upload", "clipboard"],
                        height=240, elem_id="sv-picture",
                    )  # fmt: skip
                    # A file that nobody has tried to read, so that `open_picture` judges it.
                    picture.preprocess = lambda payload: payload and payload.path
                    drawn = gr.Dataset(
                        label="Or a drawn scene",
                        components=[gr.Image(render=False)],
                        samples=[[path] for path, _ in self._examples.values()],
                        layout="gallery", type="index", elem_id="sv-examples",
                    )  # fmt: skip
                    question = gr.Textbox(
                        label="Question", placeholder="What do you want to know?",
                        submit_btn="Ask", max_length=LONGEST, elem_id="sv-question",
                    )  # fmt: skip
                    methods = [
                        gr.Dropdown(names, value=value, label=label, elem_id=f"sv-method-{side}")
                        for side, label, value in zip(SIDES, LABELS, METHODS, strict=True)
                    ]
                with gr.Column(scale=3, min_width=300):
                    keep = gr.Slider(
                        1, 195, value=KEEP, step=1, label="Visual tokens kept", elem_id="sv-keep"
                    )
                    view = gr.Radio(list(VIEWS), value=VIEWS[0], label="Show", elem_id="sv-view")
                    everything = gr.HTML(elem_id="sv-full")
                    panels, answers = [], []
                    with gr.Row():
                        for side in SIDES:
                            with gr.Column(min_width=280):
                                answers.append(gr.HTML(elem_id=f"sv-said-{side}"))
                                panels.append(gr.HTML(elem_id=f"sv-panel-{side}"))
                    curve = gr.HTML(elem_id="sv-curve")

            settings = [keep, view, *methods, question, example]
            asked = [state, picture, question, *methods, keep, example]
            shown = [state, everything, *panels, *answers, curve, keep]
            busy: Any = {
                "concurrency_id": "model",
                "concurrency_limit": 1,
                "api_visibility": "private",
            }
            quick: Any = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

            page.load(None, js=self._named_examples())
            page.load(self.from_address, outputs=[picture, *settings], **quick).then(
                self.ask, asked, shown, **busy
            ).then(None, settings, js=_SHOW)
            drawn.click(self.take_example, drawn, [picture, question, example], **quick).then(
                self.ask, asked, shown, **busy
            ).then(None, settings, js=_SHOW)
            gr.on([picture.upload, picture.clear], lambda: "", outputs=example, **quick).then(
                self.ask, asked, shown, **busy
            ).then(None, settings, js=_SHOW)
            gr.on(
                [question.submit, *(method.input for method in methods)],
                self.ask, asked, shown, **busy,
            ).then(None, settings, js=_SHOW)  # fmt: skip
            gr.on([keep.input, view.input], None, settings, js=_SHOW)
            keep.input(
                self.answer, [state, *methods, keep], [*answers, *panels],
                trigger_mode="always_last", show_progress="hidden", **busy,
            ).then(None, settings, js=_SHOW)  # fmt: skip
        return page

    def _named_examples(self) -> str:
        """A script that tells screen readers what the drawn scenes are."""
        names = json.dumps([f"Scene: {example.question}" for _, example in self._examples.values()])
        return f"() => sparevlm.name('#sv-examples button', {names})"

    # -- what the page calls

    def take_example(self, index: int) -> tuple[str, str, str]:
        """A drawn picture, its question and its name."""
        path, example = list(self._examples.values())[index]
        return path, example.question, example.name

    def from_address(self, request: gr.Request) -> list[Any]:
        """Settings as the address has them; what it lacks, or has wrong, is as usual."""
        settings = dict(request.query_params)
        name = settings.get("picture", "")
        path, example = self._examples.get(name, next(iter(self._examples.values())))
        known = list_methods(inside=None)
        first, _, second = settings.get("methods", "").partition(",")
        keep = settings.get("keep", "")
        view = settings.get("view")
        return [
            path,
            int(keep) if keep.isdecimal() and 0 < int(keep) < 10**6 else KEEP,
            view if view in VIEWS else VIEWS[0],
            first if first in known else METHODS[0],
            second if second in known else METHODS[1],
            settings.get("question", example.question)[:LONGEST],
            example.name,
        ]

    def ask(
        self, state: Any, path: str | None, question: str, first: str, second: str, keep: int,
        example: str,
    ) -> list[Any]:  # fmt: skip
        """Everything anew: the look, both panels, answers and curves."""
        empty: list[Any] = ["", "", "", "", ""]
        if path is None:
            return [None, panel.note("Upload a picture, or take a drawn one."), *empty, keep]
        try:
            look = self._look(state, path, question)
        except (ValueError, OSError) as error:
            return [None, panel.refused(_sentence(error, path)), *empty, keep]
        most = max(look.tokens - 1, 1)
        keep = min(int(keep), most)
        panels, answers = [], []
        curves: dict[str, Ranks] = {}
        for side, name in zip(SIDES, (first, second), strict=True):
            drawn, said, ranks = self._side(look, side, name, keep)
            panels.append(drawn)
            answers.append(said)
            if ranks is not None:
                curves[_label(name)] = ranks
        right = self._right(example, question)
        slider = gr.Slider(maximum=most, value=keep)
        seen = _Seen(path, look, {side for side, drawn in zip(SIDES, panels, strict=True) if drawn})
        return [seen, panel.full(look, right), *panels, *answers, panel.curves(curves), slider]

    def answer(self, state: _Seen | None, first: str, second: str, keep: int) -> list[Any]:
        """Both answers with another budget, and panels that could not be drawn before."""
        if state is None:
            return ["", "", gr.skip(), gr.skip()]
        panels, answers = [], []
        for side, name in zip(SIDES, (first, second), strict=True):
            drawn, said, _ = self._side(state.look, side, name, int(keep), side in state.drawn)
            answers.append(said)
            panels.append(drawn or gr.skip())
            if drawn:
                state.drawn.add(side)
        return [*answers, *panels]

    def _look(self, state: _Seen | None, path: str, question: str) -> Look:
        if state is not None and (state.path, state.look.question) == (path, question):
            return state.look
        return self._explorer.look(open_picture(path), question)

    def _side(
        self, look: Look, side: str, name: str, keep: int, drawn: bool = False
    ) -> tuple[str, str, Ranks | None]:
        """A panel (none where one is drawn, or cannot be), an answer, and an order."""
        try:
            ranks = None if drawn else self._explorer.ranks(look, name)
            said = self._explorer.said(look, name, keep)
        except ValueError as error:
            return "", panel.refused(_sentence(error)), None
        shown = ""
        if not drawn:
            report = ranks.report if ranks else said.report
            shown = panel.panel(look, _label(name), side, report, ranks, self._explorer.processor)
        return shown, panel.said(said, _label(name), keep), ranks

    def _right(self, example: str, question: str) -> str | None:
        """The answer that is known of a drawn scene, while nobody changed the question."""
        if example not in self._examples:
            return None
        drawn = self._examples[example][1]
        return drawn.answer if drawn.question == question else None


def _label(name: str) -> str:
    return method_class(name).__name__


def _sentence(error: Exception, path: str | None = None) -> str:
    """The message without the server's paths."""
    words = " ".join(str(error).split())
    if path is not None:
        words = words.replace(f"picture {path!r}", "this file").replace(repr(path), "this file")
    return words[:1].upper() + words[1:]
