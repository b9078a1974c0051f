"""The size of an image, from its file to every place that embeds it."""

import jax
import numpy as np
import pytest
from PIL import Image

from analysis import embed
from analysis.files import folders, originals
from configs import arcface
from plankton_jax import checkpoints
from plankton_jax.errors import InputError
from plankton_jax.export import programs
from plankton_jax.nn import embedding, measures
from plankton_jax.train import experiment, loop, step

PIXEL, FOOT = 2.5, 3  # µm, and pixels that data.crop cuts off


@pytest.fixture
def sizes(tmp_path):
  """Writes images of two classes; returns height and width without the foot."""
  rng = np.random.default_rng(0)
  known = {}
  for i in range(24):
    name = f'{"ab"[i % 2]}/{i:02}.png'
    height, width = map(int, rng.integers(8, 60, 2))
    pixels = rng.integers(0, 256, (height + FOOT, width), np.uint8)
    file = tmp_path / 'images' / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    known[name] = height, width
  return known


@pytest.fixture
def config(make_config, tmp_path):
  return make_config(
    arcface.get_config,
    epochs=1,
    validations_per_epoch=1,
    batch__size=6,
    batch__views=2,
    batch__sampling='images',
    data__source='folder',
    data__path=str(tmp_path / 'images'),
    data__cache_dir=str(tmp_path / 'cache'),
    data__unseen_classes=(),
    data__crop=(0, 0, FOOT, 0),
    data__pixel_um=PIXEL,
    data__fractions=(0.5, 0.25, 0.25),
    encoder__size=True,
    encoder__poses=1,
  )


def test_the_size_of_an_image_is_followed(
  sizes, config, tmp_path, monkeypatch, capsys
):
  workdir = tmp_path / 'work'
  raw = lambda name: [*sizes[name], PIXEL]

  # From the cache into the batches of training and validation.
  data = experiment.load_data(config, workdir)
  name_of = {
    x.tobytes(): id
    for x, id in zip(data.images, data.ids.tolist(), strict=True)
  }
  seen = {'train': [], 'eval': []}

  def watched(kind, make):
    def make_step(**fields):
      run = make(**fields)

      def watching(state, batch, *key, **stage):
        for image, row in zip(batch['image'], batch['measures'], strict=True):
          name = name_of[np.asarray(image).tobytes()]
          np.testing.assert_array_equal(row, np.float32(raw(name)))
          seen[kind].append(name)
        return run(state, batch, *key, **stage)

      return watching

    return make_step

  monkeypatch.setattr(
    step, 'make_train_step', watched('train', step.make_train_step)
  )
  monkeypatch.setattr(
    step, 'make_eval_step', watched('eval', step.make_eval_step)
  )
  loop.train_and_evaluate(config, workdir)
  assert 'encoder.size: sizes are in µm' in capsys.readouterr().err
  train = set(data.ids[data.splits['train']].tolist())
  assert set(seen['train']) == train and len(train) == 12
  held_out = set(data.ids[np.r_[data.splits['val'], data.splits['test']]])
  assert set(seen['eval']) == held_out | train  # which the whitening is of

  # Into the checkpoint: the statistics of the training images.
  encoder = checkpoints.load_encoder(workdir)
  assert encoder.size_unit == 'µm'
  stats = encoder.variables['batch_stats'][embedding.MEASURES]
  side = [np.log(PIXEL * np.sqrt(h * w)) for h, w in map(sizes.get, train)]
  ratio = [abs(np.log(h / w)) for h, w in map(sizes.get, train)]
  for i, values in enumerate((side, ratio)):
    np.testing.assert_allclose(stats['mean'][i], np.mean(values), rtol=1e-5)
    np.testing.assert_allclose(stats['deviation'][i], np.std(values), rtol=1e-4)

  # Into the embedding files, of the splits and of any folder.
  embed.embed_run(workdir, None)
  folder = tmp_path / 'folder.npz'
  embed.embed_folder(encoder, config['data']['path'], folder)
  rows = {}
  for file in [*(workdir / 'embeddings').glob('*.npz'), folder]:
    with np.load(file) as found:
      for i, name in enumerate(found['id'].tolist()):
        assert [found['height'][i], found['width'][i]] == list(sizes[name])
        assert found['pixel_um'][i] == PIXEL
        vector = found['embedding'][i]
        np.testing.assert_allclose(
          vector, rows.setdefault(name, vector), atol=1e-5
        )
  assert rows.keys() == sizes.keys()

  # Into `Encoder.embed`, a single query, and what is exported.
  names = data.ids.tolist()
  wanted = np.stack([rows[name] for name in names])
  given = np.float32([raw(name) for name in names])
  pixel = {'pixel_um': given[:, 2]}
  found = encoder.embed(data.images, given[:, :2], measures=pixel)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  exported = jax.jit(programs.embed_fn(encoder))(np.asarray(data.images), given)
  np.testing.assert_allclose(exported, wanted, atol=1e-5)
  pixels = originals.read(tmp_path / 'images' / names[0], encoder)
  query = folders.embed_one(encoder, pixels)
  np.testing.assert_allclose(query, wanted[0], atol=1e-5)

  # It counts, and in µm: twice the pixels of half the side are as large.
  smaller = encoder.embed(
    data.images, 2 * given[:, :2], measures={'pixel_um': given[:, 2] / 2}
  )
  np.testing.assert_allclose(smaller, wanted, atol=1e-5)
  for other in (
    encoder.embed(data.images),
    encoder.embed(data.images, 2 * given[:, :2], measures=pixel),
  ):
    assert np.abs(other - wanted).max() > 1e-3
  untrained = checkpoints.untrained_encoder(workdir)
  kept = untrained.variables['batch_stats'][embedding.MEASURES]
  jax.tree.map(np.testing.assert_array_equal, kept, stats)


def test_one_image_without_its_pixel_makes_all_sizes_pixels(
  sizes, config, tmp_path
):
  config['data']['pixel_um'] = 0.0
  data = experiment.load_data(config, tmp_path / 'work')
  pixel = np.full(len(data.ids), PIXEL, np.float32)
  parts = experiment.assemble(
    config, data._replace(measures={**data.measures, 'pixel_um': pixel})
  )
  ours = parts.columns['measures'][data.splits['train']]
  assert measures.statistics(ours, size=True)['in_um']
  pixel[data.splits['train'][3]] = np.nan
  parts = experiment.assemble(
    config, data._replace(measures={**data.measures, 'pixel_um': pixel})
  )
  ours = parts.columns['measures'][data.splits['train']]
  wanted = [[*sizes[name]] for name in data.ids[data.splits['train']]]
  np.testing.assert_array_equal(ours[:, :2], np.float32(wanted))
  assert not measures.statistics(ours, size=True)['in_um']


def test_a_measure_that_no_image_has_is_named(sizes, config, tmp_path):
  config['encoder']['measures'] = ('object_area', 'height')
  data = experiment.load_data(config, tmp_path / 'work')
  with pytest.raises(
    InputError,
    match=r"'object_area' is known of no .* have height, pixel_um, w",
  ):
    experiment.assemble(config, data)
  config['encoder'] |= {'size': False, 'measures': ('width',)}
  parts = experiment.assemble(config, data)
  assert (parts.columns['measures'][:, 0] == data.measures['width']).all()
