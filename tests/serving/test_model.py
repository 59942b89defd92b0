"""The worker's part on stand-ins for vLLM's classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from sparevlm.serving import metrics
from sparevlm.serving.arguments import cut, joined, one_of
from sparevlm.serving.item import Part, PrunedItem, Run
from sparevlm.serving.places import OnGrid, OnLine
from sparevlm.serving.settings import read_settings
from sparevlm.tokens import Reduction, VisualTokens

WIDTH = 8
PICTURE = 9  # token id of a placeholder


def config(asked=True, room=64, kind="llava", theirs=False):
    return SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_encoder_input_tokens=room),
        model_config=SimpleNamespace(
            uses_mrope=asked,
            get_inputs_embeds_size=lambda: WIDTH,
            model="none",
            hf_config=SimpleNamespace(model_type=kind),
            multimodal_config=SimpleNamespace(is_multimodal_pruning_enabled=lambda: theirs),
        ),
    )


class Stock:
    """As a vLLM model looks to the mixins."""

    def __init__(self, *, vllm_config, prefix=""):
        self.config = SimpleNamespace(
            get_text_config=lambda: SimpleNamespace(max_position_embeddings=100),
            vision_config=SimpleNamespace(spatial_merge_size=2),
        )
        self.runs, self.given, self.embedded = [], None, None
        self.words = torch.nn.Embedding(10, WIDTH)

    def get_language_model(self):
        return SimpleNamespace(embed_input_ids=self.words)

    def embed_multimodal(self, pixel_values=None, pixel_values_videos=None, **rest):
        """Pictures are their features; of a video [frames, tokens, width]."""
        if pixel_values is not None:
            self.runs.append(len(pixel_values))
            return [torch.as_tensor(rows) for rows in pixel_values]
        self.runs.append([len(frames) for frames in pixel_values_videos])
        end = getattr(self, "image_newline", None)
        ends = [] if end is None else [end[None]]
        return [torch.cat([*frames, *ends])[None] for frames in pixel_values_videos]

    def embed_input_ids(self, input_ids, embeddings=None, *, is_multimodal=None):
        self.embedded = embeddings
        return torch.zeros(len(input_ids), WIDTH)

    def forward(self, input_ids, positions, *rest):
        self.given = positions

    def get_mrope_input_positions(self, tokens, features):
        """Rows and columns in pictures of 4 x 6, as Qwen has them."""
        positions, after = [], 0
        done = 0
        for feature in features:
            place = feature.mm_position
            text = place.offset - done
            positions += [(after + i,) * 3 for i in range(text)]
            base = after + text
            positions += [(base, base + i // 6, base + i % 6) for i in range(place.length)]
            after, done = base + 6, place.offset + place.length
        positions += [(after + i,) * 3 for i in range(len(tokens) - done)]
        found = torch.tensor(positions).T
        return found, int(found.max()) + 1 - len(tokens)


class Line(OnLine, Stock):
    pass


class Grid(OnGrid, Stock):
    def grid(self, unit):
        return (4, 6)


@dataclass(frozen=True)
class Place:
    offset: int
    length: int
    is_embed: torch.Tensor | None = None


@dataclass(frozen=True)
class Feature:
    mm_position: Place
    data: dict = field(default_factory=dict)
    modality: str = "image"


def item(keep, total=24, positions="original", runs=None, kind="image", **more):
    settings = read_settings({"keep": keep, **more}, positions=("original", "compact"))
    runs = runs or (Run(PICTURE, total, True),)
    parts = (Part(kind, 0, len(runs)),)
    return PrunedItem(settings.keeping(keep).placed(positions), tuple(runs), parts)


MARKED = (Run(7, 1, False), Run(PICTURE, 24, True), Run(8, 1, False))  # between <img> and </img>


def pictures(*seeds, total=24):
    return [torch.randn(total, WIDTH, generator=torch.Generator().manual_seed(s)) for s in seeds]


def kept(one, rows):
    return one.settings.method.reduce(VisualTokens(rows)).indices


@pytest.mark.parametrize("wrong", [[5, 3], [3, 3], [2, 30], [2, 4]])
def test_a_method_that_breaks_its_contract_ends_no_server(monkeypatch, caplog, wrong):
    """As transformers checks it: ascending, distinct, within the picture, no separators."""
    model = Line(vllm_config=config(asked=False, kind="llava_next"))
    model.image_newline = torch.full((WIDTH,), 7.0)
    (rows,) = pictures(0)
    rows[[4, 9]] = 7.0  # the ends of lines
    one = item(2)
    broken = lambda self, tokens: Reduction(torch.tensor(wrong))  # noqa: E731
    monkeypatch.setattr(type(one.settings.method), "reduce", broken)
    (found,) = model.embed_multimodal(pixel_values=[rows], sparevlm=[one.to_tensor()])
    assert len(found) == 2 and not (found == 7.0).all(-1).any()
    assert "evenly spaced tokens were kept of a picture: SPARE.reduce" in caplog.text


def unit(rows, kind="image", **arguments):
    given = SimpleNamespace(modality=kind, arguments=arguments)
    return SimpleNamespace(part=given, size=len(rows))


def test_the_record_of_the_family_says_separators_and_grid():
    rows, size = torch.randn(24, WIDTH), torch.tensor([[1, 8, 12]])
    line = Line(vllm_config=config(kind="llava"))
    assert line.candidates(rows) is None and line.grid(unit(rows[:16])) == (4, 4)
    ends = Line(vllm_config=config(kind="llava_onevision"))
    ends.image_newline = rows[5]
    assert (~ends.candidates(rows)).nonzero()[:, 0].tolist() == [5]
    assert ends.grid(unit(rows[:16])) is None
    assert ends.grid(unit(rows[:16], "video", pixel_values_videos=[])) == (4, 4)
    grid = Grid(vllm_config=config(kind="qwen2_5_vl"))
    assert OnGrid.grid(grid, unit(rows, image_grid_thw=size)) == (4, 6)


def test_a_method_that_compares_in_the_language_models_space(monkeypatch):
    """It does so on a model whose CLIP is at hand too."""

    class Tower:
        def query(self, *given):
            raise AssertionError("the tower was asked")

    model = Line(vllm_config=config())
    questions = model._questions
    questions.__dict__.update(_tower=Tower(), _states=torch.zeros(1, 24, 4))
    questions.__dict__["_tokenizer"] = SimpleNamespace(encode=lambda text, **options: [3, 4])
    embed = torch.nn.Embedding(9, WIDTH)
    language = SimpleNamespace(embed_input_ids=embed, named_modules=lambda: [])
    model.get_language_model = lambda: language
    (rows,) = pictures(0)
    settings = read_settings({"keep": 5, "guidance": "anti"}, positions=("original",))
    asked = type(settings)(settings.method, "what is it ?")
    with pytest.raises(AssertionError, match="the tower was asked"):
        questions.query(asked, rows, 0)
    monkeypatch.setattr(type(settings.method), "compares", "llm")
    found = questions.query(asked, rows, 0)
    assert found.source == "llm"
    # With adapters: vLLM's own layer is laid out for a batch.
    wrapped = SimpleNamespace(base_layer=embed)
    adapted = SimpleNamespace(named_modules=lambda: [("model.embed_tokens", wrapped)])
    model.get_language_model = lambda: adapted
    again = questions.query(asked, rows, 0)
    assert torch.equal(again.texts, found.texts)


def test_each_picture_by_its_own_item():
    model, rows = Line(vllm_config=config(asked=False)), pictures(0, 1, 2)
    items = [item(5), item(9, method="divprune"), item(24)]
    found = model.embed_multimodal(pixel_values=rows, sparevlm=[i.to_tensor() for i in items])
    for one, picture, got in zip(items, rows, found, strict=True):
        assert torch.equal(got, picture[kept(one, picture)])
    assert model.runs == [2, 1]  # 24 tokens each, room for 64


def test_unpruned_pictures_are_stocks():
    model, rows = Line(vllm_config=config()), pictures(0)
    (found,) = model.embed_multimodal(pixel_values=rows)
    assert torch.equal(found, rows[0])


def test_nan_does_not_end_the_server(caplog):
    model, (rows,) = Line(vllm_config=config(asked=False)), pictures(0)
    rows[3] = float("nan")
    (found,) = model.embed_multimodal(pixel_values=[rows], sparevlm=[item(5).to_tensor()])
    assert found.shape == (5, WIDTH)
    assert "evenly spaced" in caplog.text


def test_a_picture_that_is_not_what_was_promised():
    model, rows = Line(vllm_config=config()), pictures(0, total=20)
    with pytest.raises(RuntimeError, match="of 20 tokens where the prompt has room for 5 of 24"):
        model.embed_multimodal(pixel_values=rows, sparevlm=[item(5).to_tensor()])


@pytest.mark.parametrize(("kind", "dtype"), [(Line, torch.float32), (Grid, torch.bfloat16)])
def test_places_travel_behind_the_features(kind, dtype):
    """A picture of 24 tokens, of which 5 stay, between three words and two."""
    model, (rows,) = kind(vllm_config=config()), pictures(0)
    rows, one = rows.to(dtype), item(5)
    (found,) = model.embed_multimodal(pixel_values=[rows], sparevlm=[one.to_tensor()])
    indices = kept(one, rows)
    assert found.shape == (5, WIDTH + 3 * model.axes)
    tokens = [1, 2, 3, *[PICTURE] * 5, 4, 5]
    feature = Feature(Place(3, 5), {"sparevlm": SimpleNamespace(data=one.to_tensor())})
    positions, delta = model.get_mrope_input_positions(tokens, [feature])
    mask = torch.tensor(tokens) == PICTURE
    model.embed_input_ids(torch.tensor(tokens), [found], is_multimodal=mask)
    assert torch.equal(model.embedded[0], rows[indices])
    model.forward(torch.tensor(tokens), positions)
    whole = [1, 2, 3, *[PICTURE] * 24, 4, 5]
    if kind is Line:
        expected, ahead = torch.arange(29), 29 - len(tokens)
    else:
        expected, _ = Stock.get_mrope_input_positions(model, whole, [Feature(Place(3, 24))])
        ahead = int(expected.max()) + 1 - len(tokens)
    columns = torch.cat([torch.arange(3), 3 + indices, torch.tensor([27, 28])])
    assert torch.equal(model.given, expected[..., columns])
    assert delta == ahead
    # The next step has no picture in it, and nothing is left over.
    model.embed_input_ids(torch.tensor([7]), [], is_multimodal=torch.tensor([False]))
    model.forward(torch.tensor([7]), torch.tensor([[29], [29], [29]]))
    assert (model.given == 29).all()


def test_compact_positions_and_marks_around_a_picture():
    one = item(5, positions="compact", runs=MARKED)
    model, (rows,) = Line(vllm_config=config()), pictures(0)
    (found,) = model.embed_multimodal(pixel_values=[rows], sparevlm=[one.to_tensor()])
    tokens = [1, *one.shortened(), 4]
    assert tokens == [1, 7, *[PICTURE] * 5, 8, 4]
    mask = torch.arange(9).remainder(8) > 0
    feature = Feature(Place(1, 7), {"sparevlm": SimpleNamespace(data=one.to_tensor())})
    positions, delta = model.get_mrope_input_positions(tokens, [feature])
    model.embed_input_ids(torch.tensor(tokens), [found], is_multimodal=mask)
    words = model.words(torch.tensor([7, 8])).detach()
    expected = torch.cat([words[:1], rows[kept(one, rows)], words[1:]])
    assert torch.equal(model.embedded[0], expected)
    model.forward(torch.tensor(tokens), positions)
    assert model.given.tolist() == list(range(9))
    assert delta == 0


def test_original_positions_with_marks_around_a_picture():
    one, (rows,) = item(5, runs=MARKED), pictures(0)
    model = Line(vllm_config=config())
    (found,) = model.embed_multimodal(pixel_values=[rows], sparevlm=[one.to_tensor()])
    tokens = [1, 7, *[PICTURE] * 5, 8, 4]
    mask = torch.arange(9).remainder(8) > 0
    feature = Feature(Place(1, 7), {"sparevlm": SimpleNamespace(data=one.to_tensor())})
    positions, delta = model.get_mrope_input_positions(tokens, [feature])
    model.embed_input_ids(torch.tensor(tokens), [found], is_multimodal=mask)
    model.forward(torch.tensor(tokens), positions)
    assert model.given.tolist() == [0, 1, *(2 + kept(one, rows)).tolist(), 26, 27]
    assert delta == 19


def test_large_places_survive_bfloat16():
    """A film of 768 frames of 256 tokens has places above 65,536."""
    model = Line(vllm_config=config())
    indices = torch.tensor([0, 255, 256, 65535, 196_607])
    one = item(5, total=196_608)
    rows = model.placed(one, [SimpleNamespace(arguments={})],
                        torch.zeros(5, WIDTH, dtype=torch.bfloat16), indices)  # fmt: skip
    mask = torch.ones(5, dtype=torch.bool)
    model.config.get_text_config = lambda: SimpleNamespace(max_position_embeddings=10**6)
    model.embed_input_ids(torch.zeros(5, dtype=torch.long), [rows], is_multimodal=mask)
    model.forward(None, torch.zeros(3, 5, dtype=torch.long))
    assert model.given.tolist() == indices.tolist()


def test_positions_beyond_the_models_stay_at_its_last():
    model = Line(vllm_config=config())
    model.forward(None, torch.tensor([[98, 99, 100, 400]] * 3))
    assert model.given.tolist() == [98, 99, 99, 99]


def test_what_vllms_own_pruning_puts_behind_features_is_left_alone():
    """Its places go through the model too; the runner takes them off."""
    model = Grid(vllm_config=config(kind="qwen2_5_vl", theirs=True))
    rows = torch.randn(3, WIDTH + 4)
    model.embed_input_ids(torch.zeros(5), [rows], is_multimodal=torch.ones(5).bool())
    assert model.embedded[0] is rows
    positions = torch.arange(5).expand(3, -1)
    model.forward(None, positions)
    assert torch.equal(model.given, positions)


def test_prompts_of_which_nothing_is_pruned_get_what_stock_says():
    model = Grid(vllm_config=config(kind="qwen2_5_vl"))
    tokens, features = [1, *[PICTURE] * 24, 2], [Feature(Place(1, 24, torch.ones(24).bool()))]
    positions, ahead = model.get_mrope_input_positions(tokens, features)
    wanted, also = Stock.get_mrope_input_positions(model, tokens, features)
    assert torch.equal(positions, wanted)
    assert ahead == also


def test_seconds_are_summed_over_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("SPAREVLM_METRICS", str(tmp_path))
    monkeypatch.setattr(metrics, "_sums", {"encoder": {}, "selection": {}})
    model = Line(vllm_config=config(asked=False))
    model.embed_multimodal(
        pixel_values=pictures(0, 1, 2), sparevlm=[item(5).to_tensor() for _ in range(3)]
    )
    model.embed_multimodal(pixel_values=pictures(0))
    (mine,) = tmp_path.glob("*.json")
    (tmp_path / "other.json").write_text(mine.read_text())
    assert metrics.sums("selection")["spare"][1] == 6
    assert {name: count for name, (_, count) in metrics.sums("encoder").items()} == {
        "spare": 4, "none": 2,
    }  # fmt: skip
    assert metrics.sums("selection")["spare"][0] > 0


# Videos.


def film(frames, words=(), seed=0, size=24):
    """A video of frames [F, N, D], with words before each of them, and its runs."""
    runs = [run for _ in range(frames) for run in (*words, Run(PICTURE, size, True))]
    return torch.stack(pictures(*range(seed, seed + frames), total=size)), runs


def shown(model, pixels, one):
    data = {"pixel_values_videos": pixels[None], "sparevlm": [one.to_tensor()]}
    (found,) = model.embed_multimodal(**data)
    return found


def jointly(one, frames):
    return one.settings.method.reduce(VisualTokens(frames.flatten(0, 1))).indices


def test_64_frames_are_encoded_a_few_at_a_time():
    model, (frames, runs) = Line(vllm_config=config(asked=False, room=100)), film(64)
    found = shown(model, frames, item(5, runs=runs, kind="video"))
    assert model.runs == [[4]] * 16  # of 24 tokens each
    one = item(5)
    assert torch.equal(found, torch.cat([rows[kept(one, rows)] for rows in frames]))


def test_one_budget_for_all_frames_and_words_between_them():
    word = Run(7, 2, False)
    model, (frames, runs) = Line(vllm_config=config(room=50)), film(6, [word])
    one = item(9, runs=runs, kind="video", per="prompt")
    found = shown(model, frames, one)
    assert model.runs == [[2]] * 3
    indices = jointly(one, frames)
    shares = [int(((indices // 24) == i).sum()) for i in range(6)]
    assert sum(shares) == 9 and len(set(shares)) > 1
    words = model.words(torch.tensor([7, 7])).detach()
    left, expected = indices, []
    for i, share in enumerate(shares):
        expected += [words, frames[i][left[:share] - 24 * i]]
        left = left[share:]
    assert torch.equal(found[:, :WIDTH], torch.cat(expected))
    # Their places, words too.
    place = Place(1, len(one.shortened()))
    data = {"sparevlm": SimpleNamespace(data=one.to_tensor())}
    tokens = [1, *one.shortened(), 2]
    positions, delta = model.get_mrope_input_positions(tokens, [Feature(place, data, "video")])
    mask = torch.tensor([False, *[True] * place.length, False])
    model.config.get_text_config = lambda: SimpleNamespace(max_position_embeddings=999)
    model.embed_input_ids(torch.tensor(tokens), [found], is_multimodal=mask)
    model.forward(torch.tensor(tokens), positions)
    wanted = sorted([*(1 + 26 * i + j for i in range(6) for j in (0, 1)),
                     *(1 + 26 * (i // 24) + 2 + i % 24 for i in indices.tolist())])  # fmt: skip
    assert model.given.tolist() == [0, *wanted, 157] and delta == 158 - len(tokens)


def test_a_video_ends_with_a_separator_and_its_parts_do_too():
    """LLaVA-OneVision puts it behind whatever it is given as a video."""
    model = Line(vllm_config=config(asked=False, room=50, kind="llava_onevision"))
    model.image_newline = torch.full((WIDTH,), 7.0)
    frames, runs = film(5)
    runs[-1] = runs[-1]._replace(length=25)
    found = shown(model, frames, item(4, runs=runs, kind="video"))
    assert model.runs == [[2], [2], [1]]
    one = item(4)
    assert torch.equal(found, torch.cat([rows[kept(one, rows)] for rows in frames]))


def test_a_video_that_is_not_what_was_promised():
    model, (frames, _) = Line(vllm_config=config()), film(4, size=20)
    _, runs = film(4)
    with pytest.raises(RuntimeError, match="of 40 tokens where the prompt has room for 20 of 48"):
        shown(model, frames, item(5, runs=runs, kind="video"))


def test_videos_of_several_items_and_what_is_kept_of_each():
    model = Line(vllm_config=config(asked=False, room=100))
    films = [film(3), film(2, seed=9)]
    items = [item(5, runs=films[0][1], kind="video"),
             item(6, runs=films[1][1], kind="video", per="prompt")]  # fmt: skip
    found = model.embed_multimodal(
        pixel_values_videos=[frames for frames, _ in films], sparevlm=[i.to_tensor() for i in items]
    )
    assert model.runs == [[3, 1], [1]]
    one = item(5)
    assert torch.equal(found[0], torch.cat([rows[kept(one, rows)] for rows in films[0][0]]))
    frames = films[1][0]
    assert torch.equal(found[1], frames.flatten(0, 1)[jointly(items[1], frames)])


GIVEN = {
    "pixel_values_videos": torch.arange(48).view(24, 2),
    "video_grid_thw": torch.tensor([[3, 2, 2], [3, 2, 2]]),
    "second_per_grid_ts": torch.tensor([1.0, 2.0]),
}


def test_arguments_of_steps_in_time():
    one = one_of(GIVEN, 1)
    assert one["pixel_values_videos"].flatten().tolist() == [*range(24, 48)]
    part = cut(one, 1, 3, 3)
    assert part["pixel_values_videos"].flatten().tolist() == [*range(32, 48)]
    assert part["video_grid_thw"].tolist() == [[2, 2, 2]] and "second_per_grid_ts" not in part
    assert GIVEN["video_grid_thw"].tolist() == [[3, 2, 2], [3, 2, 2]]
    both = joined([cut(one_of(GIVEN, 0), 2, 3, 3), part])
    assert both["video_grid_thw"].tolist() == [[1, 2, 2], [2, 2, 2]]
    assert both["pixel_values_videos"].flatten().tolist() == [*range(16, 24), *range(32, 48)]
