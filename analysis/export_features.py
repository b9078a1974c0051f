"""Exports embeddings for MorphoCluster, whole and as 50 components.

`python -m analysis.export_features --workdir=DIR` writes features.h5 and
features_pca50.h5 to DIR/analysis: datasets `object_id` [N] and `features`
[N, D] (float32) over all splits. `--embeddings=FILE.npz` does so for files that
analysis.embed wrote of images without labels. MorphoCluster's `load-features`
takes 100 dimensions at most, which the second file is for.
"""

import functools
import pathlib
from collections.abc import Sequence

import h5py
import numpy as np

from analysis.files import command, inputs
from analysis.files.inputs import Source
from analysis.files.result import Result
from plankton_jax.data.ecotaxa import read
from plankton_jax.errors import InputError

COMPONENTS = 50


def collect(source: Source) -> tuple[np.ndarray, np.ndarray]:
  """Collects ids [N] (str) and embeddings [N, D] of all splits.

  Turns ids of an EcoTaxa export back into EcoTaxa's own.

  Raises:
    InputError: two images share an id, or splits differ in dimensions.
  """
  every = inputs.together(source.name, source.splits)
  ids = every.id.astype(str)
  config = source.config or {}
  if config.get('data', {}).get('source') == 'ecotaxa':
    ids = np.array([read.object_id(id) for id in ids])
  names, counts = np.unique(ids, return_counts=True)
  if (counts > 1).any():
    double = str(names[counts > 1][0])
    raise InputError(
      f'{source.name}: several images have the id {double!r}; MorphoCluster'
      ' needs one an object'
    )
  return ids, every.embedding.astype(np.float32)


def write(ids: np.ndarray, features: np.ndarray, path: pathlib.Path) -> None:
  """Writes object_id [N] as UTF-8 strings and features [N, D] as float32."""
  with h5py.File(path, 'w') as file:
    text = h5py.string_dtype('utf-8')
    file.create_dataset('object_id', data=ids.astype(object), dtype=text)
    file.create_dataset('features', data=features, dtype='float32')


def analyse(sources: Sequence[Source]) -> Result:
  """Collects the features of one run, and their principal components.

  Raises:
    InputError: there are several runs, two images share an id, or splits
      differ in dimensions.
  """
  ids, features = collect(command.one_source(sources, 'export_features'))
  count = min(COMPONENTS, *features.shape)
  from sklearn.decomposition import PCA

  pca = PCA(count, svd_solver='full').fit(features.astype(np.float64))
  kept = float(pca.explained_variance_ratio_.sum())
  values = {
    'objects': len(ids),
    'dimensions': features.shape[1],
    'components': count,
    'variance_kept': kept,
  }
  written = {
    'features.h5': features,
    f'features_pca{COMPONENTS}.h5': pca.transform(features),
  }
  return Result(
    [f'{count} principal components keep {kept:.2%} of the variance'],
    values={'features.json': values},
    files={
      name: functools.partial(write, ids, x) for name, x in written.items()
    },
    announced={
      name: f': {len(ids):,} objects, {x.shape[1]} dimensions'
      for name, x in written.items()
    },
  )


if __name__ == '__main__':
  command.run('export_features', analyse)
