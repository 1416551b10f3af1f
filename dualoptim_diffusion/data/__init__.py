"""Real images, their split into forget and retain sets, and batches that depend on counters alone."""

from dualoptim_diffusion.data.background import images_of_nothing
from dualoptim_diffusion.data.batches import Batch, Batches
from dualoptim_diffusion.data.datasets import ImageSet, load_dataset, split
from dualoptim_diffusion.data.folder import load_image_folder

__all__ = ["Batch", "Batches", "ImageSet", "images_of_nothing", "load_dataset", "load_image_folder", "split"]
