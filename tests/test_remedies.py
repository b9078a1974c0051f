"""Spells out whole lines of what is wrong and what to do."""

import pathlib

import numpy as np
import pytest

from analysis import counts, neighbors
from analysis.files import command, folders, inputs, pile
from plankton_jax import curriculum, distances, objectives
from plankton_jax.data import classes, splits
from plankton_jax.data.drawn import plankton
from plankton_jax.data.ecotaxa import write
from plankton_jax.errors import InputError
from plankton_jax.files import encoder_folder, json_text
from plankton_jax.train import config_check

ROW = np.ones((1, 2), np.float32)
FILES = inputs.Source('files', {}, None, None)
RUN = FILES._replace(name='run', workdir=pathlib.Path('run'))
NONE = np.zeros(0, int)
EMPTY = inputs.Embeddings(ROW[:0], NONE, NONE.astype(str), ())


def _own_split(rare):
  return splits.take(
    np.zeros(3, int),
    np.arange(3, dtype=np.uint64),
    splits.NAMES,
    class_names=('a',),
    num_seen=1,
    rare=rare,
  )


@pytest.mark.parametrize(
  ('mistake', 'line'),
  [
    (
      lambda: curriculum.make(((1, 'easy', 'hard'),)),
      'curriculum: first epochs (1,) must start at 0 and rise',
    ),
    (
      lambda: objectives.triplet(margin=0.5, stages=((),)),
      'objective triplet needs a curriculum of stages',
    ),
    (
      lambda: objectives.class_weights('log', np.ones(2)),
      "objective.class_weights='log' is not one of ('none', 'inverse',"
      " 'sqrt_inverse', 'effective')",
    ),
    (
      lambda: distances.class_means(ROW, np.zeros(1, int), 1, metric='city'),
      "metric 'city' is unknown: use one of ('euclidean', 'squared', 'cosine',"
      " 'angular')",
    ),
    (
      lambda: classes.choose(('a', 'b'), 'a'),
      "data.classes must be a tuple of names: write ('a',)",
    ),
    (
      lambda: classes.order(('a', 'b', 'c'), 'a', 0),
      'data.unseen_classes must be a tuple of names or a count, not a string:'
      " write ('a',)",
    ),
    (
      lambda: classes.order(('a', 'b', 'c'), ('a', 'b'), 0),
      '1 of 3 classes (a, b, c) would be seen in training: at least two are'
      ' needed; add class folders or shorten data.unseen_classes',
    ),
    (
      lambda: config_check.unseen_classes(None),
      'data.unseen_classes=None must be a count, 0 for none, or a tuple of'
      ' class names',
    ),
    (
      lambda: plankton.source(0, 0),
      'data.per_class must be at least 1, not 0',
    ),
    (
      lambda: _own_split('other'),
      "data.own_split does not go with data.rare='other'; set it to 'gallery'"
      " or 'drop'",
    ),
    (
      lambda: write.encode(pathlib.Path('a.tsv'), []),
      'a.tsv: there is no row to write',
    ),
    (lambda: json_text.parse('[]'), 'of type list, not dict'),
    (
      lambda: encoder_folder._tree({'params/a': ROW, 'params/a/b': ROW}),
      "'params/a/b' lies within an array",
    ),
    (
      lambda: encoder_folder._tree({'params/a/b': ROW, 'params/a': ROW}),
      "'params/a' is both an array and a folder of arrays",
    ),
    (
      lambda: encoder_folder._tree({'params/encoder/a': ROW, 'more/a': ROW}),
      "no 'params/encoder/...' in it, or other arrays beside",
    ),
    (
      lambda: command.check_share('sure', 1.0),
      '--sure=1.0: give a share between 0 and 1',
    ),
    (
      lambda: counts.analyse([RUN], counts.Asked(None, draws=1)),
      '--draws=1: intervals need 2 draws or more',
    ),
    (
      lambda: neighbors.analyse([RUN], query='a', count=0),
      '--count=0: give 1 or more',
    ),
    (
      lambda: folders.encoder(FILES),
      'images are embedded by an encoder: give --workdir or --encoder=plankton'
      ' in place of --embeddings, or the images to predict as'
      ' --images=FILE.npz, of the same encoder',
    ),
    (
      lambda: pile.gather(FILES, images=None, splits=(), pixel_um=2.0),
      '--pixel_um is of new images: give --images=FOLDER too',
    ),
    (
      lambda: pile.gather(
        FILES._replace(encoder=pathlib.Path('x')), images=None, splits=()
      ),
      '--images is missing: the folder of images to sort',
    ),
    (
      lambda: pile.gather(
        RUN._replace(splits={'val': EMPTY}), images=None, splits=('new',)
      ),
      "run has no split 'new', only val; or give --images=FOLDER",
    ),
    (
      lambda: pile.gather(
        RUN._replace(splits={'val': EMPTY}), images=None, splits=('val',)
      ),
      'run: val hold no image; name another split in --pile',
    ),
  ],
)
def test_a_mistake_is_said_with_its_remedy(mistake, line):
  with pytest.raises(InputError) as error:
    mistake()
  assert str(error.value) == line
