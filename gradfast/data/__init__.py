"""What features are extracted from: images on disk, arrays, data sets and loaders."""

from .arrays import Pixels, read_pixels
from .folder import ImageFolder
from .images import ImageError, Preprocess, decode, jpeg_quality
from .imageset import ImageSet
from .opening import open_images
from .parquet import ImageParquet
from .pixels import NpzImages, PixelImages
from .vision import TorchvisionImages

__all__ = [
    "ImageError",
    "ImageFolder",
    "ImageParquet",
    "ImageSet",
    "NpzImages",
    "PixelImages",
    "Pixels",
    "Preprocess",
    "TorchvisionImages",
    "decode",
    "jpeg_quality",
    "open_images",
    "read_pixels",
]
