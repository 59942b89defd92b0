"""The pocket model: a LLaVA small enough to train on a laptop and to ship inside the package.

CLIP vision tower (112 x 112 pixels, patch 8, 196 visual tokens, features of the layer before the
last, class token dropped), a two-layer projector and a small Llama. The matching CLIP text tower
lies in the folder `clip` beside it, so that image-text relevance is real too.
"""

from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from sparevlm.pocket.questions import words
from sparevlm.pocket.scenes import IMAGE_SIZE, PATCH_SIZE

PAD, UNKNOWN, IMAGE, START, END = "<pad>", "<unk>", "<image>", "<s>", "</s>"
SPECIAL = (PAD, UNKNOWN, IMAGE, START, END)

MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}</s>{% else %} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def make_tokenizer(*, clip: bool = False) -> PreTrainedTokenizerFast:
    """One word, one token; lower case. `clip` adds the end token that its text tower pools at."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *words()))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    end = f" {END}" if clip else ""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A{end}",
        special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        extra_special_tokens={} if clip else {"image_token": IMAGE},
        padding_side="right" if clip else "left",
        model_max_length=32 if clip else 2048,
    )


def make_image_processor() -> CLIPImageProcessorPil:
    """Shortest side to 112 pixels, centre crop, values to about [-2, 2]."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=list(MEAN),
        image_std=list(STD),
    )


def make_processor() -> LlavaProcessor:
    """Pictures and prompts to tensors, with a chat template in LLaVA's style."""
    return LlavaProcessor(
        image_processor=make_image_processor(),
        tokenizer=make_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def clip_config(width: int = 128, layers: int = 6) -> CLIPConfig:
    """Both CLIP towers; the text tower is always 128 wide with two layers."""
    tokenizer = make_tokenizer(clip=True)
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=128,
        hidden_act="gelu",
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        projection_dim=128,
        hidden_act="gelu",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128
    )


def llava_config(vision: CLIPVisionConfig, width: int = 256, layers: int = 4) -> LlavaConfig:
    """LLaVA on a vision tower, with a Llama `width` wide (a multiple of 64)."""
    tokenizer = make_tokenizer()
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,  # wide heads: on a CPU attention costs by the head
        num_key_value_heads=width // 64,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
