"""The sections of a run's YAML config that say which images: their keys, values and defaults.

The keys below a line `additions` are not in the official layout.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_serializer,
    model_validator,
)

from score_embedding import kinds
from score_embedding.config.values import (
    Count,
    Int,
    Names,
    NoiseLevel,
    Strings,
    height_width,
    number,
    one_of,
)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DataLoader(Section):
    """Which images, and how many of the embedded ones make a batch."""

    dataset: Annotated[str, one_of(kinds.DATASETS)]
    # None: all of a folder, a list of files, or a labelled data set of which `classes` are given;
    # else one
    num_images: Count | None = None
    image_size: Annotated[tuple[Count, Count], BeforeValidator(height_width)] = (32, 32)
    seed: Annotated[Int, Field(ge=0, lt=2**32)] = 0  # which images; training.seed is the run's
    channels: Annotated[Literal[1, 3], BeforeValidator(number)] = 3
    batch_size: Count = 20
    rotate_augment: bool = False
    # additions
    path: Strings | None = None  # the data set's file or folder; for `files`, the list of files
    image: Strings | None = None  # for `sample`: names of pictures that installed packages bring
    classes: Names | None = None  # of a labelled data set; `all` for all of them
    # stretched: each image from 0 to 1, as published. own: 0 is black and 1 white in all images.
    contrast: Literal["stretched", "own"] = "stretched"
    # Crops of image_size at random places of the photographs, flipped at random, instead of whole
    # photographs resized; num_images of them (default 16) where a method needs a fixed number.
    crops: bool = False
    shrink: Count = 1  # crops: the factor by which photographs are first made smaller

    @field_serializer("image_size")
    def _square_as_one_number(self, size: tuple[int, int]) -> int | list[int]:
        return size[0] if size[0] == size[1] else list(size)

    @model_validator(mode="after")
    def _source_given(self) -> DataLoader:
        needed = kinds.DATASETS[self.dataset].needs
        if needed and getattr(self, needed) is None:
            example = ", astronaut for one" if needed == "image" else ""
            raise ValueError(f"{needed} is needed for dataset {self.dataset}{example}")
        if self.crops and not self.of_files:
            *others, last = (name for name, kind in kinds.DATASETS.items() if kind.of_files)
            of = f"{', '.join(others)} and {last}"
            raise ValueError(f"crops are of datasets {of}, not {self.dataset}")
        if self.classes and not kinds.DATASETS[self.dataset].labelled:
            of = ", ".join(name for name, kind in kinds.DATASETS.items() if kind.labelled)
            raise ValueError(f"classes are of data sets with labels ({of}), not {self.dataset}")
        if self.shrink > 1 and not self.crops:
            raise ValueError("shrink is of photographs that crops are taken of; set crops: True")
        return self

    @property
    def takes_all(self) -> bool:
        """Whether all images of the data set are taken where num_images is not given."""
        kind = kinds.DATASETS[self.dataset]
        return kind.of_files or (kind.labelled and not (kind.published and self.classes is None))

    @property
    def of_files(self) -> bool:
        """Whether each image is a picture file of its own."""
        return kinds.DATASETS[self.dataset].of_files


class HeldOut(Section):
    """Images that training never sees: the run then measures how well it denoises them. They are
    photographs (image, path), or of the data set that is trained on (dataset_part, share)."""

    image: Strings | None = None  # names of pictures that installed packages bring
    path: Strings | None = None  # files or folders
    shrink: Count = 1  # photographs: the factor by which they are first made smaller
    # And cut to this middle square; SSIM needs three pixels.
    crop: Annotated[Count, Field(ge=3)] | None = None
    dataset_part: Literal["test"] | None = None  # the data set's own test part
    # The share of the images of data_loader that is not trained on.
    share: Annotated[float, BeforeValidator(number), Field(gt=0, lt=1)] | None = None
    num_images: Count = 1024  # of the data set: the most that are measured
    seed: Annotated[Int, Field(ge=0, lt=2**32)] = 0  # of the data set: which images
    # Standard deviations of the noise, white being 1.
    levels: Annotated[tuple[NoiseLevel, ...], Field(min_length=1)] = (0.05, 0.125, 0.25, 0.5)

    @model_validator(mode="after")
    def _source_given(self) -> HeldOut:
        of_dataset = [name for name in ("dataset_part", "share") if getattr(self, name) is not None]
        photographs = self.image is not None or self.path is not None
        if not photographs and not of_dataset:
            raise ValueError(
                "image or path is needed: pictures that are not trained on; or, of a data set, "
                "dataset_part: test, or share"
            )
        if len(of_dataset) + photographs > 1:
            given = [name for name in ("image", "path") if getattr(self, name) is not None]
            raise ValueError(f"{' and '.join(given + of_dataset)}: only one source can be held out")
        if of_dataset and (self.shrink > 1 or self.crop is not None):
            raise ValueError(f"shrink and crop are of photographs, not of {of_dataset[0]}")
        if len({f"{level:g}" for level in self.levels}) < len(self.levels):
            raise ValueError(f"levels: {list(self.levels)}: none twice, to six digits")
        return self

    @property
    def of_dataset(self) -> bool:
        """Whether images of the data set are held out, not photographs."""
        return self.dataset_part is not None or self.share is not None
