"""CLIP: an image tower and a text tower."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from modelzone.schema import Settings

__all__ = ["Clip", "ClipTower"]

Count = Annotated[int, Meta(ge=1)]


class ClipTower(Settings, frozen=True, omit_defaults=True):
    """One tower; what is left out is as in OpenAI's CLIP.

    Parameters
    ----------
    gated_feed_forward
        Three matrices (gate, up, down) in place of two.
    inner_norms
        Norms of the attention's output and of the feed-forward's inner values, on top of the two of a layer.
    key_bias
        Keys have a bias as queries and values do.
    """

    layers: Count
    width: Count
    heads: Count
    intermediate_size: Count
    gated_feed_forward: bool = False
    inner_norms: bool = False
    key_bias: bool = True

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


class Clip(Settings, tag_field="kind", tag="clip", frozen=True, omit_defaults=True):
    """A pair of towers that map images and texts to the same space.

    ``image_pre_norm`` is a norm before the image tower's first layer; ``image_biases`` are those of its patch and
    output projections.
    """

    type: str
    image: ClipTower
    text: ClipTower
    image_size: Count
    patch_size: Count
    vocabulary_size: Count
    context_length: Count
    embedding_size: Count
    image_channels: Count = 3
    image_pre_norm: bool = True
    image_biases: bool = False

    def __post_init__(self) -> None:
        if self.patch_size > self.image_size:
            raise ValueError(f"patch_size {self.patch_size} is more than image_size {self.image_size}")

    @property
    def image_positions(self) -> int:
        """Patches of an image and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1
