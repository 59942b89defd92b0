"""What needs onnx, onnxruntime and scikit-image: run by the Python of a temporary environment.

    python outside.py MODEL.onnx FOLDER

FOLDER holds crops.npz; weights.npz, users.json, check.npz and regions.npz are written beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

PATCH = 14
CHECKED = (2, 3, 224, 224)  # the only size that the ONNX takes
LAST = "/backbone/layernorm/Add_1_output_0"


def main(model: Path, folder: Path) -> None:
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    read = onnx.load(model)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in read.graph.initializer}
    users = {name: node.name for node in read.graph.node for name in node.input if name in arrays}
    np.savez(folder / "weights.npz", **arrays)
    (folder / "users.json").write_text(json.dumps(users))

    read.graph.output.append(helper.make_tensor_value_info(LAST, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(
        read.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    pixels = np.random.default_rng(0).standard_normal(CHECKED, dtype=np.float32)
    (tokens,) = session.run([LAST], {"input_image": pixels})
    np.savez(folder / "check.npz", pixels=pixels, tokens=tokens)

    crops = np.load(folder / "crops.npz")["crops"]
    np.savez(folder / "regions.npz", regions=np.stack([regions_of(crop) for crop in crops]))


def regions_of(crop: np.ndarray) -> np.ndarray:
    """The colour region of each patch of a crop: [side / PATCH, side / PATCH]."""
    from skimage.segmentation import felzenszwalb

    return majority(felzenszwalb(crop, scale=100, sigma=0.8, min_size=PATCH * PATCH))


def majority(labels: np.ndarray) -> np.ndarray:
    """The label that most pixels of each patch have, of labels [side, side]."""
    side = len(labels) // PATCH
    patches = labels.reshape(side, PATCH, side, PATCH).swapaxes(1, 2).reshape(side, side, -1)
    return np.array([[np.bincount(patch).argmax() for patch in row] for row in patches])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
