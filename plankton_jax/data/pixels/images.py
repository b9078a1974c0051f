"""One image: encoded bytes to pixels, and pixels to the configured size."""

import numpy as np
from PIL import Image

from plankton_jax.data.pixels import pictures

# Raise when the pixels that any image becomes change: records and caches of
# another version are left aside, not reused.
VERSION = 1

EXTENSIONS = frozenset({'.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp'})

normalise = pictures.normalise


def decode(data: bytes) -> np.ndarray:
  """Pixels of an encoded image, uint8 [H, W] if grey, else [H, W, 3].

  `pictures.decode` says what becomes of depth, transparency and palettes.

  Raises:
    ValueError: with the reason, if the bytes are no such image.
  """
  return np.asarray(pictures.decode(data).image)


def encode(pixels: np.ndarray) -> bytes:
  """PNG bytes of uint8 [H, W] or [H, W, 3]."""
  return pictures.encode(Image.fromarray(pixels))


def digest(pixels: np.ndarray) -> int:
  """64-bit hash of shape and pixels, equal for identical images."""
  return pictures.digest(_picture(pixels))


def fit(
  pixels: np.ndarray, *, size: int, resize: str, channels: int
) -> np.ndarray:
  """Pixels as `pictures.fit` fits them, uint8 [size, size, channels]."""
  fitted = pictures.fit(
    _picture(pixels), size=size, resize=resize, channels=channels
  )
  return np.asarray(fitted).reshape(size, size, channels)


def _picture(pixels: np.ndarray) -> pictures.Picture:
  return pictures.Picture.of(Image.fromarray(pixels))
