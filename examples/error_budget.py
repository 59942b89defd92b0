"""Keep as few tokens as explain 95 % of a picture, whatever the picture needs.

python examples/error_budget.py      writes out/error_budget.png
"""

from pathlib import Path

from PIL import Image

from sparevlm import SPARE, Residual, load, preview, svd_bound, viz

model, processor = load("pocket")
pictures = {
    "shapes": Image.open("examples/scene.png"),
    "pictograms": Image.open("examples/pictograms.png"),
    "nothing at all": Image.new("RGB", (112, 112), "gray"),
}
method = SPARE(keep=Residual(0.05), guidance="none")
for name, picture in pictures.items():
    prompt = "USER: <image>\nwhat is it ? ASSISTANT:"
    inputs = processor(images=picture.convert("RGB"), text=prompt, return_tensors="pt")
    (report,) = preview(method, model, inputs)  # the language model does not run
    print(f"{name:15} {report.after:3} of {report.before} tokens")

# How far from the best that any 60 directions could do: the curve of the pictograms.
inputs = processor(images=pictures["pictograms"].convert("RGB"), text=prompt, return_tensors="pt")
features = model.get_image_features(inputs["pixel_values"]).pooler_output[0]
(report,) = preview(SPARE(keep=60, guidance="none"), model, inputs)
Path("out").mkdir(exist_ok=True)
print("drawn in", viz.save(viz.residual_curve(report, svd_bound(features)), "out/error_budget.png"))
