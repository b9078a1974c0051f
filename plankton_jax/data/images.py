"""One image: encoded bytes to pixels, and pixels to the configured size."""

import hashlib
import io

import numpy as np
from PIL import Image, UnidentifiedImageError

# Raise when the pixels that any image becomes change: records and caches of
# another version are left aside, not reused.
VERSION = 1

EXTENSIONS = frozenset({'.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp'})
FORMATS = ('PNG', 'JPEG', 'TIFF', 'BMP')
MAX_PIXELS = 2**26


def decode(data: bytes) -> np.ndarray:
  """Pixels of an encoded image, uint8 [H, W] if grey, else [H, W, 3].

  16-bit grey is scaled by its full range (65535 -> 255), transparency is
  composited on white, palettes are looked up, and colour whose three channels
  are equal is grey. Of several frames the first counts.

  Raises:
    ValueError: with the reason, if the bytes are no such image.
  """
  try:
    with _open(data) as image:
      return _pixels(image)
  except Exception as error:
    # Broken files leave PIL by at least a dozen exception types.
    raise ValueError(_reason(error)) from error


def normalise(data: bytes) -> bytes:
  """The bytes as they are if 8-bit grey or RGB PNG/JPEG, else as 8-bit PNG.

  Raises:
    ValueError: with the reason, if no image is recognised. Damage further
      into a PNG or JPEG shows in `decode` alone.
  """
  try:
    with _open(data) as image:
      if _is_plain(image):
        return data
      pixels = _pixels(image)
  except Exception as error:
    raise ValueError(_reason(error)) from error
  return encode(pixels)


def encode(pixels: np.ndarray) -> bytes:
  """PNG bytes of uint8 [H, W] or [H, W, 3]."""
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, 'PNG', compress_level=1)
  return stream.getvalue()


def digest(pixels: np.ndarray) -> int:
  """64-bit hash of shape and pixels, equal for identical images."""
  state = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=8)
  state.update(np.ascontiguousarray(pixels))
  return int.from_bytes(state.digest(), 'little')


def fit(
  pixels: np.ndarray, *, size: int, resize: str, channels: int
) -> np.ndarray:
  """Pixels at the configured size, uint8 [size, size, channels].

  `resize='pad'` keeps the aspect ratio and pads to a square with the median
  of the image's border pixels; 'stretch' does neither. Antialiased (Lanczos).
  """
  image = Image.fromarray(pixels)
  mode = {1: 'L', 3: 'RGB'}[channels]
  if image.mode != mode:
    image = image.convert(mode)
  if resize == 'stretch':
    return _scaled(image, size, size)
  longest = max(image.size)
  width, height = (max(1, round(s * size / longest)) for s in image.size)
  fitted = np.empty((size, size, channels), np.uint8)
  fitted[:] = _background(np.asarray(image))
  top, left = (size - height) // 2, (size - width) // 2
  fitted[top : top + height, left : left + width] = _scaled(
    image, width, height
  )
  return fitted


def _open(data: bytes) -> Image.Image:
  if not data:
    raise ValueError('empty file')
  # Only these formats: others that PIL knows may start other programs.
  image = Image.open(io.BytesIO(data), formats=FORMATS)
  width, height = image.size
  if width * height > MAX_PIXELS:
    raise Image.DecompressionBombError(f'{width} x {height} px')
  return image


def _is_plain(image: Image.Image) -> bool:
  if image.format == 'PNG':  # 'L;4' is 4-bit, 'RGB;16B' 16-bit.
    plain = image.tile[0].args == image.mode
  else:
    plain = image.format == 'JPEG'
  opaque = not image.has_transparency_data
  return plain and opaque and image.mode in ('L', 'RGB')


def _pixels(image: Image.Image) -> np.ndarray:
  image.load()
  if image.mode.startswith('I;16'):
    pixels = np.asarray(image).astype(np.uint32)
    return ((pixels + 128) // 257).astype(np.uint8)
  if image.mode in ('I', 'F'):
    raise ValueError('32-bit pixels have no known range: save as 16-bit')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  if image.mode not in ('L', 'RGB'):
    image = image.convert('L' if image.mode == '1' else 'RGB')
  pixels = np.asarray(image)
  if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
    return np.ascontiguousarray(pixels[..., 0])
  return pixels


def _scaled(image: Image.Image, width: int, height: int) -> np.ndarray:
  """Resized pixels, uint8 [height, width, C]."""
  if image.size != (width, height):
    # Shrinking far is done first in whole steps, then antialiased.
    image = image.resize(
      (width, height), Image.Resampling.LANCZOS, reducing_gap=3.0
    )
  return np.asarray(image).reshape(height, width, -1)


def _background(pixels: np.ndarray) -> np.ndarray:
  """Median of the border pixels, each channel on its own; uint8 [C]."""
  height, width = pixels.shape[:2]
  border = np.ones((height, width), bool)
  border[1:-1, 1:-1] = False
  border = pixels.reshape(height, width, -1)[border]
  return np.sort(border, axis=0)[len(border) // 2]


def _reason(error: Exception) -> str:
  if isinstance(error, UnidentifiedImageError):
    return 'not a PNG, JPEG, TIFF or BMP image'
  if isinstance(
    error, Image.DecompressionBombError | Image.DecompressionBombWarning
  ):
    return f'more than {MAX_PIXELS / 1e6:.0f} million pixels'
  return ' '.join(str(error).split()) or type(error).__name__
