"""Image encoders: any picture in, one embedding out, for ViT and its kin.

Invariant: a picture is decoded once; its views are stored as boxes and cut when a batch is put
together, on the model's device.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from fungi_hf.checks import check_choice
from fungi_hf.devices import sent
from fungi_hf.encoders.base import Prepared
from fungi_hf.encoders.blocks import BlockEncoder, masked_mean
from fungi_hf.encoders.late.boxes import late_boxes
from fungi_hf.encoders.late.sound import run_blocks
from fungi_hf.encoders.masking import MaskedTokens
from fungi_hf.encoders.regions import patch_regions
from fungi_hf.encoders.vision.families import family_of, patch_size, steady, trained_size
from fungi_hf.encoders.vision.last_block import class_token_block
from fungi_hf.encoders.vision.pictures import decode, describe
from fungi_hf.encoders.vision.pixels import PixelSettings
from fungi_hf.errors import ConfigError, EncoderError, ImageError, InputTypeError
from fungi_hf.gradients.layers import resolve_layer
from fungi_hf.gradients.tape import untouched
from fungi_hf.views.image import STATISTICS, ImageView, image_views
from fungi_hf.views.image_ops import cut_boxes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Batch, LateBatch, PreparedViews
    from fungi_hf.encoders.regions import Regions
    from fungi_hf.encoders.vision.pictures import Picture
    from fungi_hf.views.base import ViewGenerator
    from fungi_hf.views.image import BoxDraw


@dataclass(frozen=True, slots=True, eq=False)
class ImageInput:
    """What a batch is made of: a picture, the box of it that is cut, patches that become 0."""

    picture: Picture
    draw: BoxDraw | None = None
    masked: tuple[int, ...] = ()


class VisionEncoder(BlockEncoder):
    """An image model, the settings of its processor, and its pooling.

    Attributes:
        grid: Rows and columns of patches.
        prefix: Tokens before the patches: class tokens, registers.
    """

    modality = "vision"
    chunk_size = 16  # twelve-megapixel pictures are 36 MB each
    NOTES: ClassVar[Mapping[str, str]] = {
        "animated": "{n} of the pictures have several frames; the first (of an object, the "
        "current) was taken",
        "transparent": "{n} of the pictures are transparent in places, which became white",
        "sixteen_bit": "{n} of the pictures have 16 bits a channel; the upper 8 were taken",
        "tiny": "{n} of the pictures have a side of fewer than 8 pixels",
    }

    def __init__(self, model: nn.Module, processor: Any, config: FungiConfig) -> None:
        """Resolve layer, pooling and size, and see one blank image; the model is not changed.

        The processor is an image processor, of which the settings alone are used, its dictionary,
        or `PixelSettings`.

        Raises:
            EncoderError: If the model is of no known family or gives other tokens than its family.
            ConfigError: If the config does not fit the model.
        """
        self._family = family_of(model)
        self.model = model
        if config.max_length is not None:
            raise ConfigError("max_length is of texts and sounds; images have image_size")
        self.processor = PixelSettings.of(processor)
        sized = self.processor.sized(config.image_size)
        self._pixels = sized.whole() if config.dense else sized
        self.layer_path, self.layer = resolve_layer(model, config.target_layer)
        self.pooling = self._resolve_pooling(config.pooling)
        self.width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        if self.pooling == "projection":
            self.width = int(self._projection.out_features)
        reads = self.pooling if self.pooling in ("cls", "mean") else self._family.reads
        self._reads = "cls" if self.pooling == "projection" else reads
        self.reads_first_token = self._reads == "cls"
        if self.reads_first_token:
            self.shorten_last_block()
        self._arguments = self._resolve_size()
        self.max_length = max(self._pixels.output)
        self.prefix = self._family.prefix(model.config)
        self._check_tokens()

    def shorten_last_block(self) -> None:
        """Compute the last block for the class token only, where the family is known."""
        short = class_token_block(self.model, self.layer)
        if short is not None:
            self.short_block, self.uses_short_last_block = short, True

    def rebuilt(self, config: FungiConfig) -> VisionEncoder:
        """Give an encoder over the same model and settings that follows another config."""
        return type(self)(self.model, self.processor, config)

    @property
    def _projection(self) -> Any:
        return getattr(self.model, "visual_projection", None)

    @property
    def _tower(self) -> Any:
        """The model without a projection."""
        return getattr(self.model, "vision_model", self.model)

    def _resolve_pooling(self, asked: str) -> str:
        name, offered = type(self.model).__name__, list(self._family.poolings)
        projects = self._projection is not None
        built = getattr(self._tower, "pooler", self) is not None  # None: left out of the model
        there = {"projection": projects, "model": built and not projects}
        offered = [pooling for pooling in offered if there.get(pooling, True)]
        asked = "cls" if asked == "first" else asked
        if asked == "auto":
            return offered[0]
        return check_choice(f"pooling of {name}", asked, offered)

    def _resolve_size(self) -> dict[str, bool]:
        """Give what the model's call takes beside the pixels.

        Raises:
            ConfigError: If the size is no multiple of the patch, or the model's positions are of
                another size and cannot follow.
        """
        (height, width), (rows, columns) = self._pixels.output, patch_size(self._tower)
        name = type(self.model).__name__
        if height % rows or width % columns:
            near = max(rows, height // rows * rows)
            raise ConfigError(
                f"images of {height} x {width} pixels are not whole patches of {rows} x {columns}, "
                f"and {name} would drop the rest: set image_size={near} (a multiple of the patch)"
            )
        self.grid = height // rows, width // columns
        if self._family.resizing == "always" or (height, width) == trained_size(self._tower):
            return {}
        known = "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters
        if self._family.resizing == "never" or not known:
            size = " x ".join(map(str, trained_size(self._tower)))
            raise ConfigError(
                f"{name} takes images of {size} pixels only; got {height} x {width}: set "
                f"image_size={trained_size(self._tower)[0]}"
            )
        return {"interpolate_pos_encoding": True}

    def _check_tokens(self) -> None:
        height, width = self._pixels.output
        weight = next(self.model.parameters())
        with untouched(self.model), torch.no_grad():
            blank = torch.zeros(1, 3, height, width, dtype=weight.dtype, device=weight.device)
            with steady(self._tower):
                out = self.model(pixel_values=blank, **self._arguments)
        found, patches = out.last_hidden_state.shape[1], self.grid[0] * self.grid[1]
        if out.last_hidden_state.dim() != 3 or found - self.prefix != patches:
            raise EncoderError(
                f"{type(self.model).__name__} gave {found} tokens for a blank image; a "
                f"{self._tower.config.model_type} of {patches} patches gives {self.prefix} more "
                f"than these: pass a model of another family, or check its config"
            )
        self._n_tokens = int(found)

    def describe(self, raw: object) -> str:
        """Give a short name of a picture, whatever it is."""
        return describe(raw)

    def check(self, raw: object, index: int) -> Picture | ImageView:
        """Decode a picture, or say which one cannot be used and why.

        An unusable value is an ImageError, an unusable type an InputTypeError.
        """
        if isinstance(raw, ImageView):
            return raw
        try:
            return decode(raw)
        except (ImageError, InputTypeError) as error:
            raise type(error)(f"input {index} ({describe(raw)}): {error}") from None

    def content(self, raw: Picture | ImageView) -> bytes:
        """Give the digest of a picture or view."""
        return raw.content

    def prepare(self, raws: Sequence[Picture | ImageView]) -> list[Prepared]:
        """Name what is to be cut; pixels are touched by `collate` alone."""
        return [self._prepared(raw) for raw in raws]

    def _prepared(self, raw: Picture | ImageView) -> Prepared:
        if isinstance(raw, ImageView):
            return Prepared(ImageInput(raw.picture, raw.draw), self._n_tokens, raw.content)
        return Prepared(ImageInput(raw), self._n_tokens, raw.content, raw.notes)

    def collate(self, items: Sequence[Prepared]) -> Batch:
        """Cut, resize, normalise and stack on the model's device: `pixel_values` [N, 3, H, W]."""
        weight = next(self.model.parameters())
        pixels = torch.empty(
            len(items), 3, *self._pixels.output, dtype=weight.dtype, device=weight.device
        )
        places: dict[tuple[bytes, int], list[int]] = {}
        for place, item in enumerate(items):
            data: ImageInput = item.data
            if data.draw is None:
                image = self._pixels.original(data.picture.pixels())
                pixels[place] = self._pixels.normalise(sent(image[None], weight.device))[0]
            else:
                places.setdefault((data.picture.content, data.draw.frame), []).append(place)
        for (_, frame), of_picture in places.items():
            some: list[ImageInput] = [items[place].data for place in of_picture]
            draws = [one.draw for one in some if one.draw is not None]
            views = self._cut(some[0].picture, frame, draws, weight.device)
            for row, place in enumerate(of_picture):
                pixels[place] = views[row]
        for place, item in enumerate(items):
            self._mask(pixels[place], item.data.masked)
        return {"pixel_values": pixels}

    def _mask(self, pixels: Tensor, patches: tuple[int, ...]) -> None:
        height, width = (n // k for n, k in zip(pixels.shape[1:], self.grid, strict=True))
        for patch in patches:
            top, left = (patch // self.grid[1]) * height, (patch % self.grid[1]) * width
            pixels[:, top : top + height, left : left + width] = 0

    def _cut(
        self, picture: Picture, frame: int, draws: Sequence[BoxDraw], device: torch.device
    ) -> Tensor:
        """Give boxes of one picture as normalised pixels [V, 3, H, W]."""
        image = sent(torch.from_numpy(picture.pixels().copy()), device).permute(2, 0, 1)
        views = torch.empty(len(draws), 3, *self._pixels.output, device=device)
        kinds = {(draw.resample, draw.statistics) for draw in draws}
        for resample, statistics in kinds:
            chosen = [
                row
                for row, draw in enumerate(draws)
                if (draw.resample, draw.statistics) == (resample, statistics)
            ]
            source = image
            if frame:
                whole = (0, 0, *image.shape[1:])
                source = cut_boxes(image, [whole], frame, resample)[0]
            boxes = [(d.top, d.left, d.height, d.width) for d in map(draws.__getitem__, chosen)]
            cut = cut_boxes(source, boxes, self._pixels.output, resample)
            views[chosen] = self._settings(statistics).normalise(cut)
        return views

    def _settings(self, statistics: str) -> PixelSettings:
        if statistics == "processor":
            return self._pixels
        return self._pixels.with_statistics(*STATISTICS[statistics])

    def embed(self, batch: Batch) -> Tensor:
        """Give pooled embeddings [N, D] in the model's dtype."""
        with self.short_block():
            return self._pool(self._run(batch))

    def embed_tokens(self, batch: Batch) -> Tensor:
        """Give [N, 1 + T, D]: the embedding, and the normed states of all patches, row by row."""
        out = self._run(batch)
        tokens = self._normed(out.last_hidden_state)[:, self.prefix :]
        return torch.cat([self._pool(out)[:, None], tokens], dim=1)

    def masked_views(self, n_views: int, options: Mapping[str, Any]) -> PreparedViews:
        """Give pictures some of whose patches have the mean colour.

        Raises:
            ConfigError: If tokens have another width than the embedding.
        """
        if self.pooling == "projection":
            raise ConfigError(
                "an objective of tokens (ibot) needs embeddings as wide as tokens, which "
                "pooling='projection' does not give; set pooling='cls'"
            )

        def masked(item: Prepared, patches: list[int]) -> ImageInput:
            return replace(item.data, masked=tuple(patches))

        patches = range(self.grid[0] * self.grid[1])
        return MaskedTokens(n_views, options, share=0.3, maskable=lambda _: patches, masked=masked)

    @property
    def first_token(self) -> int:
        """Class tokens and registers come before."""
        return self.prefix

    def regions(self, raws: Sequence[Picture], items: Sequence[Prepared]) -> list[Regions]:
        """Give the patches.

        Raises:
            ConfigError: If they have another width than the embedding.
        """
        del raws
        if self.pooling == "projection":
            raise ConfigError(
                "dense features need embeddings as wide as patches, which pooling='projection' "
                "does not give; set pooling='cls'"
            )
        return [patch_regions(self.grid)] * len(items)

    def _run(self, batch: Batch) -> Any:
        with steady(self._tower):
            return self.model(pixel_values=batch["pixel_values"], **self._arguments)

    def _normed(self, states: Tensor) -> Tensor:
        norm = self._family.norm
        return getattr(self._tower, norm)(states) if norm else states

    def _pool(self, out: Any) -> Tensor:
        pooled: Tensor
        if self.pooling == "cls":
            pooled = self._normed(out.last_hidden_state[:, 0])
        elif self.pooling in ("model", "projection"):
            pooled = out.pooler_output if self.pooling == "model" else out.image_embeds
        else:
            pooled = self._normed(out.last_hidden_state)[:, self.prefix :].mean(1)
        return pooled

    def pool_activation(self, a: Tensor, batch: Batch) -> Tensor:
        """Give the layer's inputs [N, T, n] pooled over the tokens that the embedding reads.

        Raises:
            IndexError: If the layer was not given all tokens.
        """
        del batch
        if self._reads == "cls":
            return a[:, 0]
        if a.shape[1] != self._n_tokens:
            raise IndexError(f"{a.shape[1]} tokens; expected {self._n_tokens}")
        return (a[:, : self.prefix] if self._reads == "prefix" else a[:, self.prefix :]).mean(1)

    def views(self, name: str, n_views: int, options: Mapping[str, Any]) -> ViewGenerator:
        """Build views of one of the image families, or registered ones."""
        return image_views(name, n_views, options)

    def late_views(
        self, name: str, n_views: int, options: Mapping[str, Any], blocks: int
    ) -> PreparedViews:
        """Give views that lose patches in the last blocks: "box" or "token_drop".

        Raises:
            ConfigError: If the views drop no tokens, or the model does not allow them.
        """
        if not self._family.late or self.pooling not in ("cls", "mean"):
            raise ConfigError(
                f"late_views run the last blocks on a part of the patches, which "
                f"{type(self.model).__name__} with pooling {self.pooling!r} does not allow; set "
                "late_views=None"
            )
        self.blocks.check(blocks)
        for block in self.blocks.last(blocks):
            if len(inspect.signature(block.forward).parameters) < 2:
                raise ConfigError(
                    f"{type(block).__name__} of this version of transformers takes no mask, which "
                    "late_views need: install a newer one, or set late_views=None"
                )
        return late_boxes(name, n_views, options, blocks, grid=self.grid, prefix=self.prefix)

    def embed_late(self, batch: LateBatch) -> Tensor:
        """Run the last blocks on the tokens that stay, and pool: [N, D] in the model's dtype."""
        hidden, places, mask = batch.gathered()
        with self.short_block():
            last = self.blocks.last(batch.blocks)
            states = run_blocks(last, hidden, mask, whole=batch.is_even)
        states = getattr(self._tower, self._family.final)(states)
        if self.pooling == "cls":
            return states[:, 0]
        return masked_mean(states, mask & (places >= self.prefix))
