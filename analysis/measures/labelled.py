"""What a labeller is made of: train images, examples, validation images."""

import numpy as np

from analysis import audit
from analysis.files import inputs
from analysis.files.inputs import Embeddings, Source
from analysis.files.unlabelled import Embedded
from plankton_jax.errors import InputError


def gallery(
  source: Source, examples: Embedded | None
) -> tuple[Embeddings, np.ndarray]:
  """Train rows, then examples; those of a train class's name join it.

  Labels count the classes that are there, in order of their names; ids of
  examples begin with their folder's name. Also which rows are examples.

  Raises:
    InputError: there are no labelled train images.
  """
  train = inputs.labelled(source, 'train', 'predict')
  if train is None:
    raise InputError(f'{source.name}: no labelled train images to predict from')
  splits = {'train': train}
  if examples:
    ids = np.array([example_id(examples, key) for key in examples.rows.id])
    splits['examples'] = examples.rows._replace(id=ids)
  every = audit.together(source.name, splits)
  names, label = np.unique(every.name.astype(str), return_inverse=True)
  rows = Embeddings(
    every.embedding,
    label.astype(np.int32),
    every.id.astype(str),
    tuple(names.tolist()),
  )
  return rows, np.flatnonzero(every.split == 'examples')


def example_id(examples: Embedded, key: str) -> str:
  """An example's path from the folder above all examples."""
  return f'{examples.root.resolve().name}/{key}'


def split(
  source: Source, name: str, names: tuple[str, ...]
) -> Embeddings | None:
  """A split's rows of the classes `names`, their labels indices into it.

  None without any.
  """
  rows = inputs.labelled(source, name, 'predict')
  if rows is None:
    return None
  index = {name: i for i, name in enumerate(names)}
  label = np.array([index.get(name, -1) for name in rows.class_names])
  label = label.astype(np.int32)[rows.label]
  keep = label >= 0
  if not keep.any():
    return None
  return Embeddings(rows.embedding[keep], label[keep], rows.id[keep], names)
