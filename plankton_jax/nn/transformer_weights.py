"""Fits the published weights of vision transformers to ours.

Brings the names of several libraries to those of timm, joins what is apart, and
resizes learned positions to another number of patches.
"""

import re

import numpy as np

from plankton_jax.nn.backbone import Weights

# From the names of transformers and of DINOv3's authors to those of timm.
RENAMES = (
  (r'embeddings\.patch_embeddings\.(projection\.)?', 'patch_embed.proj.'),
  (r'embeddings\.position_embeddings$', 'pos_embed'),
  (r'embeddings\.(cls_token|mask_token|register_tokens)$', r'\1'),
  (r'(register|storage)_tokens$', 'reg_token'),
  (r'((encoder|model)\.)?layer\.(\d+)\.', r'blocks.\3.'),
  (r'attention\.(attention\.)?(q_proj|query)\.', 'attn.q.'),
  (r'attention\.(attention\.)?(k_proj|key)\.', 'attn.k.'),
  (r'attention\.(attention\.)?(v_proj|value)\.', 'attn.v.'),
  (r'attention\.(output\.dense|o_proj)\.', 'attn.proj.'),
  (r'layer_scale(\d)\.lambda1$', r'ls\1.gamma'),
  (r'gamma_(\d)$', r'ls\1.gamma'),
  (r'mlp\.up_proj\.', 'mlp.fc1.'),
  (r'mlp\.down_proj\.', 'mlp.fc2.'),
  (r'layernorm\.', 'norm.'),
)


def as_ours(weights: Weights) -> Weights:
  """Joins queries, keys and values, and parts positions from the class token.

  DINOv3's keys have no bias, and timm leaves out those that are zero; what is
  missing is 0 here.
  """
  found = dict(weights)
  for name in weights:
    if name.endswith('.bias_mask'):  # of DINOv3's authors: 0 for the keys
      bias, mask = name.removesuffix('_mask'), found.pop(name)
      if bias in found:
        found[bias] = np.where(mask == 0, 0, found[bias])
    elif match := re.fullmatch(r'(blocks\.\d+\.attn)\.q\.weight', name):
      _join(found, match[1])
    elif match := re.fullmatch(r'(blocks\.\d+\.attn)\.qkv\.weight', name):
      at, width = match[1], len(weights[name]) // 3
      parts = [
        found.pop(f'{at}.{part}_bias', np.zeros(width, np.float32))
        for part in 'qkv'
      ]
      found.setdefault(f'{at}.qkv.bias', np.concatenate(parts))
  positions, token = found.get('pos_embed'), found.get('cls_token')
  if positions is None or token is None or positions.ndim != 3:
    return found
  if round(positions.shape[1] ** 0.5) ** 2 != positions.shape[1]:
    found['cls_token'] = token + positions[:, :1]
    found['pos_embed'] = positions[:, 1:]
  return found


def _join(weights: Weights, at: str) -> None:
  """Replaces q, k and v of a block by one layer, in place."""
  for leaf in ('weight', 'bias'):
    parts = [weights.pop(f'{at}.{part}.{leaf}', None) for part in 'qkv']
    known = [part for part in parts if part is not None]
    if leaf == 'weight' and len(known) < len(parts):
      return  # the joined layer is then reported as missing
    if known:
      zeros = np.zeros_like(known[0])
      weights[f'{at}.qkv.{leaf}'] = np.concatenate(
        [zeros if part is None else part for part in parts]
      )


def fit_positions(
  name: str, array: np.ndarray, shape: tuple[int, ...], *, antialias: bool
) -> np.ndarray:
  """Resizes learned positions [1, T, D] to another number of patches.

  Leaves other arrays as they are, and patches that form no square.
  """
  if name != 'pos_embed' or array.ndim != 3 or array.shape == shape:
    return array
  old, new = (round(tokens**0.5) for tokens in (array.shape[1], shape[1]))
  if old**2 != array.shape[1] or new**2 != shape[1]:
    return array
  weights = cubic_weights(old, new, antialias=antialias)
  grid = array.reshape(old, old, -1).astype(np.float64)
  fitted = np.einsum('ai,bj,ijd->abd', weights, weights, grid, optimize=True)
  return fitted.reshape(1, new**2, -1).astype(np.float32)


def cubic_weights(old: int, new: int, *, antialias: bool) -> np.ndarray:
  """Computes the weights [new, old] of bicubic resampling, as PyTorch's.

  Keys 1981, doi:10.1109/TASSP.1981.1163711, equation 15 with a = -1/2 for
  `antialias`, where the kernel widens as the image shrinks and edges are left
  out; otherwise a = -3/4, and edges are repeated.
  """
  a = -0.5 if antialias else -0.75
  stretch = max(old / new, 1.0) if antialias else 1.0
  centres = (np.arange(new) + 0.5) * old / new - 0.5
  reach = int(np.ceil(2 * stretch)) + 1
  places = np.arange(-reach, old + reach)
  x = np.abs(places - centres[:, None]) / stretch
  near = (a + 2) * x**3 - (a + 3) * x**2 + 1
  far = a * (x**3 - 5 * x**2 + 8 * x - 4)
  taps = np.where(x < 1, near, np.where(x < 2, far, 0.0))
  if antialias:
    inside = taps[:, reach : reach + old]
    return inside / inside.sum(axis=1, keepdims=True)
  weights = np.zeros((new, old))
  np.add.at(weights.T, np.clip(places, 0, old - 1), taps.T)
  return weights
