"""Real images, their split into forget and retain sets, and batches that depend on counters alone."""

from dualoptim_diffusion.data.batches import Batch, Batches
from dualoptim_diffusion.data.datasets import DataFacts, data_facts, load_dataset, load_image_folder
from dualoptim_diffusion.data.image_set import ImageSet, split
from dualoptim_diffusion.data.none_images import images_of_nothing

__all__ = [
    "Batch",
    "Batches",
    "DataFacts",
    "ImageSet",
    "data_facts",
    "images_of_nothing",
    "load_dataset",
    "load_image_folder",
    "split",
]
