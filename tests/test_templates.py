"""The question found in prompts of the families' chat templates, whatever its words are."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sparevlm.families import FAMILIES
from sparevlm.hf.guidance import Guidance
from sparevlm.serving.question import question_in
from sparevlm.templates import question_of

SYSTEM = "You help the user; the assistant answers.\nsystem: be short"
PICTURE = "\ue000"  # where the template puts the picture


def chatml(turns, *, space="\n", picture="<|vision_start|><|image_pad|><|vision_end|>"):
    text = "".join(f"<|im_start|>{role}{space}{said}<|im_end|>\n" for role, said in turns)
    return text.replace(PICTURE, picture) + f"<|im_start|>assistant{space}"


def interleave(turns):
    """LLaVA-Interleave and LLaVA-OneVision: pictures first, on a line of their own."""
    text = "".join(
        f"<|im_start|>{role} "
        + ("<image>\n" if PICTURE in said else "\n")
        + said.replace(PICTURE, "")
        + "<|im_end|>"
        for role, said in turns
    )
    return text + "<|im_start|>assistant\n"


def vicuna(turns):
    names = {"user": "USER", "assistant": "ASSISTANT"}
    text = "".join(
        f"{said} " if role == "system" else f"{names[role]}: {said} " for role, said in turns
    )
    return text.replace(PICTURE, "<image>\n") + "ASSISTANT:"


def human(turns):
    names = {"user": "###Human: ", "assistant": "###Assistant: ", "system": ""}
    text = "".join(names[role] + said for role, said in turns)
    return text.replace(PICTURE, "<image>\n") + "###Assistant:"


def inst(turns):
    text = "<s>"
    for role, said in turns:
        text += {"user": f"[INST] {said} [/INST]", "assistant": f" {said}</s>", "system": ""}[role]
    return text.replace(PICTURE, "<image>\n")


def mistral(turns):
    text = "<s>"
    for role, said in turns:
        text += {
            "user": f"[INST]{said}[/INST]",
            "assistant": f"{said}</s>",
            "system": f"[SYSTEM_PROMPT]{said}[/SYSTEM_PROMPT]",
        }[role]
    return text.replace(PICTURE, "[IMG][IMG][IMG_BREAK][IMG][IMG][IMG_END]")


def gemma(turns, begin="<start_of_turn>", end="<end_of_turn>"):
    names = {"user": "user", "assistant": "model", "system": "user"}
    text = "<bos>" + "".join(f"{begin}{names[r]}\n{said}{end}\n" for r, said in turns)
    picture = "\n\n<start_of_image><image_soft_token><end_of_image>\n\n"
    return text.replace(PICTURE, picture) + f"{begin}model\n"


def gemma4(turns):
    return gemma(turns, "<|turn>", "<turn|>")


def llama(turns):
    text = "<|begin_of_text|>" + "".join(
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{said}<|eot_id|>" for role, said in turns
    )
    return text.replace(PICTURE, "<|image|>") + "<|start_header_id|>assistant<|end_header_id|>\n\n"


def idefics(turns, start="<|begin_of_text|>"):
    names = {"user": "User", "assistant": "Assistant", "system": "System"}
    text = start + "".join(f"{names[r]}: {said}<end_of_utterance>\n" for r, said in turns)
    tile = "<fake_token_around_image><row_1_col_1><image><image><fake_token_around_image>"
    return text.replace(f" {PICTURE}", tile).replace(PICTURE, tile) + "Assistant:"


def smolvlm(turns):
    return idefics(turns, "<|im_start|>")


def cohere(turns):
    names = {"user": "USER", "assistant": "CHATBOT", "system": "SYSTEM"}
    text = "<BOS_TOKEN>" + "".join(
        f"<|START_OF_TURN_TOKEN|><|{names[r]}_TOKEN|>{said}<|END_OF_TURN_TOKEN|>"
        for r, said in turns
    )
    picture = "<|START_OF_IMG|><|IMG_PATCH|><|END_OF_IMG|>"
    return text.replace(PICTURE, picture) + "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"


def glm(turns):
    text = "[gMASK]<sop>" + "".join(f"<|{role}|>\n{said}" for role, said in turns)
    picture = "<|begin_of_image|><|image|><|end_of_image|>"
    return text.replace(PICTURE, picture) + "<|assistant|>\n"


def kimi(turns):
    text = "".join(f"<|im_{role}|>{role}<|im_middle|>{said}<|im_end|>" for role, said in turns)
    picture = "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>"
    return text.replace(PICTURE, picture) + "<|im_assistant|>assistant<|im_middle|>"


def deepseek(turns):
    names = {"user": "User: ", "assistant": "Assistant: ", "system": ""}
    text = "".join(f"{names[r]}{said}\n\n" for r, said in turns)
    return text.replace(PICTURE, "<image_placeholder>") + "Assistant:"


def task(turns):
    """PaliGemma: no roles, no turns."""
    return turns[-1][1].replace(PICTURE, "<image><image><bos>") + "\n"


WRITTEN = {
    "llava": (vicuna, interleave), "vipllava": (human,),
    "llava_next": (vicuna, inst, chatml, llama), "llava_onevision": (interleave,),
    "llava_next_video": (vicuna,), "internvl": (chatml,), "gemma3": (gemma,), "paligemma": (task,),
    "mistral3": (mistral,), "perception_lm": (llama,), "idefics3": (idefics,),
    "smolvlm": (smolvlm,), "aya_vision": (cohere,), "cohere2_vision": (cohere,),
    "ovis2": (chatml,), "lighton_ocr": (chatml,), "deepseek_vl": (deepseek,),
    "got_ocr2": (chatml,), "video_llama_3": (chatml,), "gemma4": (gemma4,),
    "gemma4_unified": (gemma4,), "lfm2_vl": (chatml,), "qianfan_ocr": (chatml,),
    "kimi_k25": (kimi,), "molmo2": (chatml,), "qwen2_vl": (chatml,), "qwen2_5_vl": (chatml,),
    "qwen3_vl": (chatml,), "qwen3_vl_moe": (chatml,), "qwen3_5": (chatml,),
    "qwen3_5_moe": (chatml,), "glm4v": (glm,), "glm4v_moe": (glm,), "glm46v": (glm,),
}  # fmt: skip
CASES = [(name, way) for name, ways in WRITTEN.items() for way in ways]
QUESTIONS = (
    "What operating system is shown in the screenshot?",
    "Which user posted this comment?",
    "Is the user: label or the assistant: label larger, and what does system say?",
    "user",
    "Transcribe:\nname\tuser\nrole\tassistant\nsystem\tLinux",
    "Was sagt der Assistent? 是用户 user 吗 ?",
)
MARKS = [
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<image>",
    "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]",
    "[IMG_BREAK]", "[IMG_END]", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>",
    "<image_soft_token>", "<end_of_image>", "<|turn>", "<turn|>", "<|begin_of_text|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|image|>", "<end_of_utterance>",
    "<fake_token_around_image>", "<row_1_col_1>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
    "<|START_OF_IMG|>", "<|IMG_PATCH|>", "<|END_OF_IMG|>", "[gMASK]", "<sop>", "<|user|>",
    "<|assistant|>", "<|system|>", "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>",
    "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>", "<|media_begin|>",
    "<|media_content|>", "<|media_pad|>", "<|media_end|>", "<image_placeholder>",
]  # fmt: skip


@cache
def tokenizer_of(way) -> PreTrainedTokenizerFast:
    """Bytes, and the marks of a template as tokens of their own, as its checkpoint has them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    # LLaVA-NeXT's Mistral has [INST] as plain text.
    own = [m for m in MARKS if not (way is inst and m in ("[INST]", "[/INST]"))]
    core.add_special_tokens([AddedToken(m, normalized=False) for m in own])
    core.add_tokens(
        [AddedToken(m, normalized=False) for m in ("<tool_response>", "</tool_response>")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core)


def asked(name, way, turns) -> str:
    tokenizer = tokenizer_of(way)
    text = turns if isinstance(turns, str) else way(turns)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = question_of(tokenizer, ids, FAMILIES[name].turns)
    config = SimpleNamespace(model_type=name)
    assert question_in(tokenizer, config, ids) == found  # the plugin for vLLM
    # In transformers the placeholders are gone by then.
    pictures = tokenizer.convert_tokens_to_ids(["<image>", "<|image_pad|>", "<|image|>"])
    words = torch.tensor([i for i in ids if i not in pictures])
    read = Guidance(None, tokenizer, FAMILIES[name], None).read(words)
    assert "".join(read.split()) == "".join(found.split())
    return found


def test_every_family_has_its_templates():
    assert WRITTEN.keys() == FAMILIES.keys()


@pytest.mark.parametrize("text", QUESTIONS)
@pytest.mark.parametrize(("name", "way"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_one_turn(name, way, text):
    assert asked(name, way, [("user", PICTURE + text)]) == text


@pytest.mark.parametrize(("name", "way"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_several_turns_and_a_system_prompt(name, way):
    talk = [
        ("system", SYSTEM),
        ("user", PICTURE + "Which user posted this comment?"),
        ("assistant", "The user: someone. The assistant does not know."),
        ("user", QUESTIONS[0]),
    ]
    assert asked(name, way, talk) == QUESTIONS[0]
    if way is not task:
        assert asked(name, way, talk[:2]) == "Which user posted this comment?"


@pytest.mark.parametrize(("name", "way"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_text_before_and_behind_the_picture(name, way):
    found = asked(name, way, [("user", f"Look at the system user:{PICTURE}which user is it?")])
    assert "".join(found.split()) == "Lookatthesystemuser:whichuserisit?"


@pytest.mark.parametrize(
    ("name", "way"), [case for case in CASES if case[1] is not task],
    ids=lambda v: getattr(v, "__name__", v),
)  # fmt: skip
def test_an_answer_that_is_scored_is_no_question(name, way):
    """As in training: the prompt goes on with the answer."""
    tokenizer = tokenizer_of(way)
    text = way([("user", PICTURE + QUESTIONS[1])]) + "user: someone"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert question_of(tokenizer, ids, FAMILIES[name].turns) == QUESTIONS[1]


def test_what_a_tool_said_is_no_question():
    talk = [
        ("user", PICTURE + QUESTIONS[0]),
        ("assistant", "<tool_call>{}</tool_call>"),
        ("user", "<tool_response>\nsystem: 5\n</tool_response>"),
    ]
    assert asked("qwen3_vl", chatml, talk) == QUESTIONS[0]


def test_an_empty_turn_is_passed_over():
    talk = [("user", QUESTIONS[0]), ("assistant", "Linux"), ("user", PICTURE)]
    assert asked("qwen2_vl", chatml, talk) == QUESTIONS[0]


def test_a_prompt_without_a_template():
    assert (
        asked("qwen2_vl", lambda turns: "what does the user see ?", [])
        == "what does the user see ?"
    )


def test_turns_of_instructions_without_an_end():
    """As some write Mistral's template: the answer is followed by a space and the next turn."""
    said = (
        "<s>[INST] <image>\nWhat is shown? [/INST] There is a red stop sign. "
        "[INST] <image>\nHow many cats do you see? [/INST]"
    )
    assert asked("llava_next", inst, said) == "How many cats do you see?"


def test_a_dialogue_in_the_question():
    """Where turns end with a token, lines that look like turns are the question's."""
    text = "Dialog:\nUser: hi\nAssistant: hello\nWho speaks first?"
    for name, way in (("idefics3", idefics), ("smolvlm", smolvlm)):
        assert asked(name, way, [("user", PICTURE + text)]) == text
