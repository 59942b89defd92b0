"""See what methods keep of one picture, and what is answered then.

python examples/compare_methods.py      writes out/compare_methods.png
"""

from pathlib import Path

from PIL import Image

from sparevlm import get_method, load, viz

KEEP = 14
QUESTION = "how many right of the cow can be eaten ?"

model, processor = load("pocket")
picture = Image.open("examples/pictograms.png").convert("RGB")
inputs = processor(
    images=picture, text=f"USER: <image>\n{QUESTION} ASSISTANT:", return_tensors="pt"
)

drawn = []
for name in ("spare", "divprune", "visionzip", "random"):
    method = get_method(name, keep=KEEP)
    with method.attach(model, tokenizer=processor.tokenizer, question=QUESTION) as handle:
        out = model.generate(**inputs, max_new_tokens=8)
    report = handle.report[0]
    said = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    drawn.append(viz.overlay(picture, report, processor))
    print(f"{name:10} {said.strip():12} {report.milliseconds:5.1f} ms")

Path("out").mkdir(exist_ok=True)
print("drawn in", viz.save(viz.side_by_side(drawn), "out/compare_methods.png"))
