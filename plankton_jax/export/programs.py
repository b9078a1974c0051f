"""Writes an encoder as a program that runs without this project.

JAX alone runs StableHLO; jax2onnx makes ONNX, as docs/export.md explains. Both
hold one function of arrays, without kernels of our own.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax import lax

from plankton_jax.encoder import Encoder
from plankton_jax.errors import InputError
from plankton_jax.files import atomic
from plankton_jax.files.config_file import Config
from plankton_jax.nn import encoders
from plankton_jax.train.step import make_embed_step

_TOLERANCE = 1e-5  # in any element of an embedding, whose length is 1
_CHECKED = 32  # images to compare on
_PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')  # of StableHLO


def embed_fn(encoder: Encoder) -> Callable[..., jax.Array]:
  """Returns a function of the `inputs` to unit-norm float32 [N, D].

  Convolutions are lax's own and computed in float32, whatever type the encoder
  was trained in: other runtimes lack our kernels.
  """
  fields = _in_float32(encoder.config)['encoder']
  model = encoders.make(
    **fields, convolution=lax.conv_general_dilated, adapted=False
  )
  step = make_embed_step(
    apply_fn=model.apply, normalise=model.backbone.normalise
  )
  variables = jax.tree.map(jnp.asarray, encoder.variables)
  return lambda *arrays: step(
    variables['params'], variables['batch_stats'], *arrays
  )


def inputs(encoder: Encoder) -> dict[str, jax.ShapeDtypeStruct]:
  """Describes the function's arguments, with a symbolic number N of images.

  These are images, uint8 [N, H, W, C], and, if the encoder takes any, measures,
  float32 [N, M], in the order of `encoder.takes`, NaN where unknown.
  """
  data = encoder.config['data']
  scope = jax.export.SymbolicScope()

  def spec(shape: str, dtype: Any) -> jax.ShapeDtypeStruct:
    dims = jax.export.symbolic_shape(shape, scope=scope)
    return jax.ShapeDtypeStruct(dims, dtype)

  size = f'{data["size"]}, {data["size"]}, {data["channels"]}'
  found = {'images': spec(f'n, {size}', jnp.uint8)}
  if encoder.takes:
    found['measures'] = spec(f'n, {len(encoder.takes)}', jnp.float32)
  return found


def check(encoder: Encoder, run: Callable[..., np.ndarray], what: str) -> float:
  """Measures the largest difference between `run` and the encoder.

  Args:
    encoder: the original.
    run: of the `inputs` to embeddings [N, D], by the exported model.
    what: the converter, for the error.

  Returns:
    The largest difference over all elements.

  Raises:
    InputError: the difference is too large.
  """
  reference = encoder.replace(config=_in_float32(encoder.config))
  rng = np.random.default_rng(0)
  shape = inputs(encoder)['images'].shape[1:]
  images = rng.integers(0, 256, (_CHECKED, *shape), np.uint8)
  images[1] = 0  # an image of nothing but background
  arrays, known = [images], {}
  if encoder.takes:
    measures = rng.uniform(1, 500, (_CHECKED, len(encoder.takes)))
    measures[rng.random(measures.shape) < 0.2] = np.nan
    measures[2] = np.nan
    arrays.append(measures.astype(np.float32))
    known = dict(zip(encoder.takes, measures.T, strict=True))
  want = reference.embed(images, measures=known)
  found = max(
    np.abs(run(*(x[:count] for x in arrays)) - want[:count]).max()
    for count in (1, _CHECKED)
  )
  if not found <= _TOLERANCE:
    raise InputError(
      f'the model that {what} made is {found:.1e} off the encoder; nothing was'
      ' written. Try another version of it'
    )
  return float(found)


def _in_float32(config: Config) -> Config:
  """Sets the type that the encoder computes in."""
  return config | {'encoder': config['encoder'] | {'dtype': 'float32'}}


def write_stablehlo(encoder: Encoder, path: pathlib.Path) -> float:
  """Writes a file for `jax.export.deserialize`.

  Returns:
    The largest difference from the encoder.

  Raises:
    InputError: the file does not embed as the encoder does.
  """
  function = jax.jit(embed_fn(encoder))
  exported = jax.export.export(function, platforms=_PLATFORMS)(
    *inputs(encoder).values()
  )
  blob = exported.serialize()
  call = jax.export.deserialize(blob).call
  found = check(encoder, lambda *x: np.asarray(call(*x)), 'jax.export')
  with atomic.file(path) as building:
    building.write_bytes(blob)
  return found


def write_onnx(encoder: Encoder, path: pathlib.Path) -> float:
  """Writes a model with the `inputs`, and the output `embeddings`.

  The file's properties hold as JSON the encoder's config and class names, the
  names of its measures, and the unit in which it takes sizes.

  Returns:
    The largest difference from the encoder, in onnxruntime on the CPU.

  Raises:
    InputError: the converter is not installed or lacks an operation, or its
      model does not embed as the encoder does.
  """
  try:
    import jax2onnx
    import onnx
    import onnxruntime
  except ImportError as error:
    raise InputError(
      f'--format=onnx takes {error.name}; install it with pip install'
      ' --requirement requirements-export.txt'
    ) from None
  specs = inputs(encoder)
  # Traced here: jax2onnx would replace Flax's layers by operators of its own,
  # and mix up their layouts.
  closed = jax.make_jaxpr(embed_fn(encoder))(*specs.values())
  try:
    model = jax2onnx.to_onnx(
      lambda *arrays: jax.extend.core.jaxpr_as_fun(closed)(*arrays)[0],
      list(specs.values()),
      model_name='plankton_jax',
      input_names=list(specs),
      output_names=['embeddings'],
    )
  except NotImplementedError as error:
    raise InputError(
      f'jax2onnx cannot convert this encoder ({error}); try another version of'
      ' it, or --format=stablehlo'
    ) from error
  onnx.helper.set_model_props(
    model,
    {
      'config': json.dumps(encoder.config),
      'class_names': json.dumps(encoder.class_names),
      'measures': json.dumps(encoder.takes),
      'size_unit': json.dumps(encoder.size_unit),
    },
  )
  onnx.checker.check_model(model, full_check=True)
  blob = model.SerializeToString()
  session = onnxruntime.InferenceSession(
    blob, providers=['CPUExecutionProvider']
  )

  def run(*arrays: np.ndarray) -> np.ndarray:
    given = dict(zip(specs, arrays, strict=True))
    return session.run(['embeddings'], given)[0]

  found = check(encoder, run, 'jax2onnx')
  with atomic.file(path) as building:
    building.write_bytes(blob)
  return found


WRITERS = {'stablehlo': write_stablehlo, 'onnx': write_onnx}  # by format
