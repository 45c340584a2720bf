import math
from collections import OrderedDict

import pytest
import torch
from torch.nn import functional

from fungi_hf.encoders.audio.patches import patch_grid, positions_for, resize_positions, restride
from fungi_hf.encoders.audio.ssast import convert, load
from fungi_hf.errors import CheckpointError, ConfigError, EncoderError, StorageError

SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}


def synthetic(width: int, depth: int = 2, frames: int = 128, patch=(16, 16)) -> OrderedDict:
    """An official checkpoint by its published names and shapes, random weights."""
    generator = torch.Generator().manual_seed(width + depth)

    def draw(*shape, scale=0.05):
        return torch.randn(*shape, generator=generator) * scale

    tokens = 2 + (128 // patch[0]) * (frames // patch[1])
    state = OrderedDict(
        {
            "p_input_fdim": torch.tensor(128),
            "p_input_tdim": torch.tensor(frames),
            "mask_embed": draw(1, 1, width),
            "v.cls_token": draw(1, 1, width),
            "v.dist_token": draw(1, 1, width),
            "v.pos_embed": draw(1, tokens, width, scale=0.5),
            "v.patch_embed.proj.weight": draw(width, 1, *patch),
            "v.patch_embed.proj.bias": draw(width),
            "v.norm.weight": 1 + draw(width),
            "v.norm.bias": draw(width),
            "v.head.weight": draw(1000, width),
            "v.head.bias": draw(1000),
            "v.head_dist.weight": draw(1000, width),
            "v.head_dist.bias": draw(1000),
        }
    )
    for layer in ("cpredlayer", "gpredlayer"):
        for index, shape in ((0, (width, width)), (2, (256, width))):
            state[f"{layer}.{index}.weight"], state[f"{layer}.{index}.bias"] = (
                draw(*shape),
                draw(shape[0]),
            )
    for block in range(depth):
        for name, shape in {
            "norm1": (width,),
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "norm2": (width,),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }.items():
            weight = 1 + draw(*shape) if "norm" in name else draw(*shape)
            state[f"v.blocks.{block}.{name}.weight"] = weight
            state[f"v.blocks.{block}.{name}.bias"] = draw(shape[0])
    return OrderedDict((f"module.{name}", value) for name, value in state.items())


def official_forward(state, spectrogram, heads, stride=16):
    """The official architecture from its description, in plain tensor operations.

    A distilled DeiT: conv patches of [mel, time], two class tokens, pre-norm blocks with fused
    q, k, v and exact GELU, eps 1e-6; positions cut or stretched for another grid.
    """
    w = {name.removeprefix("module."): value for name, value in state.items()}
    x = spectrogram.transpose(1, 2)[:, None]  # [B, 1, mels, frames]
    x = functional.conv2d(x, w["v.patch_embed.proj.weight"], w["v.patch_embed.proj.bias"], stride)
    n_f, n_t = x.shape[2:]
    x = x.flatten(2).transpose(1, 2)
    width = x.shape[2]
    p_f, p_t = 8, int(w["p_input_tdim"]) // 16
    grid = w["v.pos_embed"].float()[:, 2:].reshape(1, p_f, p_t, width).permute(0, 3, 1, 2)
    if n_t < p_t:
        first = int(p_t / 2) - int(n_t / 2)
        grid = grid[:, :, :, first : first + n_t]
    else:
        grid = functional.interpolate(grid, size=(8, n_t), mode="bilinear")
    grid = functional.interpolate(grid, size=(n_f, n_t), mode="bilinear")
    # Positions are stretched in float32, in which they are stored, whatever the rest is in.
    grid = grid.permute(0, 2, 3, 1).reshape(1, n_f * n_t, width).to(x)
    positions = torch.cat([w["v.pos_embed"][:, :2], grid], 1)
    special = torch.cat([w["v.cls_token"], w["v.dist_token"]], 1).expand(len(x), -1, -1)
    x = torch.cat([special, x], 1) + positions
    depth = len({name for name in w if name.endswith("norm1.weight")})
    for block in range(depth):

        def weights(name, block=block):
            return w[f"v.blocks.{block}.{name}.weight"], w[f"v.blocks.{block}.{name}.bias"]

        y = functional.layer_norm(x, (width,), *weights("norm1"), eps=1e-6)
        y = functional.linear(y, *weights("attn.qkv"))
        q, k, v = y.unflatten(2, (3, heads, width // heads)).permute(2, 0, 3, 1, 4)
        attention = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width // heads), -1)
        y = (attention @ v).transpose(1, 2).flatten(2)
        x = x + functional.linear(y, *weights("attn.proj"))
        y = functional.layer_norm(x, (width,), *weights("norm2"), eps=1e-6)
        y = functional.linear(y, *weights("mlp.fc1"))
        y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
        x = x + functional.linear(y, *weights("mlp.fc2"))
    return functional.layer_norm(x, (width,), w["v.norm.weight"], w["v.norm.bias"], eps=1e-6)


@pytest.fixture
def checkpoint(tmp_path):
    def save(state, name="SSAST-Patch.pth"):
        torch.save(state, tmp_path / name)
        return tmp_path / name

    return save


def exact(state):
    """The same weights in float64, in which two orders of the same sums differ by 1e-13."""
    return {name: value.double() for name, value in state.items()}


def spectrogram(frames, batch=2):
    return torch.randn(batch, frames, 128, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("size", SIZES)
def test_converted_model_equals_the_official_forward(size, checkpoint, tmp_path):
    from transformers import AutoFeatureExtractor, AutoModel

    width, heads = SIZES[size]
    state = synthetic(width)
    folder = convert(checkpoint(state), tmp_path / "out")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(model).__name__ == "ASTModel"
    x = spectrogram(128).double()
    with torch.no_grad():
        ours = model.double()(x)
    theirs = official_forward(exact(state), x, heads)
    assert (ours.last_hidden_state - theirs).abs().max() <= 1e-10
    assert (ours.pooler_output - theirs[:, :2].mean(1)).abs().max() <= 1e-10
    assert model.config.num_attention_heads == heads
    with pytest.warns(UserWarning, match="all zero"):
        extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert (extractor.max_length, extractor.num_mel_bins) == (128, 128)
    assert (extractor.mean, extractor.std) == (-4.2677393, 4.5689974)
    card = (folder / "README.md").read_text("utf-8")
    assert f"SSAST {size}" in card
    assert "SSAST-Patch.pth" in card


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_full_depth_equals_the_official_forward(size, checkpoint, tmp_path):
    width, heads = SIZES[size]
    state = synthetic(width, depth=12, frames=1024)
    model = load(checkpoint(state))
    x = spectrogram(1024, batch=1).double()
    with torch.no_grad():
        ours = model.double()(x).last_hidden_state
    assert (ours - official_forward(exact(state), x, heads)).abs().max() <= 1e-10


@pytest.mark.parametrize(
    ("stride", "frames", "grid"),
    [
        (16, 64, (8, 4)),
        (16, 256, (8, 16)),
        (10, 128, (12, 12)),
        (10, 64, (12, 5)),
        (10, 80, (12, 7)),
    ],
)
def test_other_lengths_and_strides_equal_the_official_forward(
    stride, frames, grid, checkpoint, tmp_path
):
    from transformers import ASTModel

    state = synthetic(192)
    folder = convert(
        checkpoint(state), tmp_path / "out", stride=stride, frames=frames, stats="esc50"
    )
    model = ASTModel.from_pretrained(folder, dtype=torch.float32).eval()
    assert model.config.max_length == frames
    assert patch_grid(128, frames, (stride, stride)) == grid
    x = spectrogram(frames).double()
    with torch.no_grad():
        ours = model.double()(x).last_hidden_state
    assert ours.shape[1] == 2 + grid[0] * grid[1]
    assert (ours - official_forward(exact(state), x, 3, stride)).abs().max() <= 1e-10
    assert '"mean": -6.6268077' in (folder / "preprocessor_config.json").read_text("utf-8")


def test_published_token_counts_and_crops():
    assert patch_grid(128, 1024, (16, 16)) == (8, 64)
    assert patch_grid(128, 512, (10, 10)) == (12, 50)  # 602 tokens
    assert patch_grid(128, 128, (10, 10)) == (12, 12)  # 146 tokens
    table = torch.arange(2 + 8 * 64).float()[None, :, None]
    for wanted, first in ((50, 7), (12, 26)):
        cut = resize_positions(table, (8, 64), (8, wanted))[0, 2:, 0].reshape(8, wanted)
        assert cut[0, 0] == 2 + first
        assert cut[3, -1] == 2 + 3 * 64 + first + wanted - 1
    assert resize_positions(table, (8, 64), (8, 64)) is table
    with pytest.raises(EncoderError, match=r"514 rows is not 2 \+ 8 x 63"):
        resize_positions(table, (8, 63), (8, 64))


def test_restriding_leaves_the_model_alone(checkpoint):
    model = load(checkpoint(synthetic(192)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert positions_for(model, 128) is model.embeddings.position_embeddings
    assert positions_for(model, 64).shape == (1, 2 + 8 * 4, 192)
    other = restride(model, stride=10, frames=64)
    assert other.embeddings.position_embeddings.shape == (1, 2 + 12 * 5, 192)
    assert model.config.time_stride == 16
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(EncoderError, match="stride must be an integer from 1 to 16; got 17"):
        restride(model, stride=17, frames=64)
    with pytest.raises(EncoderError, match="15 frames hold no patch of 16 x 16"):
        restride(model, stride=10, frames=15)


def test_fine_tuned_and_unwrapped_names_are_taken(checkpoint):
    state = synthetic(192)
    state["module.mlp_head.0.weight"] = torch.ones(192)
    bare = {name.removeprefix("module."): value for name, value in state.items()}
    models = [load(checkpoint(s, f"{i}.pth")) for i, s in enumerate((state, bare))]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


def without(state, name):
    return OrderedDict((key, value) for key, value in state.items() if key != name)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (synthetic(192, patch=(128, 2)), r"frame-based.*128 mel bins x 2 frames"),
        (synthetic(256), r"width is 256; SSAST has 192 \(tiny\), 384 \(small\), 768 \(base\)"),
        (without(synthetic(192), "module.v.dist_token"), r"one class token, not two"),
        (without(synthetic(192), "module.v.norm.bias"), r"layernorm\.bias missing, not \(192,\)"),
        (without(synthetic(192), "module.v.pos_embed"), r"no 'v\.pos_embed'.*it holds"),
        (without(synthetic(192), "module.v.blocks.1.norm1.weight"), r"2 blocks are not numbered"),
        (synthetic(192) | {"module.v.extra": torch.ones(2)}, r"v\.extra unknown"),
        (synthetic(192) | {"module.v.pos_embed": torch.zeros(1, 9, 192)}, r"9 rows.*need 66"),
        ({"weight": torch.ones(2)}, r"not an SSAST checkpoint; it holds weight"),
        ({}, r"it holds nothing"),
        ([torch.ones(2)], r"holds a list that is not a state dict"),
        ({"epoch": 3}, r"not a state dict of tensors"),
    ],
    ids=lambda value: value[:25] if isinstance(value, str) else "",
)
def test_other_checkpoints_are_refused_with_the_reason(state, words, checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        convert(checkpoint(state), tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Payload:
    def __reduce__(self):
        return (print, ("code was run",))


def test_code_in_a_checkpoint_is_not_run(checkpoint, tmp_path, capsys):
    with pytest.raises(CheckpointError, match="more than tensors and is not loaded"):
        load(checkpoint({"module.v": Payload()}))
    assert "code was run" not in capsys.readouterr().out


def test_unreadable_paths_and_folders_in_use(checkpoint, tmp_path):
    with pytest.raises(StorageError, match=r"gone\.pth' cannot be read: No such file"):
        convert(tmp_path / "gone.pth", tmp_path / "out")
    noise = tmp_path / "noise.pth"
    noise.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"noise\.pth"):
        load(noise)
    noise.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a torch checkpoint"):
        load(noise)
    path = checkpoint(synthetic(192))
    with pytest.raises(StorageError, match="is in use; name a folder that is new or empty"):
        convert(path, tmp_path)
    with pytest.raises(ConfigError, match="frames must be an integer >= 16; got 15"):
        convert(path, tmp_path / "out", frames=15)
    with pytest.raises(ConfigError, match="the preset of log-mel statistics is 'esc'"):
        convert(path, tmp_path / "out", stats="esc")
