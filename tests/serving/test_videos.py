"""What is refused in the front end, on the functions that do it: with vLLM, but without a model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM: make test-serving")

from PIL import Image
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import (
    MultiModalBatchedField,
    MultiModalFieldElem,
    MultiModalFlatField,
    MultiModalKwargsItem,
    MultiModalSharedField,
)
from vllm.multimodal.parse import ImageEmbeddingItems, ImageProcessorItems, VideoProcessorItems

from sparevlm.serving.arguments import elements_of, opened
from sparevlm.serving.config import PruningConfig, settings_for
from sparevlm.serving.item import Run
from sparevlm.serving.joint import Seen, identity, packed, shortened, together
from sparevlm.serving.processing import _check_joint
from sparevlm.serving.settings import KEY, read_settings
from sparevlm.serving.videos import check_number, check_sizes


def frame(width=40, height=30):
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize(
    "video",
    [
        [frame(), frame(30)],
        [Image.new("RGB", (40, 30)), Image.new("RGB", (30, 30))],
        ([frame(), frame(30)], {"fps": 2}),
        [[frame(), frame()], [frame(), frame(30)]],
    ],
)
def test_frames_of_unlike_size(video):
    with pytest.raises(VLLMValidationError, match=r"must be of one size.* 30.* x "):
        check_sizes({"video": video})


@pytest.mark.parametrize("video", [[frame()] * 3, np.stack([frame()] * 3), [None], None])
def test_frames_that_are_fine(video):
    check_sizes({"video": video})
    check_sizes({})


@pytest.mark.parametrize("known", [None, {"fps": 2}])
def test_more_frames_than_the_server_takes(known):
    video = np.stack([frame()] * 5)
    videos = VideoProcessorItems([video if known is None else (video, known), None])

    def config(most):
        limits = {"video": SimpleNamespace(count=1, num_frames=most)} if most else {}
        return SimpleNamespace(multimodal_config=SimpleNamespace(limit_per_prompt=limits))

    with pytest.raises(VLLMValidationError, match="5 frames is more than the 4") as caught:
        check_number(videos, config(4))
    assert "\n" not in str(caught.value)
    check_number(videos, config(5))
    check_number(videos, config(None))


def settings(keep, per="image"):
    return read_settings({"keep": keep, "per": per}, positions=("original",))


FRAMES = [Run(5, 1, False), Run(9, 12, True)] * 4


def test_less_than_a_token_of_a_frame():
    for keep in (0.01, 1 / 25):
        with pytest.raises(VLLMValidationError, match="less than one of a frame's 12 tokens"):
            shortened(settings(keep), "video", FRAMES, 0)
    assert shortened(settings(1 / 12), "video", FRAMES, 0).kept == 4
    assert shortened(settings(0.01), "image", FRAMES[:2], 0).kept == 1
    assert shortened(settings(0.02, "prompt"), "video", FRAMES, 0).kept == 1
    assert shortened(settings(1.0 - 1e-9), "video", FRAMES, 1).count == 11  # no separator


def test_what_cannot_be_chosen_among_jointly():
    pictures = ImageProcessorItems([Image.new("RGB", (40, 30)), None])
    with pytest.raises(VLLMValidationError, match="send them with their UUIDs"):
        _check_joint({"image": pictures})
    with pytest.raises(VLLMValidationError, match="embeddings that were made before"):
        _check_joint({"image": ImageEmbeddingItems(torch.zeros(2, 3, 4)),
                      "video": VideoProcessorItems([np.stack([frame()])])})  # fmt: skip
    _check_joint({"image": ImageProcessorItems([Image.new("RGB", (40, 30))])})


def test_vllms_own_pruning_of_videos_is_refused():
    hf = SimpleNamespace(model_type="qwen2_5_vl", sparevlm={"keep": 9})
    media = SimpleNamespace(mm_processor_kwargs=None, is_multimodal_pruning_enabled=lambda: True)
    model = SimpleNamespace(hf_config=hf, multimodal_config=media, uses_mrope=True)
    config = SimpleNamespace(
        model_config=model, speculative_config=None,
        parallel_config=SimpleNamespace(pipeline_parallel_size=1),
        compilation_config=SimpleNamespace(cudagraph_mode=None),
    )  # fmt: skip
    with pytest.raises(ValueError, match="do not go together: remove --video-pruning-rate"):
        PruningConfig.verify_and_update_config(config)
    # And so is a request of a server that was started with it alone.
    del hf.sparevlm
    PruningConfig.verify_and_update_config(config)
    assert settings_for(model, {}) is None
    with pytest.raises(ValueError, match="do not go together"):
        settings_for(model, {KEY: {"keep": 3}})


def test_requests_do_not_go_past_a_captured_encoder():
    """A server that was started with a budget switches it off, one without refuses requests."""
    media = SimpleNamespace(mm_processor_kwargs=None, is_multimodal_pruning_enabled=lambda: False)
    for budget, captured in ((None, True), (None, False), ({"keep": 9}, True)):
        hf = SimpleNamespace(model_type="qwen2_5_vl", sparevlm=budget)
        model = SimpleNamespace(hf_config=hf, multimodal_config=media, uses_mrope=True)
        config = SimpleNamespace(
            model_config=model, speculative_config=None, lora_config=None,
            parallel_config=SimpleNamespace(pipeline_parallel_size=1),
            compilation_config=SimpleNamespace(cudagraph_mode=None, cudagraph_mm_encoder=captured),
        )  # fmt: skip
        PruningConfig.verify_and_update_config(config)
        assert config.compilation_config.cudagraph_mm_encoder == (captured and budget is None)
        if captured and budget is None:
            with pytest.raises(ValueError, match="without cudagraph_mm_encoder"):
                settings_for(model, {KEY: {"keep": 3}})
        else:
            assert settings_for(model, {KEY: {"keep": 3}}) is not None


def element(data, kind, **more):
    return MultiModalFieldElem(data=data, field=kind(**more))


def entries():
    picture = MultiModalKwargsItem({
        "pixel_values": element(torch.ones(8, 2), MultiModalFlatField, slices=[]),
        "image_grid_thw": element(torch.tensor([1, 2, 4]), MultiModalBatchedField),
        "image_token_id": element(torch.tensor(9), MultiModalSharedField, batch_size=1),
    })  # fmt: skip
    video = MultiModalKwargsItem({
        "pixel_values_videos": element(torch.zeros(6, 3, 4, 4), MultiModalBatchedField),
        "timestamps": element([0.5, 1.5], MultiModalBatchedField, keep_on_cpu=True),
    })  # fmt: skip
    return picture, video


class Cache:
    """A sender's cache that keeps what it was sent."""

    def __init__(self):
        self.known, self.touched = {}, []

    def touch_sender_cache_item(self, name):
        self.touched.append(name)

    def release_sender_touches(self):
        self.touched.clear()

    def get_and_update_item(self, item, name):
        if name in self.known:
            return None, []
        self.known[name] = item
        return item


def test_several_as_one_item():
    picture, video = entries()
    prompt = [1, 9, 9, 2, 3, 5, 8, 8, 5, 8, 8, 4]
    seen = [
        Seen("video", 0, 5, [Run(5, 1, False), Run(8, 2, True)] * 2, 1),
        Seen("image", 0, 1, [Run(9, 2, True)], 0),
    ]
    applied = {
        "type": "multimodal", "prompt_token_ids": prompt, "mm_placeholders": {},
        "mm_kwargs": {"image": [picture], "video": [video]},
        "mm_hashes": {"image": ["a"], "video": ["b"]},
    }  # fmt: skip
    cache = Cache()
    found, item = together(applied, seen, settings(0.5, "prompt"), cache)
    assert (item.count, item.total, item.units) == (2, 6, [2, 2, 2])  # half of 5, rounded to even
    assert item.whole() == prompt[1:-1]
    assert found["prompt_token_ids"] == [1, *item.shortened(), 4]
    assert [(p.modality, p.first, p.last) for p in item.parts] == [("image", 0, 1), ("video", 3, 7)]
    (place,) = found["mm_placeholders"]["video"]
    assert (place.offset, place.length) == (1, len(item.shortened()))
    (name,), (own,) = found["mm_hashes"]["video"], found["mm_kwargs"]["video"]
    assert own is not None and list(cache.known) == [name] and cache.touched == []
    again, _ = together(applied, seen, settings(0.5, "prompt"), cache)
    assert again["mm_kwargs"]["video"] == [None]  # the worker has it
    assert together(applied, seen, settings(0.5, "prompt"), None)[0]["mm_kwargs"]["video"][0]


def test_the_identity_is_of_all_that_the_choice_depends_on():
    item = shortened(settings(3, "prompt"), "video", FRAMES, 0)
    other = shortened(settings(4, "prompt"), "video", FRAMES, 0)
    worded = shortened(settings(3, "prompt"), "video", [Run(6, 1, False), *FRAMES[1:]], 0)
    names = [identity(["a", "b"], item), identity(["b", "a"], item), identity(["a"], item),
             identity(["a", "b"], other), identity(["a", "b"], worded)]  # fmt: skip
    assert len(set(names)) == 5 and names[0] == identity(["a", "b"], item)


def test_arguments_of_several_come_back_as_if_each_had_come_alone():
    item = shortened(settings(3, "prompt"), "video", FRAMES, 0)
    joint = packed(item, list(entries()))
    values = {name: own.data for name, own in joint.items() if name != KEY}
    picture, video = opened(values, 2)
    assert picture["pixel_values"].shape == (8, 2)
    assert picture["image_grid_thw"].tolist() == [[1, 2, 4]] and picture["image_token_id"] == 9
    assert video["pixel_values_videos"].shape == (1, 6, 3, 4, 4)
    assert video["timestamps"] == [[0.5, 1.5]]
    assert joint["1:entry:timestamps"].field.keep_on_cpu  # M-RoPE's, where nothing is encoded
    assert [sorted(own) for own in elements_of(joint, 2)] == [
        ["image_grid_thw", "image_token_id", "pixel_values"], ["pixel_values_videos", "timestamps"],
    ]  # fmt: skip
