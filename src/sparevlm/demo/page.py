"""The page itself, with Gradio."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from sparevlm.demo import panel
from sparevlm.demo.explorer import Explorer, Look, Ranks
from sparevlm.demo.scenes import examples
from sparevlm.hf.loading import SHIPPED
from sparevlm.images import open_picture
from sparevlm.methods import list_methods

if TYPE_CHECKING:
    from PIL import Image

VIEWS = ("Kept tokens", "Order picked", "Scores")
SIDES = ("a", "b")
LABELS = ("Method", "Compare with")
METHODS = ("spare", "divprune")
KEEP = 12  # 6 % of the pocket model's tokens
LONGEST = 2000  # characters of a question
MEGABYTES = 20  # of an upload
FORGET = 3600  # seconds until a session's pictures are dropped

_SHOW = "(...settings) => { sparevlm.show(...settings); sparevlm.address(...settings); }"
# A file that is no picture goes, lest the browser draw its mark of a broken one.
_DROP = "(picture) => document.querySelector('#sv-full [data-file]') ? null : picture"
_DIM = "(...settings) => sparevlm.show(...settings)"


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
                "are all that it gets."
                + (" It knows drawn scenes only." if self._model in SHIPPED else ""),
                elem_id="sv-head",
            )
            state = gr.State(None, time_to_live=FORGET)
            example = gr.Textbox(visible=False)
            with gr.Row(elem_id="sv-main"):
                with gr.Column(scale=1, min_width=280, elem_id="sv-settings"):
                    picture = gr.Image(
                        label="Picture", type="filepath", sources=["upload", "clipboard"],
                        height=190, elem_id="sv-picture",
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
                with gr.Column(scale=3, min_width=300, elem_id="sv-results"):
                    with gr.Row(elem_id="sv-controls"):
                        keep = gr.Slider(
                            1, 195, value=KEEP, step=1, label="Visual tokens kept",
                            elem_id="sv-keep", scale=4,
                        )  # fmt: skip
                        view = gr.Radio(
                            list(VIEWS), value=VIEWS[0], label="Show", elem_id="sv-view", scale=3
                        )
                    working = gr.HTML(
                        '<div role="status" aria-label="asking the model"></div>',
                        elem_id="sv-working",
                    )
                    everything = gr.HTML(elem_id="sv-full")
                    with gr.Row(elem_classes="sv-pair", elem_id="sv-answers"):
                        answers = [gr.HTML(elem_id=f"sv-said-{side}") for side in SIDES]
                    with gr.Row(elem_classes="sv-pair", elem_id="sv-panels"):
                        panels = [gr.HTML(elem_id=f"sv-panel-{side}") for side in SIDES]
                    curve = gr.HTML(elem_id="sv-curve")
            if self._model in SHIPPED:
                gr.Markdown(panel.ABOUT, elem_id="sv-about")

            settings = [keep, view, *methods, question, example, picture]
            asked = [state, picture, question, *methods, keep, example]
            shown = [state, everything, *panels, *answers, curve, keep]
            queued: Any = {
                "concurrency_id": "model",
                "concurrency_limit": 1,
                "api_visibility": "private",
                "trigger_mode": "always_last",  # what was changed meanwhile is asked after all
                "show_progress": "minimal",
                "show_progress_on": working,
            }
            quick: Any = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

            def then_ask(event: Any) -> Any:
                return event.then(self.ask, asked, shown, **queued)

            def then_show(event: Any) -> None:
                event.then(None, picture, picture, js=_DROP).then(None, settings, js=_SHOW)

            page.load(None, js=self._named_examples())
            then_show(then_ask(page.load(self.from_address, outputs=settings, **quick)))
            taken = drawn.click(self.take_example, drawn, [picture, question, example], **quick)
            then_show(then_ask(taken))
            given = [picture.upload, picture.clear]
            then_show(then_ask(gr.on(given, lambda: "", outputs=example, **quick)))
            changed = [question.submit, *(method.input for method in methods)]
            then_show(gr.on(changed, self.ask, asked, shown, **queued))
            gr.on([keep.input, view.input], None, settings, js=_SHOW)
            dimming = [picture.change, question.change, *(method.change for method in methods)]
            gr.on(dimming, None, settings, js=_DIM)
            keep.input(
                self.answer, [state, *methods, keep], [*answers, *panels], **queued
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
            int(keep) if keep.isdecimal() and 0 < int(keep) < 10**6 else KEEP,
            view if view in VIEWS else VIEWS[0],
            first if first in known else METHODS[0],
            second if second in known else METHODS[1],
            settings.get("question", example.question)[:LONGEST],
            example.name,
            path,
        ]

    def ask(
        self, state: Any, path: str | None, question: str, first: str, second: str, keep: int,
        example: str,
    ) -> list[Any]:  # fmt: skip
        """Everything anew: the look, both panels, answers and curves."""
        if path is None:
            return self._empty(panel.note("Upload a picture, or take a drawn one."))
        seen = state if isinstance(state, _Seen) else None
        try:
            opened = seen.look.picture if seen and seen.path == path else open_picture(path)
        except (ValueError, OSError) as error:
            return self._empty(panel.refused(_sentence(error, path), file=True))
        try:
            look = self._look(seen, path, opened, question)
        except ValueError as error:
            return self._empty(panel.refused(_sentence(error, path)))
        most = max(look.tokens - 1, 1)
        now = min(int(keep), most)
        panels, answers = [], []
        curves: dict[str, tuple[str, Ranks]] = {}
        for side, name in zip(SIDES, (first, second), strict=True):
            drawn, said, ranks = self._side(look, path, side, name, now)
            panels.append(drawn)
            answers.append(said)
            if ranks is not None:
                curves[self._explorer.label(name)] = side, ranks
        made = {side for side, drawn in zip(SIDES, panels, strict=True) if drawn}
        # Where the slider has gone on meanwhile, it stays there.
        slider = gr.Slider(maximum=most, value=now) if now < keep else gr.Slider(maximum=most)
        asked = {"question": question, "picture": path}
        right = self._right(example, question)
        photo = self._model in SHIPPED and example not in self._examples
        everything = panel.full(look, asked, right, panel.PHOTOGRAPH if photo else None)
        curve = panel.curves(curves, {**asked, "methods": [first, second]})
        return [_Seen(path, look, made), everything, *panels, *answers, curve, slider]

    def _empty(self, words: str) -> list[Any]:
        """A sentence instead of everything; the slider stays."""
        return [None, words, "", "", "", "", "", gr.skip()]

    def answer(self, state: Any, first: str, second: str, keep: int) -> list[Any]:
        """Both answers with another budget, and panels that could not be drawn before."""
        if not isinstance(state, _Seen):
            return ["", "", gr.skip(), gr.skip()]
        panels, answers = [], []
        for side, name in zip(SIDES, (first, second), strict=True):
            drawn, said, _ = self._side(
                state.look, state.path, side, name, int(keep), side in state.drawn
            )
            answers.append(said)
            panels.append(drawn or gr.skip())
            if drawn:
                state.drawn.add(side)
        return [*answers, *panels]

    def _look(self, state: _Seen | None, path: str, picture: Image.Image, question: str) -> Look:
        if state is not None and (state.path, state.look.question) == (path, question):
            return state.look
        return self._explorer.look(picture, question)

    def _side(
        self, look: Look, path: str, side: str, name: str, keep: int, drawn: bool = False
    ) -> tuple[str, str, Ranks | None]:
        """A panel (none where one is drawn, or cannot be), an answer, and an order."""
        try:
            ranks = None if drawn else self._explorer.ranks(look, name)
            said = self._explorer.said(look, name, keep)
        except ValueError as error:
            return "", panel.refused(_sentence(error)), None
        shown, label = "", self._explorer.label(name)
        asked = {"question": look.question, "picture": path, "method": name}
        if not drawn:
            report = ranks.report if ranks else said.report
            processor = self._explorer.processor
            shown = panel.panel(look, label, side, report, ranks, processor, asked)
        return shown, panel.said(said, label, {**asked, "keep": keep}), ranks

    def _right(self, example: str, question: str) -> str | None:
        """The answer that is known of a drawn scene, while nobody changed the question."""
        if example not in self._examples:
            return None
        drawn = self._examples[example][1]
        return drawn.answer if drawn.question == question else None


def _sentence(error: Exception, path: str | None = None) -> str:
    """The message without the server's paths."""
    words = " ".join(str(error).split())
    if path is not None:
        words = words.replace(f"picture {path!r}", "this file").replace(repr(path), "this file")
    return words[:1].upper() + words[1:]
