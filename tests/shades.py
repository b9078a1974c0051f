"""An encoder that knows images by their grey level, and images for it."""

import json

import numpy as np
from PIL import Image

from analysis.figures import reliability
from analysis.figures.style import plt
from analysis.files import folders, originals
from analysis.files.inputs import Embeddings, Source
from plankton_jax.files import config_file
from tests.analysis_runs import save

SIZE = 8
LEVELS = {'dark': 30, 'light': 220, 'middle': 125}  # as classes are sorted


def embed(images: np.ndarray) -> np.ndarray:
  """Unit rows on a quarter circle: black is (1, 0), white (0, 1)."""
  grey = images.reshape(len(images), -1).mean(axis=1, dtype=np.float64)
  angle = grey / 255 * np.pi / 2
  return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


class Encoder:
  """Stands in for the result of `load_encoder` on new images."""

  def __init__(self, channels=1):
    self.config = {
      'data': {
        'size': SIZE,
        'resize': 'pad',
        'channels': channels,
        **config_file.ADDED['data'],
      },
      'encoder': {'embedding_dim': 2},
    }
    self.class_names = ('dark', 'light')
    self.step = 7
    self.variables = {}
    self.size_unit = ''

  def embed(self, images, sizes=None, *, measures=None) -> np.ndarray:
    assert images.dtype == np.uint8 and images.shape[1:3] == (SIZE, SIZE)
    return embed(images)


def stand_in(monkeypatch) -> None:
  """Puts grey levels, pictures of one shade and a quick figure in place."""
  monkeypatch.setattr(
    reliability, 'draw', lambda ways: plt.figure(figsize=(1, 1))
  )
  real = folders.encoder  # refuses a source that has none
  load = lambda of: Encoder() if of.workdir or of.encoder else real(of)
  monkeypatch.setattr(folders, 'encoder', load)
  monkeypatch.setattr(
    originals,
    'reader',
    lambda source: lambda key: np.full((5, 9), 90, np.uint8),
  )


def grey(*levels: int) -> np.ndarray:
  """Images of one grey level each, uint8 [N, SIZE, SIZE, 1]."""
  shape = (len(levels), SIZE, SIZE, 1)
  levels = np.array(levels, np.uint8)
  return np.broadcast_to(levels[:, None, None, None], shape)


def rows(split: str, each: int, names=tuple(LEVELS), seed=0) -> Embeddings:
  """`each` images of every class, within 12 levels of its own."""
  rng = np.random.default_rng(seed)
  label = np.repeat(np.arange(len(names)), each).astype(np.int32)
  level = np.array([LEVELS[name] for name in names])[label]
  level = level + rng.integers(-12, 13, len(label))
  ids = np.array([f'{names[c]}/{split}{i}.png' for i, c in enumerate(label)])
  return Embeddings(embed(grey(*level)), label, ids, names)


def run(workdir, names=('dark', 'light'), val=20) -> Source:
  """A workdir with embeddings of classes, `val` validation images of each."""
  splits = {
    'train': rows('train', 15, names, seed=1),
    'val': rows('val', val, names, seed=2),
    'test': rows('test', 20, names, seed=3),
  }
  config = {'citation': 'Someone 2015', 'seed': 0, 'data': {}}
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / 'config.json').write_text(json.dumps(config))
  for split, found in splits.items():
    save(workdir / 'embeddings' / f'{split}.npz', found)
  return Source('run', splits, workdir, config)


def write(path, level, *, shape=(6, 9)):
  """An image file of one level, or of one colour."""
  path.parent.mkdir(parents=True, exist_ok=True)
  colour = (*shape, 3) if np.ndim(level) else shape
  Image.fromarray(np.full(colour, level, np.uint8)).save(path)
