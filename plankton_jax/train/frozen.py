"""Parts what a run trains from what stays as it began.

Steps differentiate, and optimisers keep state for, the trained part alone: a
frozen body costs neither a gradient nor moments.
"""

from typing import Any

import flax.traverse_util

from plankton_jax.nn import lora
from plankton_jax.nn.backbone import Backbone
from plankton_jax.nn.embedding import stage_of


def split(
  params: dict[str, Any], backbone: Backbone
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Parts a state's parameters by the stages that `backbone` freezes.

  Adapters are trained in every stage.

  Args:
    params: {'encoder': ..., 'objective': ...}.
    backbone: the encoder's, which declares its stages.

  Returns:
    The parameters with the encoder's trained arrays alone, and its frozen ones.
  """
  parts: tuple[dict, dict] = {}, {}
  for path, array in flax.traverse_util.flatten_dict(params['encoder']).items():
    frozen_stage = stage_of(backbone, path[0]) <= backbone.freeze
    parts[frozen_stage and not lora.is_adapter(path)][path] = array
  trained, frozen = map(flax.traverse_util.unflatten_dict, parts)
  return {**params, 'encoder': trained}, frozen


def join(trained: dict[str, Any], frozen: dict[str, Any]) -> dict[str, Any]:
  """Puts the encoder's parts together again."""
  flatten = flax.traverse_util.flatten_dict
  return flax.traverse_util.unflatten_dict(flatten(trained) | flatten(frozen))
