"""Decodes an image, and brings it to the configured size."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from plankton_jax.errors import reason

# Raise it when any image would decode to other pixels: records and caches of
# another version are not reused.
VERSION = 3

EXTENSIONS = frozenset({
  '.png', '.jpg', '.jpeg', '.jpe', '.jfif', '.tif', '.tiff', '.bmp', '.gif',
  '.webp',
})  # fmt: skip
FORMATS = ('PNG', 'JPEG', 'TIFF', 'BMP', 'GIF', 'WEBP')
MAX_PIXELS = 2**26

# How files of most of these formats begin.
_STARTS = (b'\x89PNG', b'\xff\xd8\xff', b'II*\0', b'MM\0*', b'GIF8')
# How files begin that are not read, and what they are.
_OTHERS = (
  (b'<!doctype', 'a web page: download it again, logged in'),
  (b'<html', 'a web page: download it again, logged in'),
  (b'version https://git-lfs', 'a pointer to the image: run git lfs pull'),
  (b'%pdf', 'a PDF file: export its images'),
  (b'pk\3\4', 'an archive: unpack it'),
  (b'\0\0\0\x0cjp  ', 'a JPEG 2000 image: convert it to PNG'),
)
_PHONE = (b'ftyphei', b'ftypmif', b'ftypavif')  # after four bytes

_NO_IMAGE = 'not a PNG, JPEG, TIFF, BMP, GIF or WebP image'
NO_CROP = (0, 0, 0, 0)

_DEPTHS = (8, 10, 12, 14, 16)  # bits of cameras
_ORIENTATION = 0x0112  # in Exif
_PHOTOMETRIC = 0x0106  # in TIFF
_SAMPLE_FORMAT = 0x0153  # in TIFF, of each channel
_SIGNED = 2

# MAX_PIXELS refuses what PIL only warns of.
warnings.simplefilter('ignore', Image.DecompressionBombWarning)


class Picture(NamedTuple):
  """An image with its bytes, which PIL would copy at each request.

  From file to cache, images stay in PIL, which releases the GIL; the functions
  of this module on arrays are for all other callers.
  """

  image: Image.Image  # 'L' or 'RGB'
  pixels: bytes  # row by row

  @classmethod
  def of(cls, image: Image.Image) -> 'Picture':
    """Takes the bytes of an image."""
    return cls(image, image.tobytes())

  @classmethod
  def decode(
    cls, data: bytes, white: int = 0, crop: Sequence[int] = NO_CROP
  ) -> 'Picture':
    """Decodes a file's bytes; see `decode`."""
    try:
      with _open(data) as image:
        return cls.of(_cropped(_plain(image, white), crop))
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


class Preprocessing(NamedTuple):
  """Says how files become the arrays that an encoder takes."""

  size: int  # as `fit` takes it, and the next two
  resize: str
  channels: int
  white: int = 0  # as `decode` takes it, and the last
  crop: tuple[int, ...] = NO_CROP

  def apply(self, data: bytes) -> tuple[Picture, Image.Image]:
    """Decodes a file's bytes, and fits the picture.

    Raises:
      ValueError: as in `decode`.
    """
    picture = Picture.decode(data, self.white, self.crop)
    size, resize, channels, *_ = self
    return picture, picture.fit(size=size, resize=resize, channels=channels)


class Fitted(NamedTuple):
  """An image as encoders take it, and the size that it had."""

  pixels: np.ndarray  # uint8 [size, size, C]
  height: int  # before it was fitted, px
  width: int


def decode(
  data: bytes, white: int = 0, crop: Sequence[int] = NO_CROP
) -> np.ndarray:
  """Decodes a file's bytes to uint8 [H, W] if grey, else [H, W, 3].

  Turns the image as its Exif tag says, fills transparent pixels with the median
  of the opaque border pixels, looks palettes up, and makes colour with three
  equal channels grey. Takes the first of several frames.

  Args:
    data: the bytes of a file.
    white: the 16-bit value that becomes 255; 0 finds it from the image alone,
      by `white_of`. Give all images of a set the same value.

  Raises:
    ValueError: the bytes are not an image that can be read, and why.
  """
  return np.asarray(Picture.decode(data, white, crop).image)


def white_of(deepest: int) -> int:
  """Finds the largest value of the camera depth that holds `deepest`.

  Depths are 8, 10, 12, 14 and 16 bits.
  """
  return next(2**bits - 1 for bits in _DEPTHS if deepest < 2**bits)


def is_known(start: bytes) -> bool:
  """Tells by its first bytes whether a file is an image, whatever its name."""
  return start.startswith(_STARTS)


def deepest(data: bytes) -> int:
  """Finds the largest value of a 16-bit image; 0 for any other bytes."""
  try:
    with _open(data) as image:
      return (
        int(np.asarray(image).max()) if image.mode.startswith('I;16') else 0
      )
  except Exception:  # The fault is named when it is decoded.
    return 0


class Normal(NamedTuple):
  """An image as the records keep it."""

  data: bytes  # of a PNG or JPEG
  deepest: int  # the largest 16-bit value; 0 of 8-bit images
  note: str  # what is not kept; '' if all is kept


def ingest(data: bytes) -> Normal:
  """Keeps grey or RGB PNG and JPEG bytes; encodes others as PNG.

  Grey of 16 bits stays so.

  Raises:
    ValueError: no image is recognised, and why. Damage inside a PNG or JPEG
      shows only in `decode`.
  """
  try:
    with _open(data) as image:
      if _is_plain(image):
        return Normal(data, 0, '')
      note = _note(image)
      if image.mode.startswith('I;16'):
        image.load()
        turned = ImageOps.exif_transpose(image)
        pixels = np.asarray(turned).astype(np.uint16)
        return Normal(encode(pixels), int(pixels.max()), note)
      image = _plain(image, 0)
  except Exception as error:
    raise ValueError(_reason(error)) from error
  return Normal(_encode(image), 0, note)


def encode(pixels: np.ndarray) -> bytes:
  """Encodes uint8 [H, W] or [H, W, 3], or uint16 [H, W], as PNG."""
  return _encode(Image.fromarray(pixels))


def fit(
  pixels: np.ndarray, *, size: int, resize: str, channels: int
) -> np.ndarray:
  """Brings pixels to uint8 [size, size, channels].

  `resize='pad'` keeps the aspect ratio and pads to a square with the median
  of the image's border pixels; 'stretch' does neither. Both antialias by
  Lanczos filtering.
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
  try:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
  except UnidentifiedImageError as error:
    raise ValueError(f'{_NO_IMAGE}{_instead(data)}') from error
  width, height = image.size
  if width * height > MAX_PIXELS:
    raise Image.DecompressionBombError(f'{width} x {height} px')
  # PIL turns over such images of 8 bits alone.
  if image.mode.startswith('I;16') and _from_white(image):
    raise ValueError(
      '16 bits that count from white to black: save it from black to white'
    )
  # PIL takes signed pixels of 8 bits for unsigned ones.
  signed = _SIGNED in getattr(image, 'tag_v2', {}).get(_SAMPLE_FORMAT, ())
  if signed or image.mode in ('I', 'F'):
    raise ValueError(
      'signed or 32-bit pixels have no known range: save as unsigned 16-bit'
    )
  return image


def _instead(data: bytes) -> str:
  """Says what the bytes are that are no image; '' if it is not known."""
  start = data[:64].lstrip().lower()
  if data[4:12].startswith(_PHONE):
    return ', but one of a phone, HEIC or AVIF: convert it to PNG'
  kind = next((kind for mark, kind in _OTHERS if start.startswith(mark)), '')
  return f', but {kind}' if kind else ''


def _from_white(image: Any) -> bool:
  """Tells whether 0 is white in a TIFF, by its photometric interpretation."""
  return getattr(image, 'tag_v2', {}).get(_PHOTOMETRIC) == 0


def _is_plain(image: Any) -> bool:
  if image.format == 'PNG':  # 'L;4' is 4-bit, 'RGB;16B' 16-bit.
    plain = image.tile[0].args == image.mode
  else:
    plain = image.format == 'JPEG'
  if not plain or image.mode not in ('L', 'RGB'):
    return False
  if image.has_transparency_data or getattr(image, 'n_frames', 1) > 1:
    return False
  return image.getexif().get(_ORIENTATION, 1) == 1


def _note(image: Any) -> str:
  """Says what of an opened image is not kept."""
  if getattr(image, 'n_frames', 1) > 1:
    return 'several pages, of which the first is kept'
  # PIL reads colour, and grey with transparency, of 16 bits by its high bytes.
  deep = ';16' in str(image.tile[:1]) and not image.mode.startswith('I;16')
  return '16 bits a channel, of which the upper 8 are kept' if deep else ''


def _plain(image: Image.Image, white: int) -> Image.Image:
  """Makes an opened image grey or RGB of 8 bits, upright and opaque."""
  image.load()
  if image.getexif().get(_ORIENTATION, 1) != 1:
    image = ImageOps.exif_transpose(image)
  if image.mode.startswith('I;16'):
    return _from_16_bits(image, white)
  if image.has_transparency_data:
    image = _on_background(image.convert('RGBA'))
  if image.mode not in ('L', 'RGB'):
    image = image.convert('L' if image.mode == '1' else 'RGB')
  if image.mode == 'RGB':
    red, *others = image.split()
    pixels = red.tobytes()
    if all(pixels == other.tobytes() for other in others):
      return red
  return image


def _cropped(image: Image.Image, crop: Sequence[int]) -> Image.Image:
  if not any(crop):
    return image
  top, right, bottom, left = crop
  width, height = image.size
  if left + right >= width or top + bottom >= height:
    raise ValueError(f'{width} x {height} px, of which data.crop leaves none')
  return image.crop((left, top, width - right, height - bottom))


def _from_16_bits(image: Image.Image, white: int) -> Image.Image:
  pixels = np.asarray(image).astype(np.uint32)
  white = white or white_of(int(pixels.max()))
  scaled = (np.minimum(pixels, white) * 255 + white // 2) // white
  return Image.fromarray(scaled.astype(np.uint8))


def _on_background(image: Image.Image) -> Image.Image:
  """Puts RGBA on the median colour of its opaque border pixels.

  If none is in the border, takes all opaque pixels; if there is none, white.
  """
  pixels = np.asarray(image)
  border = np.ones(pixels.shape[:2], bool)
  border[1:-1, 1:-1] = False
  opaque = pixels[..., 3] >= 128
  colour = (255, 255, 255)
  for chosen in (opaque & border, opaque):
    if chosen.any():
      red, green, blue = map(_median, pixels[chosen][:, :3].T)
      colour = red, green, blue
      break
  background = Image.new('RGBA', image.size, (*colour, 255))
  return Image.alpha_composite(background, image)


def _scaled(image: Image.Image, width: int, height: int) -> Image.Image:
  if image.size == (width, height):
    return image
  # Shrink far in whole steps first, then antialias.
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
    medians.append(_median(np.frombuffer(pixels, np.uint8)))
  return tuple(medians)


def _median(values: np.ndarray) -> int:
  """Takes the median, for an even count the upper one."""
  return int(np.sort(values)[len(values) // 2])


def _reason(error: Exception) -> str:
  if isinstance(
    error, Image.DecompressionBombError | Image.DecompressionBombWarning
  ):
    return f'more than {MAX_PIXELS / 1e6:.0f} million pixels'
  return reason(error)
