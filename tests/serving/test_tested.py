"""What the plugin says of the vLLM that it finds itself in, and does in one it does not know."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-serving")

import vllm

import sparevlm
from sparevlm import serving
from sparevlm.serving import tested
from sparevlm.serving.config import PruningConfig
from sparevlm.serving.names import sources
from tests.serving.engine import ROOT, environment

POCKET = Path(sparevlm.__file__).parent / "pocket" / "weights"
LLAVA = "vllm/model_executor/models/llava.py"
LACKING = """
from sparevlm.serving.names import sources

real = sources.installed

def lacking(package):
    read = real(package)
    def text(path):
        found = read(path)
        changed = found and path == "vllm/model_executor/models/llava.py"
        return found.replace("def embed_multimodal", "def embed_pictures") if changed else found
    return text

sources.installed = lacking
"""


@pytest.fixture
def fresh(monkeypatch):
    """As in the first process of a server, whose vLLM can be made to lack things."""
    monkeypatch.setenv(tested._ANSWER, "")  # so that what is written is forgotten again
    monkeypatch.setattr(tested, "_said", set())
    real = sources.installed

    def lack(before: str, after: str) -> None:
        def installed(package):
            read = real(package)

            def text(path):
                found = read(path)
                if path != LLAVA:
                    return found
                assert before in found
                return found.replace(before, after)

            return text

        monkeypatch.setattr(sources, "installed", installed)

    return lack


def start(keep, **server):
    """What vLLM hands to the hook, of a LLaVA."""
    kwargs = {} if keep is None else {"sparevlm": {"keep": keep}}
    return SimpleNamespace(
        model_config=SimpleNamespace(
            hf_config=SimpleNamespace(),
            multimodal_config=SimpleNamespace(mm_processor_kwargs=kwargs),
        )
    )


def test_this_vllm_is_the_one_that_is_named(fresh, caplog):
    told = re.findall(r"^VLLM \?= (\d+\.\d+)", (ROOT / "Makefile").read_text(), re.M)
    assert told == [tested.TESTED]
    with caplog.at_level(logging.INFO, "vllm.sparevlm"):
        logging.getLogger("vllm").propagate = True
        assert tested.refusal() == ""
        tested.say()
        tested.say()
    (record,) = caplog.records  # once
    assert record.levelname == "INFO"
    assert record.message == (
        f"sparevlm is tested with vLLM {tested.TESTED}; this is {vllm.__version__}"
    )


def test_another_vllm_is_warned_of(fresh, caplog, monkeypatch):
    monkeypatch.setattr(vllm, "__version__", "0.99.1")
    logging.getLogger("vllm").propagate = True
    assert tested.refusal() == ""
    tested.say()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"tested with vLLM {tested.TESTED}, and this is 0.99.1" in record.message


def test_processes_that_are_started_inherit_the_answer(fresh, monkeypatch):
    fresh("def embed_multimodal", "def embed_pictures")
    why = tested.refusal()
    assert os.environ[tested._ANSWER] == f"{vllm.__version__}: {why}"
    monkeypatch.setattr(tested, "_look_up", None)
    assert tested.refusal() == why


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("def embed_multimodal", "def embed_pictures",
         "vllm.model_executor.models.llava.LlavaForConditionalGeneration has no embed_multimodal"),
        ("class LlavaForConditionalGeneration", "class Llava",
         "PrunedLlava's base llava.LlavaForConditionalGeneration is gone"),
        ("def _build_llava_or_pixtral_hf_info(", "def _info(",
         "vllm.model_executor.models.llava has no _build_llava_or_pixtral_hf_info"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_and_a_budget_is_refused(
    fresh, caplog, monkeypatch, before, after, named
):
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    fresh(before, after)
    replaced = []
    monkeypatch.setattr(ModelRegistry, "register_model", lambda *given: replaced.append(given))
    monkeypatch.setattr(serving, "CLASSES", {"Made": "PrunedLlava"})
    serving.register()
    assert replaced == [] and MODELS_CONFIG_MAP.pop("Made") is PruningConfig
    with pytest.raises(
        ValueError, match=f"cannot prune with this one, {vllm.__version__}"
    ) as caught:
        PruningConfig.verify_and_update_config(start(9))
    assert named in str(caught.value) and "\n" not in str(caught.value)
    logging.getLogger("vllm").propagate = True
    PruningConfig.verify_and_update_config(start(None))  # the server starts, and says it
    assert "pictures stay whole" in caplog.text
    monkeypatch.setenv("SPAREVLM_KEEP", "9")
    with pytest.raises(ValueError, match="ask for no budget"):
        PruningConfig.verify_and_update_config(start(None))


def test_an_argument_that_is_new_and_handed_on_is_no_fault(fresh):
    fresh("        intermediate_tensors: ", "        mask, intermediate_tensors: ")
    assert tested.refusal() == ""


def test_a_vllm_without_the_hook_is_refused_in_a_sentence(fresh, monkeypatch):
    monkeypatch.delattr("vllm.model_executor.models.config.MODELS_CONFIG_MAP")
    with pytest.raises(ImportError, match=r"MODELS_CONFIG_MAP.*VLLM_PLUGINS without sparevlm"):
        serving.register()


def run(folder, code: str) -> subprocess.CompletedProcess:
    """A program in a process of its own, with vLLM's log."""
    (folder / "start.py").write_text(f"if __name__ == '__main__':\n    exec({code!r})\n")
    anew = environment(VLLM_LOGGING_LEVEL="INFO")
    anew.pop(tested._ANSWER, None)  # what another test looked up here
    return subprocess.run(
        [sys.executable, str(folder / "start.py")], env=anew, cwd=ROOT, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip


def test_the_log_says_it_at_the_start(tmp_path):
    """As vLLM shows it: its log is set up after plugins are loaded."""
    done = run(
        tmp_path,
        "from vllm.engine.arg_utils import EngineArgs\n"
        f"EngineArgs({str(POCKET)!r}, dtype='float32', max_model_len=512).create_engine_config()\n",
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert said.count(f"sparevlm is tested with vLLM {tested.TESTED}; this is") == 1, said[-3000:]


def test_a_server_of_an_unknown_shape_ends_before_a_worker_starts(tmp_path):
    """In a process of its own: the sentence is the last line, and no engine has begun."""
    code = LACKING + (
        "from vllm import LLM\n"
        f"LLM({str(POCKET)!r}, dtype='float32', enforce_eager=True, max_model_len=512,\n"
        "    mm_processor_kwargs={'sparevlm': {'keep': 9}})\n"
    )
    done = run(tmp_path, code)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "LlavaForConditionalGeneration has no embed_multimodal" in said, said[-3000:]
    assert "EngineCore" not in said and "Loading" not in said
