"""One image: encoded bytes to pixels, and pixels to the configured size."""

import hashlib
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

# Raise when the pixels that any image becomes change: records and caches of
# another version are left aside, not reused.
VERSION = 1

EXTENSIONS = frozenset({'.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp'})
FORMATS = ('PNG', 'JPEG', 'TIFF', 'BMP')
MAX_PIXELS = 2**26


class Picture(NamedTuple):
  """An image with its bytes, which cost a copy each time PIL gives them.

  The way from file to cache stays in PIL, which frees the GIL; the functions
  of this module on arrays are for all other callers.
  """

  image: Image.Image  # 'L' or 'RGB'
  pixels: bytes  # row by row

  @classmethod
  def of(cls, image: Image.Image) -> 'Picture':
    """Takes the bytes of an image."""
    return cls(image, image.tobytes())

  @classmethod
  def decode(cls, data: bytes) -> 'Picture':
    """Decodes a file's bytes; see `decode`."""
    try:
      with _open(data) as image:
        return cls.of(_plain(image))
    except Exception as error:
      # Broken files leave PIL by at least a dozen exception types.
      raise ValueError(_reason(error)) from error

  def digest(self) -> int:
    """Hashes shape and pixels to 64 bits, equal for identical images."""
    image, pixels = self
    channels = [3] if image.mode == 'RGB' else []
    shape = (image.height, image.width, *channels)
    state = hashlib.blake2b(repr(shape).encode(), digest_size=8)
    state.update(pixels)
    return int.from_bytes(state.digest(), 'little')

  def fit(self, *, size: int, resize: str, channels: int) -> Image.Image:
    """Brings the image to size × size, of 1 or 3 channels; see `fit`."""
    mode = {1: 'L', 3: 'RGB'}[channels]
    picture = self
    if self.image.mode != mode:
      picture = Picture.of(self.image.convert(mode))
    image = picture.image
    if resize == 'stretch':
      return _scaled(image, size, size)
    longest = max(image.size)
    width, height = (max(1, round(s * size / longest)) for s in image.size)
    fitted = Image.new(mode, (size, size), _background(picture))
    fitted.paste(
      _scaled(image, width, height), ((size - width) // 2, (size - height) // 2)
    )
    return fitted


def decode(data: bytes) -> np.ndarray:
  """Decodes a file's bytes to uint8 [H, W] if grey, else [H, W, 3].

  16-bit grey is scaled by its full range (65535 -> 255), transparency is
  composited on white, palettes are looked up, and colour whose three channels
  are equal is grey. Of several frames the first counts.

  Raises:
    ValueError: with the reason, if the bytes are no such image.
  """
  return np.asarray(Picture.decode(data).image)


def normalise(data: bytes) -> bytes:
  """Keeps 8-bit grey or RGB PNG/JPEG bytes; encodes others as 8-bit PNG.

  Raises:
    ValueError: with the reason, if no image is recognised. Damage further
      into a PNG or JPEG shows in `decode` alone.
  """
  try:
    with _open(data) as image:
      if _is_plain(image):
        return data
      image = _plain(image)
  except Exception as error:
    raise ValueError(_reason(error)) from error
  return _encode(image)


def encode(pixels: np.ndarray) -> bytes:
  """Encodes uint8 [H, W] or [H, W, 3] as PNG."""
  return _encode(Image.fromarray(pixels))


def digest(pixels: np.ndarray) -> int:
  """Hashes shape and pixels to 64 bits, equal for identical images."""
  return Picture.of(Image.fromarray(pixels)).digest()


def fit(
  pixels: np.ndarray, *, size: int, resize: str, channels: int
) -> np.ndarray:
  """Brings pixels to uint8 [size, size, channels].

  `resize='pad'` keeps the aspect ratio and pads to a square with the median
  of the image's border pixels; 'stretch' does neither. Antialiased (Lanczos).
  """
  picture = Picture.of(Image.fromarray(pixels))
  fitted = picture.fit(size=size, resize=resize, channels=channels)
  return np.asarray(fitted).reshape(size, size, channels)


def _encode(image: Image.Image) -> bytes:
  stream = io.BytesIO()
  image.save(stream, 'PNG', compress_level=1)
  return stream.getvalue()


def _open(data: bytes) -> Image.Image:
  if not data:
    raise ValueError('empty file')
  # Only these formats: others that PIL knows may start other programs.
  image = Image.open(io.BytesIO(data), formats=FORMATS)
  width, height = image.size
  if width * height > MAX_PIXELS:
    raise Image.DecompressionBombError(f'{width} x {height} px')
  return image


def _is_plain(image: Any) -> bool:
  if image.format == 'PNG':  # 'L;4' is 4-bit, 'RGB;16B' 16-bit.
    plain = image.tile[0].args == image.mode
  else:
    plain = image.format == 'JPEG'
  opaque = not image.has_transparency_data
  return plain and opaque and image.mode in ('L', 'RGB')


def _plain(image: Image.Image) -> Image.Image:
  image.load()
  if image.mode.startswith('I;16'):
    return _from_16_bits(image)
  if image.mode in ('I', 'F'):
    raise ValueError('32-bit pixels have no known range: save as 16-bit')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  if image.mode not in ('L', 'RGB'):
    image = image.convert('L' if image.mode == '1' else 'RGB')
  if image.mode == 'RGB':
    red, *others = image.split()
    pixels = red.tobytes()
    if all(pixels == other.tobytes() for other in others):
      return red
  return image


def _from_16_bits(image: Image.Image) -> Image.Image:
  pixels = np.asarray(image).astype(np.uint32)
  return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


def _scaled(image: Image.Image, width: int, height: int) -> Image.Image:
  if image.size == (width, height):
    return image
  # Shrinking far is done first in whole steps, then antialiased.
  return image.resize(
    (width, height), Image.Resampling.LANCZOS, reducing_gap=3.0
  )


def _background(picture: Picture) -> tuple[int, ...]:
  """Takes the median of the border pixels, each channel on its own."""
  width, height = picture.image.size
  channels = len(picture.image.mode)
  medians = []
  for channel in range(channels):
    pixels = picture.pixels[channel::channels]
    if min(width, height) > 2:
      inner = pixels[width:-width]
      left, right = inner[::width], inner[width - 1 :: width]
      pixels = pixels[:width] + left + right + pixels[-width:]
    medians.append(_median(pixels))
  return tuple(medians)


def _median(values: bytes) -> int:
  """Takes the median; of an even number the upper one."""
  return int(np.sort(np.frombuffer(values, np.uint8))[len(values) // 2])


def _reason(error: Exception) -> str:
  if isinstance(error, UnidentifiedImageError):
    return 'not a PNG, JPEG, TIFF or BMP image'
  if isinstance(
    error, Image.DecompressionBombError | Image.DecompressionBombWarning
  ):
    return f'more than {MAX_PIXELS / 1e6:.0f} million pixels'
  return ' '.join(str(error).split()) or type(error).__name__
