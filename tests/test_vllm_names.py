"""What the plugin uses of vLLM is read off the sources, on a made-up package."""

from __future__ import annotations

import io
import threading
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import dedent

import pytest

from sparevlm.serving.names.plugin import plugin_uses
from sparevlm.serving.names.sources import Sources, folder
from sparevlm.serving.names.uses import uses
from tests.vllm_names import differences, opened, reader

STOCK = {
    "__init__.py": """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from stock.engine import Registry
        else:
            def __getattr__(name): ...
    """,
    "base.py": """
        from typing import Generic, Protocol, TypeVar
        from stock.settings import Config
        class Model(Protocol):
            def encode(self, pixels, *, scale=1.0):
                return pixels
            def answer(self, ids: list[int], config: "Config | None") -> "Answer":
                return Answer(ids)
        class Answer:
            def __init__(self, ids, *, text=""):
                self.ids = ids
            @property
            def config(self) -> Config: ...
    """,
    "settings.py": """
        from dataclasses import dataclass, field
        @dataclass
        class Inner:
            room: int = 0
        @dataclass
        class Config:
            inner: Inner
            rest: dict = field(default_factory=dict)
    """,
    "engine.py": """
        class Registry:
            def put(self, name, cls, /): ...
        REGISTRY = Registry()
    """,
    "models/__init__.py": "from .llama import Llama",
    "models/llama.py": """
        from ..base import Model
        class Llama(Model):
            def __init__(self, *, config):
                self.tower = config
            def encode(self, pixels, *, scale=1.0): return 1
        def build(config, *, fast=False): ...
    """,
    "model_executor/models/__init__.py": "",
    "model_executor/models/registry.py": 'MODELS = {"LlamaForAnswers": ("llama", "Llama")}',
    "model_executor/models/llama.py": "from stock.models.llama import Llama",
}
OURS = {
    "__init__.py": """
        def register():
            from stock.engine import REGISTRY
            REGISTRY.put("llama", "ours.model:Pruned")
    """,
    "model.py": """
        from dataclasses import replace
        from typing import Any
        from stock.models import llama
        from stock.models.llama import build
        class Mixin:
            def __init__(self, *, config: Any):
                super().__init__(config=config)
            def encode(self, pixels, **rest):
                return self.choose(super().encode(pixels, scale=2.0), self.tower)
            def answer(self, ids, config):
                self.choose(config)
                for one in self.all(config):
                    one.room
                return super().answer(ids, config)
            def choose(self, config, tower=None):
                return config.inner.room if config else replace(config, rest={})
            def all(self, config): ...
        class Pruned(Mixin, llama.Llama):
            pass
        def made(config):
            return build(config, fast=True)
    """,
}


STOCK, OURS = (
    {name: dedent(text).lstrip("\n") for name, text in files.items()} for files in (STOCK, OURS)
)


def write(root: Path, package: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def found(root, stock=STOCK, ours=OURS):
    write(root, "stock", stock)
    write(root, "ours", ours)
    here = folder(root)
    sources = Sources({"stock": here, "ours": here}, whole="ours")
    return uses(sources, ["ours", "ours.model"], "stock", {"LlamaForAnswers": "ours.model.Pruned"})


def changed(tmp_path, *edits: tuple[str, str, str], ours=OURS) -> tuple[list[str], list[str]]:
    """What is said of a package in which (file, before, after) were edited."""
    stock = dict(STOCK)
    for file, before, after in edits:
        assert before in stock[file]
        stock[file] = stock[file].replace(before, after)
    return differences(found(tmp_path / "old", ours=ours), found(tmp_path / "new", stock, ours))


def test_everything_that_is_used_is_found(tmp_path):
    told = {use.name: use for use in found(tmp_path)}
    assert [use for use in told.values() if use.problem] == []
    model = "stock.models.llama.Llama"
    assert {name: use.shape for name, use in told.items()} == {
        "stock.engine.REGISTRY": "", "Registry.put": "(name, cls, /)", "stock.models.llama": "",
        "stock.models.llama.build": "(config, *, fast=False)",
        f"{model}.__init__": "(*, config)", f"{model}.encode": "(pixels, *, scale=1.0)",
        f"{model}.answer": "(ids, config)", f"{model}.tower": "", "Config.inner": "",
        "Config.rest": "", "Inner.room": "",
        "stock.model_executor.models.registry['LlamaForAnswers']": "",
    }  # fmt: skip
    assert told[f"{model}.answer"].home == "stock.base.Model"  # it is inherited
    assert told[f"{model}.answer"].by == "Pruned.answer"


def test_nothing_changed(tmp_path):
    assert changed(tmp_path) == ([], [])


LLAMA = "models/llama.py"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ((LLAMA, "class Llama(", "class Alpaca("),
         ["Pruned's base llama.Llama is gone", "registry['LlamaForAnswers']"]),
        ((LLAMA, "def build", "def make"), ["stock.models.llama has no build"]),
        (("base.py", "def answer", "def reply"), ["Llama has no answer"]),
        (("base.py", "return pixels", "..."), []),
        (("base.py", "return Answer(ids)", "raise NotImplementedError"),
         ["stock.models.llama.Llama has no answer: Model only declares it"]),
        ((LLAMA, "self.tower", "self.vision"), ["Llama.tower: ", "has no tower"]),
        ((LLAMA, "def __init__(self, *, config)", "def __init__(self, *, config, cache)"),
         ["Llama.__init__: ", "our override takes no argument cache"]),
        ((LLAMA, "fast=False", "quick=False"), ["build: it has no argument fast"]),
        (("base.py", "ids: list[int],", "ids: list[int], mask,"),
         ["Llama.answer: ", "another argument where it has mask"]),
        ((LLAMA, "pixels, *, scale=1.0", "pixels, *, scale=1.0, crop=None"),
         ["changed: stock.models.llama.Llama.encode(pixels, *, scale=1.0) is now "
          "(pixels, *, scale=1.0, crop=None) (used by Pruned.encode)"]),
        (("engine.py", "name, cls, /", "name, /"), ["Registry.put: it takes 1 arguments by place"]),
        (("settings.py", "room: int", "space: int"), ["Inner.room: Inner has no room"]),
        (("settings.py", "inner: Inner", "deep: Inner"), ["Config.inner: Config has no inner"]),
        (("engine.py", "REGISTRY = ", "MODELS = "), ["stock.engine has no REGISTRY"]),
        (("model_executor/models/registry.py", "LlamaForAnswers", "LlamaForText"),
         ["LlamaForAnswers is not in its registry"]),
        (("model_executor/models/registry.py", '"Llama")', '"Other")'),
         ["LlamaForAnswers is now served by llama.Other"]),
    ],
)  # fmt: skip
def test_what_is_gone_or_changed_is_named(tmp_path, edit, words):
    wrong, _ = changed(tmp_path, edit)
    said = "\n".join(wrong)
    for part in words:
        assert part in said, said


def test_a_module_that_moved_is_named(tmp_path):
    stock = {name: text for name, text in STOCK.items() if name != LLAMA}
    stock["models/llama2.py"] = STOCK[LLAMA]
    before, after = found(tmp_path / "old"), found(tmp_path / "new", stock)
    wrong, _ = differences(before, after)
    said = "\n".join(wrong)
    assert "there is no module stock.models.llama" in said or "has no llama" in said
    assert "stock.models.llama.build" in said and "Pruned's base llama.Llama is gone" in said


def test_what_moved_within_reach_is_told_and_is_no_fault(tmp_path):
    wrong, other = changed(
        tmp_path,
        (LLAMA, "    def encode(self, pixels, *, scale=1.0): return 1\n", ""),
    )
    assert wrong == []
    assert other == [
        "moved: stock.models.llama.Llama.encode from stock.models.llama.Llama to stock.base.Model"
    ]


def test_a_stock_name_that_ours_now_hides_is_told(tmp_path):
    wrong, other = changed(
        tmp_path, (LLAMA, "def encode", "def choose(self, config): ...\n    def encode")
    )
    assert wrong == []
    assert other == [
        "new: stock.models.llama.Llama.choose(config), which Pruned.choose overrides or uses"
    ]


def test_an_unreadable_base_hides_what_is_missing(tmp_path):
    """Where a class cannot be followed nothing is said to be gone, and so nothing is refused."""
    stock = STOCK | {"base.py": "from elsewhere import Model\nclass Answer: ...\n"}
    told = found(tmp_path, stock)
    assert not [use for use in told if "answer" in use.name and use.problem]


def test_the_plugin_itself_is_read():
    """Of a vLLM that has nothing all is gone; what to ask for comes from our own files."""
    told = plugin_uses(lambda path: "" if path == "vllm/__init__.py" else None)
    names = {use.name for use in told if use.problem}
    assert {
        "vllm.ModelRegistry", "vllm.config.CUDAGraphMode", "vllm.model_executor.models.llava",
        "vllm.model_executor.models.config.VerifyAndUpdateConfig",
        "vllm.multimodal.processing.context.InputProcessingContext",
        "LlavaProcessor(llava.LlavaMultiModalProcessor)",
        "vllm.model_executor.models.registry['Qwen3VLForConditionalGeneration']",
    } <= names  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Serves one file, by parts unless told not to."""

    asked: list[str]

    def __init__(self, *given, data: bytes, parts: bool):
        self.data, self.parts = data, parts
        super().__init__(*given)

    def do_GET(self):
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        part = self.data[int(first) : int(last) + 1] if self.parts else self.data
        self.send_response(206 if self.parts else 200)
        self.send_header("Content-Length", str(len(part)))
        if self.parts:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.data)}")
            self.server.sent += len(part)
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *words):
        pass


@pytest.fixture
def wheel():
    """Of 4 MB, with a small module in it."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("vllm/_C.so", bytes(4_000_000))
        archive.writestr("vllm/engine.py", "class Engine: ...\n")
    return made.getvalue()


def serve(data: bytes, parts: bool) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, data=data, parts=parts))
    server.sent = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_of_a_wheel_the_parts_are_fetched_that_are_read(wheel):
    server = serve(wheel, parts=True)
    try:
        link = f"http://127.0.0.1:{server.server_port}/vllm-9.9-py3-none-any.whl"
        read = reader(opened("9.9", link))
        assert read("vllm/engine.py") == "class Engine: ...\n"
        assert read("vllm/other.py") is None
        assert 0 < server.sent < 1_000_000
    finally:
        server.shutdown()


def test_an_index_that_sends_no_parts_is_asked_for_the_whole(wheel, monkeypatch, tmp_path, capsys):
    import tests.vllm_names as script

    def pip(*words):
        assert words[0] == "download" and words[-1] == "vllm==9.9"
        (tmp_path / "vllm-9.9-py3-none-any.whl").write_bytes(wheel)

    monkeypatch.setattr(script, "pip", pip)
    monkeypatch.setattr(script, "WHEELS", tmp_path)
    server = serve(wheel, parts=False)
    try:
        link = f"http://127.0.0.1:{server.server_port}/vllm-9.9-py3-none-any.whl"
        assert reader(opened("9.9", link))("vllm/engine.py") == "class Engine: ...\n"
        assert "fetched whole: it sends no parts of files" in capsys.readouterr().err
    finally:
        server.shutdown()
