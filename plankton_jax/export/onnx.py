"""Writes an encoder as ONNX by jax2onnx; docs/export.md explains why."""

import json
import pathlib

import jax
import jax.extend
import numpy as np

from plankton_jax.encoder import Encoder
from plankton_jax.errors import InputError
from plankton_jax.export import plain
from plankton_jax.files import atomic


def write(encoder: Encoder, path: pathlib.Path) -> float:
  """Writes a model with the `plain.inputs`, and the output `embeddings`.

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
  inputs = plain.inputs(encoder)
  # Traced here: jax2onnx would replace Flax's layers by operators of its own,
  # and mix up their layouts.
  closed = jax.make_jaxpr(plain.embed_fn(encoder))(*inputs.values())
  try:
    model = jax2onnx.to_onnx(
      lambda *arrays: jax.extend.core.jaxpr_as_fun(closed)(*arrays)[0],
      list(inputs.values()),
      model_name='plankton_jax',
      input_names=list(inputs),
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
    given = dict(zip(inputs, arrays, strict=True))
    return session.run(['embeddings'], given)[0]

  found = plain.check(encoder, run, 'jax2onnx')
  with atomic.file(path) as building:
    building.write_bytes(blob)
  return found
