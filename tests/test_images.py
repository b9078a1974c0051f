"""Decoding every format to the same pixels, and fitting them to a size."""

import io
import os
import subprocess
import sys

import numpy as np
import packing
import pytest
from PIL import Image
from test_readme import ROOT

from plankton_jax.data.pixels import images


def encoded(image, form, **options):
  stream = io.BytesIO()
  image.save(stream, form, **options)
  return stream.getvalue()


def digest(pixels):
  return images.Picture.of(Image.fromarray(pixels)).digest()


def ingested(data):
  return images.ingest(data).data


@pytest.fixture
def grey():
  return np.random.default_rng(0).integers(0, 256, (9, 14), np.uint8)


@pytest.fixture
def colour():
  return np.random.default_rng(1).integers(0, 256, (9, 14, 3), np.uint8)


@pytest.mark.parametrize('form', ['PNG', 'TIFF', 'BMP'])
def test_lossless_8_bit_is_exact(grey, colour, form):
  for pixels in (grey, colour):
    data = encoded(Image.fromarray(pixels), form)
    np.testing.assert_array_equal(images.decode(data), pixels)
    kept = ingested(data)
    assert (kept == data) == (form == 'PNG')
    np.testing.assert_array_equal(images.decode(kept), pixels)


def test_jpeg_bytes_are_kept(grey):
  data = encoded(Image.fromarray(grey), 'JPEG', quality=95)
  assert ingested(data) == data
  with Image.open(io.BytesIO(data)) as image:
    np.testing.assert_array_equal(images.decode(data), np.asarray(image))


@pytest.mark.parametrize('form', ['PNG', 'TIFF'])
def test_16_bit_is_scaled_by_the_full_range(form):
  deep = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
  data = encoded(Image.fromarray(deep), form)
  expected = np.rint(deep / 65535 * 255).astype(np.uint8)
  np.testing.assert_array_equal(images.decode(data), expected)
  np.testing.assert_array_equal(images.decode(ingested(data)), expected)


@pytest.mark.parametrize('form', ['PNG', 'TIFF'])
@pytest.mark.parametrize('bits', [10, 12, 14, 16])
def test_16_bit_is_scaled_by_its_depth(form, bits):
  top = 2**bits - 1
  deep = np.linspace(0, top, 4000).reshape(40, 100).astype(np.uint16)
  data = encoded(Image.fromarray(deep), form)
  expected = np.floor(deep / top * 255 + 0.5)
  assert len(np.unique(expected)) == 256
  np.testing.assert_array_equal(images.decode(data), expected)
  kept = images.ingest(data)
  assert kept.deepest == top == images.deepest(data) and not kept.note
  np.testing.assert_array_equal(images.decode(kept.data), expected)
  # One value for a set: what is brighter is white.
  half = np.minimum(np.floor(deep / (top // 2) * 255 + 0.5), 255)
  np.testing.assert_array_equal(images.decode(kept.data, top // 2), half)
  whole = np.floor(deep / 65535 * 255 + 0.5)
  np.testing.assert_array_equal(images.decode(data, 65535), whole)


def test_the_white_of_a_depth():
  for deepest, white in (
    (0, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095),
    (4095, 4095), (4096, 16383), (16384, 65535), (65535, 65535),
  ):  # fmt: skip
    assert images.white_of(deepest) == white
  assert images.deepest(b'no image') == 0


def test_8_bit_images_have_no_depth(grey):
  for form in ('PNG', 'TIFF', 'BMP', 'GIF', 'WEBP'):
    data = encoded(Image.fromarray(grey), form)
    assert images.deepest(data) == images.ingest(data).deepest == 0
    np.testing.assert_array_equal(
      images.decode(data, 4095), images.decode(data)
    )


@pytest.mark.parametrize('form', ['GIF', 'WEBP'])
def test_gif_and_webp(grey, form):
  options = {'lossless': True} if form == 'WEBP' else {}
  data = encoded(Image.fromarray(grey), form, **options)
  np.testing.assert_array_equal(images.decode(data), grey)
  np.testing.assert_array_equal(images.decode(ingested(data)), grey)


@pytest.mark.parametrize('form', ['PNG', 'JPEG', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_images_are_turned_as_exif_says(colour, form, orientation):
  large = np.repeat(np.repeat(colour, 16, 0), 16, 1)
  exif = Image.Exif()
  exif[0x0112] = orientation
  options = {'lossless': True} if form == 'WEBP' else {'quality': 95}
  data = encoded(Image.fromarray(large), form, exif=exif, **options)
  plain = images.decode(encoded(Image.fromarray(large), form, **options))
  turned = {
    1: plain,
    2: plain[:, ::-1],
    3: plain[::-1, ::-1],
    4: plain[::-1],
    5: plain.transpose(1, 0, 2),
    6: np.rot90(plain, -1),
    7: np.rot90(plain.transpose(1, 0, 2), 2),
    8: np.rot90(plain),
  }[orientation]
  np.testing.assert_array_equal(images.decode(data), turned)
  kept = ingested(data)
  np.testing.assert_array_equal(images.decode(kept), turned)
  assert (kept == data) == (form in ('PNG', 'JPEG') and orientation == 1)


@pytest.mark.parametrize(
  ('mode', 'form'), [('L', 'TIFF'), ('I;16', 'TIFF'), ('L', 'PNG')]
)
def test_of_several_pages_the_first_is_kept_and_noted(grey, mode, form):
  dtype = np.uint16 if mode == 'I;16' else np.uint8
  pages = [Image.fromarray((grey // d).astype(dtype)) for d in (1, 2, 3)]
  data = encoded(pages[0], form, save_all=True, append_images=pages[1:])
  kept = images.ingest(data)
  assert kept.note == 'several pages, of which the first is kept'
  np.testing.assert_array_equal(images.decode(kept.data), grey)


def test_transparency_takes_the_background():
  rng = np.random.default_rng(2)
  for grey in (True, False):
    pixels = rng.integers(0, 256, (9, 14, 4), np.uint8)
    if grey:
      pixels[..., 1] = pixels[..., 2] = pixels[..., 0]
    border = [
      pixels[y, x, :3]
      for y in range(9)
      for x in range(14)
      if (y in (0, 8) or x in (0, 13)) and pixels[y, x, 3] >= 128
    ]
    background = np.sort(border, axis=0)[len(border) // 2].astype(float)
    opacity = pixels[..., 3:] / 255
    expected = pixels[..., :3] * opacity + background * (1 - opacity)
    expected = expected[..., 0] if grey else expected
    for form in ('PNG', 'TIFF'):
      data = encoded(Image.fromarray(pixels, 'RGBA'), form)
      difference = images.decode(data) - expected
      assert np.abs(difference).max() <= 1.0
      np.testing.assert_array_equal(
        images.decode(ingested(data)), images.decode(data)
      )


def test_without_an_opaque_border_the_opaque_pixels_are_the_background():
  pixels = np.zeros((7, 8, 4), np.uint8)
  pixels[2:5, 3:6] = (40, 50, 60, 255)
  found = images.decode(encoded(Image.fromarray(pixels, 'RGBA'), 'PNG'))
  assert (found == (40, 50, 60)).all()
  pixels[..., 3] = 0
  found = images.decode(encoded(Image.fromarray(pixels, 'RGBA'), 'PNG'))
  assert (found == 255).all()


def test_grey_with_alpha_stays_grey(grey):
  data = encoded(Image.fromarray(grey).convert('LA'), 'PNG')
  np.testing.assert_array_equal(images.decode(data), grey)


def test_palette_bilevel_and_low_depth(grey, colour):
  few = Image.fromarray(colour).quantize(7)
  looked_up = np.asarray(few.convert('RGB'))
  for form in ('PNG', 'BMP', 'TIFF'):
    np.testing.assert_array_equal(images.decode(encoded(few, form)), looked_up)
  bits = Image.fromarray(grey > 127)
  np.testing.assert_array_equal(
    images.decode(encoded(bits, 'PNG')), np.where(grey > 127, 255, 0)
  )
  four = ingested(encoded(Image.fromarray(grey & 15), 'PNG', bits=4))
  with Image.open(io.BytesIO(four)) as image:
    assert image.tile[0].args == 'L'


def test_colour_key_is_background(grey):
  data = encoded(Image.fromarray(grey), 'PNG', transparency=int(grey[0, 0]))
  key = grey == grey[0, 0]
  border = np.ones(grey.shape, bool)
  border[1:-1, 1:-1] = False
  values = np.sort(grey[border & ~key])
  expected = np.where(key, values[len(values) // 2], grey)
  np.testing.assert_array_equal(images.decode(data), expected)
  assert ingested(data) != data


def test_grey_stored_as_colour_has_the_digest_of_grey(grey):
  as_colour = encoded(Image.fromarray(grey).convert('RGB'), 'BMP')
  decoded = images.decode(as_colour)
  np.testing.assert_array_equal(decoded, grey)
  assert digest(decoded) == digest(grey)
  assert digest(grey) != digest(grey.reshape(14, 9))
  changed = grey.copy()
  changed[-1, -1] ^= 1
  assert digest(grey) != digest(changed)


@pytest.mark.parametrize('form', ['PNG', 'JPEG', 'TIFF', 'BMP'])
def test_truncated_is_refused(colour, form):
  large = np.tile(colour, (8, 8, 1))
  data = encoded(Image.fromarray(large), form)
  for share in (0.3, 0.8):
    with pytest.raises(ValueError, match=r'\w'):
      images.decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
  ('data', 'reason'),
  [
    (b'', 'empty file'),
    (b'station,depth\n12,40\n' * 9, 'not a PNG, JPEG, TIFF, BMP, GIF or W'),
    (encoded(Image.new('L', (4, 4)), 'PPM'), 'not a PNG, JPEG, TIFF, BMP, G'),
    (b' <!DOCTYPE html><p>Log in', 'WebP image, but a web page: download it'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'run git lfs pull'),
    (b'\0\0\0\x18ftypheic\0\0\0\0', 'HEIC or AVIF: convert it to PNG'),
    (encoded(Image.new('L', (4, 4)), 'JPEG2000'), 'a JPEG 2000 image: conv'),
  ],
)
def test_no_image_is_refused(data, reason):
  for function in (images.decode, images.ingest):
    with pytest.raises(ValueError, match=reason):
      function(data)


def test_decompression_bombs_are_refused(monkeypatch):
  monkeypatch.setattr(images, 'MAX_PIXELS', 10_000)
  bomb = encoded(Image.new('1', (30_000, 6_000)), 'PNG')
  for data in (bomb, encoded(Image.new('L', (101, 100)), 'PNG')):
    with pytest.raises(ValueError, match='million pixels'):
      images.ingest(data)
  fine = encoded(Image.new('L', (100, 100)), 'PNG')
  assert ingested(fine) == fine


def test_large_images_are_refused_without_a_warning(tmp_path):
  (tmp_path / 'a.png').write_bytes(packing.bomb(10_000))
  code = (
    'import pathlib; from plankton_jax.data.pixels import images\n'
    'try: images.decode(pathlib.Path("a.png").read_bytes())\n'
    'except ValueError as error: print(error)'
  )
  # pytest has filters of its own.
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=True,
  )
  assert (done.stdout, done.stderr) == ('more than 67 million pixels\n', '')


@pytest.mark.parametrize(('colours', 'channels'), [(2, 3), (4, 2), (6, 4)])
def test_colour_of_16_bits_loses_the_lower_8_and_is_noted(colours, channels):
  values = np.full((1, channels), 0x12FF, '>u2')
  values[:, channels - 1 if colours > 2 else 3 :] = 0xFFFF  # opaque
  found = images.ingest(packing.png(16, colours, b'\0' + values.tobytes()))
  assert found.note == '16 bits a channel, of which the upper 8 are kept'
  assert (images.decode(found.data) == 0x12).all()
  plain = images.ingest(packing.png(8, 2, b'\0abc'))
  assert plain.note == ''


def test_32_bit_is_refused(grey):
  for dtype in (np.int32, np.float32):
    data = encoded(Image.fromarray(grey.astype(dtype)), 'TIFF')
    with pytest.raises(ValueError, match='32-bit'):
      images.decode(data)


@pytest.mark.parametrize('dtype', ['i1', '<i2'])
def test_signed_pixels_are_refused(grey, dtype):
  image = Image.fromarray((grey // 2).astype(dtype).view(f'u{dtype[-1]}'))
  data = encoded(image, 'TIFF', tiffinfo={339: 2})
  for function in (images.decode, images.ingest):
    with pytest.raises(ValueError, match='signed or 32-bit pixels have no'):
      function(data)


@pytest.mark.parametrize('shape', [(40, 10), (10, 40), (40, 1), (300, 2)])
def test_pad_keeps_aspect_and_takes_the_border_median(shape):
  pixels = np.full(shape, 200, np.uint8)
  pixels[0, 0] = 3  # An outlier in the border changes nothing.
  fitted = images.fit(pixels, size=20, resize='pad', channels=1)[..., 0]
  height, width = (max(1, round(side * 20 / max(shape))) for side in shape)
  top, left = (20 - height) // 2, (20 - width) // 2
  outside = np.ones((20, 20), bool)
  outside[top : top + height, left : left + width] = False
  assert (fitted[outside] == 200).all()


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize(
  'shape', [(5, 7), (7, 4), (3, 7), (7, 2), (2, 7), (1, 7), (7, 1)]
)
def test_pad_centres_the_untouched_pixels(shape, seed):
  rng = np.random.default_rng(seed)
  colour = rng.integers(0, 256, (*shape, 3), np.uint8)
  fitted = images.fit(colour, size=7, resize='pad', channels=3)
  height, width = shape
  top, left = (7 - height) // 2, (7 - width) // 2
  inside = fitted[top : top + height, left : left + width]
  np.testing.assert_array_equal(inside, colour)
  border = [
    colour[y, x]
    for y in range(height)
    for x in range(width)
    if y in (0, height - 1) or x in (0, width - 1)
  ]
  outside = np.ones((7, 7), bool)
  outside[top : top + height, left : left + width] = False
  expected = np.sort(border, axis=0)[len(border) // 2]
  assert (fitted[outside] == expected).all()


def test_shrinking_is_antialiased():
  # One-pixel checks vanish into their mean; without a filter they alias.
  checks = ((np.indices((96, 96)).sum(0) % 2) * 255).astype(np.uint8)
  for resize in ('pad', 'stretch'):
    fitted = images.fit(checks, size=16, resize=resize, channels=1)
    assert np.abs(fitted.astype(int) - 127).max() <= 4


def test_stretch_fills_the_square():
  pixels = np.zeros((10, 40), np.uint8)
  pixels[:, 20:] = 255
  fitted = images.fit(pixels, size=8, resize='stretch', channels=1)[..., 0]
  assert (fitted[:, :3] < 20).all() and (fitted[:, 5:] > 235).all()


def test_channels_are_converted(grey, colour):
  tripled = images.fit(grey, size=14, resize='pad', channels=3)
  np.testing.assert_array_equal(tripled[2:11], np.stack([grey] * 3, -1))
  luma = images.fit(colour, size=14, resize='pad', channels=1)[2:11, :, 0]
  expected = colour @ np.array([0.299, 0.587, 0.114])
  assert np.abs(luma - expected).max() <= 1.0


def test_crops_are_off_the_top_right_bottom_and_left(grey, colour):
  for pixels in (grey, colour):
    data = encoded(Image.fromarray(pixels), 'PNG')
    found = images.decode(data, crop=(1, 2, 3, 4))
    np.testing.assert_array_equal(found, pixels[1:-3, 4:-2])
  for crop in ((4, 0, 5, 0), (0, 7, 0, 7)):
    with pytest.raises(ValueError, match='14 x 9 px, of which data'):
      images.decode(data, crop=crop)


def test_16_bits_from_white_to_black_are_refused(grey):
  """PIL turns 8 bits over and leaves 16 as they are."""
  stream = io.BytesIO()
  deep = Image.fromarray(grey.astype(np.uint16))
  deep.save(stream, 'TIFF', tiffinfo={262: 0})
  for read in (images.decode, images.ingest):
    with pytest.raises(ValueError, match='16 bits that count from white to'):
      read(stream.getvalue())
