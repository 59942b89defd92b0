"""Ask about a picture with 12 of its 196 visual tokens.

python examples/first_answer.py [picture] [question]
"""

import sys

from PIL import Image

from sparevlm import SPARE, load

model, processor = load("pocket")
path = sys.argv[1] if len(sys.argv) > 1 else "examples/pictograms.png"
question = sys.argv[2] if len(sys.argv) > 2 else "how many right of the cow can be eaten ?"
content = [
    {"type": "image", "image": Image.open(path).convert("RGB")},
    {"type": "text", "text": question},
]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
).to(model.device)


def answer():
    out = model.generate(**inputs, max_new_tokens=8)
    new = out[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(new, skip_special_tokens=True)[0].strip()


print(question)
print("with all tokens:", answer())
with SPARE(keep=12)(model) as handle:
    print("with 12 tokens: ", answer())
print(f"the 12 leave {handle.report[0].residual:.1%} of the features' energy unexplained")
