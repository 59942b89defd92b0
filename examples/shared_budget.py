"""Frames of a video share one budget: what stands still is kept once.

python examples/shared_budget.py
"""

from PIL import Image

from sparevlm import SPARE, load, preview

model, processor = load("pocket")
first = Image.open("examples/scene.png").convert("RGB")
second = Image.open("examples/pictograms.png").convert("RGB")
frames = [first, first, first, second, second]  # a cut after the third
text = "USER: " + "<image>" * len(frames) + "\nwhat is it ? ASSISTANT:"
inputs = processor(images=frames, text=text, return_tensors="pt")

method = SPARE(keep=48, per="prompt", guidance="none")
(report,) = preview(method, model, inputs)
print(f"{report.after} of {report.before} tokens")
for number, share in enumerate(report.shares, 1):
    print(f"frame {number}: {share} tokens")
