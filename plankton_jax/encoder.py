"""Embeds images by a trained encoder."""

import functools
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from plankton_jax import objectives
from plankton_jax.errors import InputError
from plankton_jax.files import config_file, encoder_folder
from plankton_jax.files.config_file import Config
from plankton_jax.nn import encoders, lora, whitening
from plankton_jax.nn import measures as inputs
from plankton_jax.nn.embedding import MEASURES, Embedder
from plankton_jax.nn.whitening import WHITENING
from plankton_jax.train import sharding
from plankton_jax.train.state import INIT, init_encoder, make_key
from plankton_jax.train.step import make_embed_step

_VIEWS = 256  # images on a device at a time, each pose counted as one
_PIXELS = _VIEWS * 128**2  # on a device at a time: fewer of larger images


class Encoder:
  """A trained (or fresh) encoder and what it was trained with.

  Attributes:
    config: the run's config, a plain dict.
    class_names: the seen classes, in the order of `scores`.
    step: the checkpoint's step.
    takes: names of the measures that it takes beside images.
  """

  def __init__(
    self,
    params: dict[str, Any],
    batch_stats: dict[str, Any],
    config: Config,
    class_names: tuple[str, ...] | list[str],
    step: int,
  ) -> None:
    """Builds the network that the config names, around these arrays.

    Adapters are merged into the kernels: training alone needs them apart.

    Args:
      params: {'encoder': ..., 'objective': ...}.
      batch_stats: the encoder's.
      config: the run's.
      class_names: the seen classes.
      step: the checkpoint's.

    Raises:
      InputError: the config is of another version of plankton_jax, or the
        arrays are not those of its network.
    """
    self.config = config_file.complete(config)
    self.class_names = tuple(class_names)
    self.step = step
    model = config_file.build(encoders.make, config, 'encoder', adapted=False)
    alpha = self.config['encoder']['lora_alpha']
    merged = lora.merge(params['encoder'], alpha=alpha)
    self._params = {**params, 'encoder': merged}
    self._batch_stats = batch_stats
    _check_arrays(model, config['data'], self._params, batch_stats)
    self.takes = model.measures
    self._embed_step = make_embed_step(
      apply_fn=model.apply, normalise=model.backbone.normalise
    )

  @property
  def variables(self) -> dict[str, Any]:
    """Returns the arrays: `params` (encoder, objective) and `batch_stats`."""
    return {'params': self._params, 'batch_stats': self._batch_stats}

  def replace(self, **changes: Any) -> 'Encoder':
    """Builds an encoder that differs in these arguments of the constructor."""
    return Encoder(**self._arguments() | changes)

  def save(
    self, folder: pathlib.Path, *, card: str, half: bool = False
  ) -> None:
    """Writes a folder that `load_encoder` reads; see `encoder_folder.save`.

    Raises:
      InputError: the folder exists, or a value is too large for float16.
    """
    encoder_folder.save(folder, **self._arguments(), card=card, half=half)

  def _arguments(self) -> dict[str, Any]:
    return {
      **self.variables,
      'config': self.config,
      'class_names': self.class_names,
      'step': self.step,
    }

  @property
  def size_unit(self) -> str:
    """Returns 'px' or 'µm', in which it takes sizes; '' if it takes none."""
    if not self.config['encoder']['size']:
      return ''
    return 'µm' if self._batch_stats[MEASURES]['in_um'] else 'px'

  @functools.cached_property
  def _mesh(self) -> jax.sharding.Mesh | None:
    return sharding.make_local_mesh()

  @functools.cached_property
  def _placed(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Copies the encoder's own arrays to every device that embeds."""
    params = {'encoder': self._params['encoder']}
    return sharding.replicate(self._mesh, (params, self._batch_stats))

  def embed(
    self,
    images: np.ndarray,
    sizes: np.ndarray | None = None,
    *,
    measures: Mapping[str, np.ndarray] = types.MappingProxyType({}),
  ) -> np.ndarray:
    """Embeds uint8 [N, H, W, C] to unit-norm float32 [N, D].

    Every device of this process takes its share of each batch.

    Args:
      images: resized as those trained on.
      sizes: height and width before resizing [N, 2], px; NaN where unknown. Not
        used without `encoder.size`, which knows nothing of a size left out.
      measures: others by name [N], such as `pixel_um` for sizes in µm, or those
        of `encoder.measures`; or `height` and `width` in place of `sizes`. What
        the encoder does not take is not used, what is missing is unknown.

    Raises:
      InputError: the images differ in type or shape from those trained on, or
        there are not as many sizes or measures.
    """
    data = self.config['data']
    want = (data['size'], data['size'], data['channels'])
    if images.dtype != np.uint8 or images.shape[1:] != want:
      raise InputError(
        f'images are {images.dtype} {images.shape}; the encoder takes uint8'
        f' [N, {want[0]}, {want[1]}, {want[2]}]'
      )
    arrays = [images]
    if self.takes:
      arrays.append(self._inputs(len(images), sizes, measures))
    dim = self.config['encoder']['embedding_dim']
    out = np.empty((len(images), dim), np.float32)
    devices = 1 if self._mesh is None else self._mesh.size
    views = min(_VIEWS, _PIXELS // data['size'] ** 2)
    size = devices * max(1, views // self.config['encoder']['poses'])
    starts = range(0, len(images), size)
    for start in tqdm.tqdm(starts, 'embed', disable=len(starts) < 20):
      count = min(size, len(images) - start)
      batch = sharding.split(
        self._mesh, [_padded(x[start : start + count], size) for x in arrays]
      )
      embedded = np.asarray(self._embed_step(*self._placed, *batch))
      out[start : start + count] = embedded[:count]
    return out

  def _inputs(
    self,
    count: int,
    sizes: np.ndarray | None,
    measures: Mapping[str, np.ndarray],
  ) -> np.ndarray:
    """Collects the measures [N, M] that the network takes."""
    if sizes is not None:
      if np.shape(sizes) != (count, 2):
        raise InputError(
          f'sizes are {np.shape(sizes)}; {count} images take [{count}, 2],'
          ' height and width'
        )
      height, width = np.asarray(sizes).T
      measures = {**measures, 'height': height, 'width': width}
    for name in self.takes:
      if name in measures and np.shape(measures[name]) != (count,):
        raise InputError(
          f'the measure {name!r} is {np.shape(measures[name])}; {count} images'
          f' take [{count}]'
        )
    return inputs.matrix(self.takes, measures, count)

  def scores(self, embeddings: np.ndarray) -> np.ndarray | None:
    """Computes logits without margin [N, D] -> [N, seen]; None if headless."""
    if not self._params['objective']:
      return None
    if WHITENING in self._batch_stats:  # prototypes are in the space before it
      matrix = np.asarray(self._batch_stats[WHITENING]['matrix'])
      embeddings = whitening.invert(matrix, embeddings)
    cosines = objectives.cosines(
      self._params['objective'], jnp.asarray(embeddings)
    )
    return self.config['objective']['scale'] * np.asarray(cosines)


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
  """Appends rows of zeros up to a count."""
  padding = [(0, count - len(rows))] + [(0, 0)] * (rows.ndim - 1)
  return np.pad(np.asarray(rows), padding)


def _check_arrays(
  model: Embedder,
  data: Config,
  params: dict[str, Any],
  batch_stats: dict[str, Any],
) -> None:
  """Compares arrays with those that the network would begin with.

  Raises:
    InputError: one is missing, superfluous, or of another shape.
  """
  fresh = jax.eval_shape(
    functools.partial(
      init_encoder,
      encoder=model,
      image_shape=(data['size'], data['size'], data['channels']),
    ),
    make_key(0, INIT),
  )
  want = _shapes(fresh['params'], fresh['batch_stats'])
  found = _shapes(params['encoder'], batch_stats)
  wrong = [
    f'{name} is {found.get(name, "missing")}, not {want.get(name, "expected")}'
    for name in sorted(want.keys() | found.keys())
    if want.get(name) != found.get(name)
  ]
  if wrong:
    more = f' and {len(wrong) - 1} more' if wrong[1:] else ''
    raise InputError(
      f'the arrays do not fit the config: {wrong[0]}{more}; they are damaged or'
      ' of another run: export or train again'
    )


def _shapes(params: Any, batch_stats: Any) -> dict[str, tuple[int, ...]]:
  """Lists the shape of every array by its path."""
  flat = flax.traverse_util.flatten_dict(
    {'params': params, 'batch_stats': batch_stats}, sep='/'
  )
  return {path: np.shape(array) for path, array in flat.items()}
