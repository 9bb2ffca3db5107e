"""What features are extracted from: images on disk, arrays, data sets and loaders."""

from .arrays import Pixels, read_pixels
from .compression import jpeg
from .corrupted import CifarCorruptions, CureTsrImages
from .folder import ImageFolder
from .idx import IdxImages
from .images import ImageError, Preprocess, decode, jpeg_quality
from .imageset import ImageSet
from .known import KNOWN_SETS, where_to_get
from .noise import NoiseImages
from .opening import ConversionWarning, open_images
from .parquet import ImageParquet
from .pixels import NpzImages, PixelImages
from .vision import TorchvisionImages

__all__ = [
    "KNOWN_SETS",
    "CifarCorruptions",
    "ConversionWarning",
    "CureTsrImages",
    "IdxImages",
    "ImageError",
    "ImageFolder",
    "ImageParquet",
    "ImageSet",
    "NoiseImages",
    "NpzImages",
    "PixelImages",
    "Pixels",
    "Preprocess",
    "TorchvisionImages",
    "decode",
    "jpeg",
    "jpeg_quality",
    "open_images",
    "read_pixels",
    "where_to_get",
]
