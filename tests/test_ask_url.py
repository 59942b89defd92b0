"""`ask --url` against what is no server, or one that refuses."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sparevlm import cli
from sparevlm.pocket.scenes import draw_scene

ANSWERS = {
    "ok": (200, 'data: {"choices": [{"delta": {"content": " red"}}]}\n\n'
                'data: {"choices": [], "usage": {"prompt_tokens": 27}}\n\ndata: [DONE]\n\n'),
    "refuses": (400, '{"error": {"message": "sparevlm: keep=0 leaves no tokens"}}'),
    "breaks": (502, "<html>bad gateway</html>"),
    "stops": (200, 'data: {"error": {"message": "out of memory"}}\n\n'),
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """A chat API as this server's `kind` says; remembers what it was asked."""

    def do_GET(self):
        self.answer(200, '{"data": [{"id": "some-model"}]}')

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.asked.append(json.loads(self.rfile.read(length)))
        self.answer(*ANSWERS[self.server.kind])

    def answer(self, status, text):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    found = HTTPServer(("127.0.0.1", 0), Handler)
    found.kind, found.asked = "ok", []
    found.url = f"http://127.0.0.1:{found.server_port}"
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def ask(tmp_path, capsys):
    path = tmp_path / "scene.png"
    draw_scene(0).picture().save(path)

    def run(*options):
        code = cli.main(["ask", str(path), "is it red ?", *options])
        return code, capsys.readouterr()

    return run


def test_what_is_sent(server, ask):
    code, seen = ask("--url", server.url, "--keep", "16", "--method", "divprune", "--json")
    assert code == 0
    found = json.loads(seen.out)
    assert (found["answer"], found["prompt_tokens"], found["model"]) == ("red", 27, "some-model")
    (body,) = server.asked
    assert body["mm_processor_kwargs"] == {"sparevlm": {"keep": 16, "method": "divprune"}}
    picture, text = body["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert text["text"] == "is it red ?"


def test_the_servers_own_setting_holds_unless_another_is_given(server, ask):
    assert ask("--url", server.url + "/v1/", "--model", "mine", "--compare")[0] == 0
    first, second = server.asked
    assert "mm_processor_kwargs" not in first
    assert second["mm_processor_kwargs"] == {"sparevlm": {"keep": 1.0}}
    assert first["model"] == "mine"


@pytest.mark.parametrize(
    ("kind", "words"),
    [("refuses", "refused (400): sparevlm: keep=0 leaves no tokens"),
     ("breaks", "refused (502): <html>bad gateway"), ("stops", "out of memory")],
)  # fmt: skip
def test_what_the_server_says_is_passed_on(server, ask, kind, words):
    server.kind = kind
    code, seen = ask("--url", server.url)
    assert code == 2
    assert words in seen.err
    assert seen.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--url", "localhost:8000"], "such as http://host:8000"),
        (["--url", "http://127.0.0.1:9"], "no server answers"),
        (["--url", "http://127.0.0.1:9", "--save", "x.png"], "--save needs the model here"),
        (["--url", "http://127.0.0.1:9", "--device", "cpu"], "--device needs the model here"),
    ],
)
def test_bad_input(ask, options, words):
    code, seen = ask(*options)
    assert code == 2
    assert words in seen.err
    assert seen.err.count("\n") == 1
