"""The smallest real checkpoint of each family: python -m pytest -m hub, with a hub within reach."""

from __future__ import annotations

import pytest
import torch

from sparevlm import SPARE, load
from sparevlm.families import FAMILIES
from sparevlm.pocket.scenes import draw_scene

pytestmark = pytest.mark.hub


def loaded(name):
    try:
        return load(name, dtype="bfloat16")
    except ValueError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        pytest.skip(f"{name} is not within reach: {' '.join(str(error).split())[:120]}")


# LLaVA-Interleave is of LLaVA's class, with another tower and another template.
NAMES = [*(family.hub[0] for family in FAMILIES.values()), "llava-hf/llava-interleave-qwen-0.5b-hf"]


@pytest.mark.parametrize("name", NAMES)
def test_a_real_checkpoint(name):
    model, processor = loaded(name)
    content = [{"type": "image"}, {"type": "text", "text": "Describe the picture."}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    picture = draw_scene(0).picture().resize((448, 448))
    inputs = processor(images=picture, text=prompt, return_tensors="pt").to(model.device)
    inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    options = {"do_sample": False, "max_new_tokens": 16}
    full = model.generate(**inputs, **options)
    with SPARE(keep=1.0, guidance="none")(model):
        assert torch.equal(model.generate(**inputs, **options), full)
    with SPARE(keep=64, guidance="none")(model) as handle:
        short = model.generate(**inputs, **options)
    assert handle.report[0].after == 64
    assert processor.batch_decode(short, skip_special_tokens=True)[0].strip()
