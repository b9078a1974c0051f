import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from plankton_jax import augment
from plankton_jax.nn.backbone import Normalisation

OFF = {
  'flip': False,
  'rotate': 0.0,
  'scale': 0.0,
  'translate': 0.0,
  'brightness': 0.0,
  'contrast': 0.0,
  'noise': 0.0,
}


def _images(count=6, side=16, channels=1):
  rng = np.random.default_rng(0)
  images = np.full((count, side, side, channels), 200, np.uint8)
  blob = rng.integers(0, 150, (count, side // 2, side // 2, channels))
  images[:, side // 4 : -side // 4, side // 4 : -side // 4] = blob
  return jnp.asarray(images)


def test_background_becomes_zero():
  images = np.full((2, 8, 8, 3), 200, np.uint8)
  images[0, 3, 4] = [0, 200, 255]
  images[1, 0, 0] = 7  # a speck on the border does not move the median
  images[1, :, :, 2] = 9
  out = augment.to_float(jnp.asarray(images))
  np.testing.assert_allclose(out[0, 3, 4], [-200 / 255, 0, 55 / 255], rtol=1e-6)
  assert np.count_nonzero(out[0]) == 2
  assert (
    np.count_nonzero(out[1]) == 2
  )  # the speck, but where the channel is flat
  np.testing.assert_array_equal(out[1, 2:, 2:], 0.0)


def test_everything_off_is_to_float():
  images = _images()
  np.testing.assert_array_equal(
    augment.make(**OFF)(jax.random.key(0), images), augment.to_float(images)
  )


def test_flip_gives_the_eight_poses_of_a_square_and_nothing_else():
  images = jnp.tile(_images(1), (128, 1, 1, 1))
  plain = np.asarray(augment.to_float(images[0][None]))[0]
  turned = [np.rot90(plain, k) for k in range(4)]
  poses = [*turned, *(x[::-1] for x in turned)]
  out = augment.make(**(OFF | {'flip': True}))(jax.random.key(0), images)
  found = [
    [i for i, pose in enumerate(poses) if np.array_equal(x, pose)] for x in out
  ]
  counts = np.bincount(np.concatenate(found), minlength=8)
  assert counts.sum() == 128
  assert counts.min() >= 6


@pytest.mark.parametrize('angle', [90.0, 30.0])
def test_warp_rotates_as_scipy_does(angle):
  image = np.asarray(augment.to_float(_images(1, side=17)))[0]
  out = augment._warp(image, jnp.deg2rad(angle), jnp.float32(1.0), jnp.zeros(2))
  expected = scipy.ndimage.rotate(
    image[..., 0], -angle, reshape=False, order=1, mode='constant'
  )
  np.testing.assert_allclose(out[..., 0], expected, atol=1e-4)


def test_warp_zooms_and_shifts():
  image = np.zeros((17, 17, 1), np.float32)
  image[8, 12] = 1.0
  unit = jnp.float32(1.0)
  moved = augment._warp(image, 0.0 * unit, unit, jnp.array([2 / 17, -1 / 17]))
  assert np.unravel_index(moved.argmax(), (17, 17)) == (10, 11)
  zoomed = augment._warp(image, 0.0 * unit, 1.5 * unit, jnp.zeros(2))
  assert np.unravel_index(zoomed.argmax(), (17, 17)) == (8, 14)


def test_what_rotation_uncovers_is_background():
  out = augment.make(**(OFF | {'rotate': 180.0}))(jax.random.key(1), _images())
  np.testing.assert_allclose(out[:, 0, 0], 0.0, atol=1e-6)
  assert np.abs(out).max() > 0.1


@pytest.mark.parametrize(
  ('field', 'strength'),
  [
    ('rotate', 45.0),
    ('scale', 0.3),
    ('translate', 0.2),
    ('brightness', 0.2),
    ('contrast', 0.5),
    ('noise', 0.1),
  ],
)
def test_each_field_changes_images_by_key_alone(field, strength):
  images = _images()
  run = jax.jit(augment.make(**(OFF | {field: strength})))
  first = run(jax.random.key(0), images)
  np.testing.assert_array_equal(first, run(jax.random.key(0), images))
  assert np.abs(first - augment.to_float(images)).max() > 1e-3
  assert np.abs(first - run(jax.random.key(1), images)).max() > 1e-3
  # Each image has a draw of its own.
  same = run(jax.random.key(0), jnp.tile(images[:1], (6, 1, 1, 1)))
  assert np.abs(same[0] - same[1]).max() > 1e-3


def test_strengths_are_in_their_units():
  images = _images(200, side=8)
  plain = np.asarray(augment.to_float(images))
  bright = augment.make(**(OFF | {'brightness': 0.2}))(
    jax.random.key(0), images
  )
  change = np.asarray(bright) - plain
  np.testing.assert_allclose(change.std(axis=(1, 2, 3)), 0.0, atol=1e-6)
  assert 0.19 < np.abs(change).max() <= 0.2 + 1e-6
  noisy = augment.make(**(OFF | {'noise': 0.1}))(jax.random.key(0), images)
  np.testing.assert_allclose((noisy - plain).std(), 0.1, rtol=0.02)
  stark = augment.make(**(OFF | {'contrast': 0.5}))(jax.random.key(0), images)
  ratio = np.abs(stark).max(axis=(1, 2, 3)) / np.abs(plain).max(axis=(1, 2, 3))
  assert 1 / 1.5 - 1e-5 <= ratio.min() < 0.69 and 1.48 < ratio.max() <= 1.50001


NORMALISE = Normalisation((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))


@pytest.mark.parametrize('channels', [1, 3])
def test_normalised_images_keep_their_background(channels):
  images = _images(2, side=9, channels=channels)
  got = augment.to_float(images, NORMALISE)
  want = np.repeat(images, 3 // channels, -1) / 255.0
  want = (want - np.array(NORMALISE.mean)) / np.array(NORMALISE.std)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  off = augment.make(**OFF, normalise=NORMALISE)
  np.testing.assert_allclose(off(jax.random.key(0), images), want, atol=1e-5)


def test_a_normalised_image_is_augmented_about_its_background():
  fields = OFF | {
    'flip': True,
    'rotate': 180.0,
    'scale': 0.3,
    'translate': 0.3,
    'contrast': 0.5,
  }
  # Of one shade each: corners that a rotation uncovers have it too.
  images = np.full((2, 8, 8, 1), [[[[40]]], [[[200]]]], np.uint8)
  change = augment.make(**fields, normalise=NORMALISE)
  got = jax.jit(change)(jax.random.key(0), jnp.asarray(images))
  want = augment.to_float(jnp.asarray(images), NORMALISE)
  np.testing.assert_allclose(got, want, atol=1e-5)
