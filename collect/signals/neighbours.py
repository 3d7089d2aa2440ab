"""Drawing neighbours of records: shifts, noise, imputed features, by random numbers that are the same everywhere.

A number is a hash of what it is for (query, sample, feature), in integer arithmetic. No generator has a state that
batches, processes or versions of a library could move on, and a GPU computes the same bits as a CPU.
"""

from __future__ import annotations

import functools

import torch

from ..data.device_data import cut_windows

_SEED = 0x10551A4E
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
"""The constants of SplitMix64 (Steele, Lea and Flood 2014) as signed integers."""

_WHICH_FEATURES = 0
"""The stream that decides which features are imputed; streams of views are their query numbers."""

_LEVELS = 1 << 16


def _mixed(state: torch.Tensor) -> torch.Tensor:
    """The hash of each int64, in place."""
    # Shifts of signed integers copy the sign; the masks let zeros in.
    state ^= (state >> 30) & ((1 << 34) - 1)
    state *= _FIRST
    state ^= (state >> 27) & ((1 << 37) - 1)
    state *= _SECOND
    state ^= (state >> 31) & ((1 << 33) - 1)
    return state


def _draws(stream: int, ids: torch.Tensor, width: int) -> torch.Tensor:
    """Random int64 (B, width), all 64 bits, of the samples ``ids`` (B,)."""
    steps = torch.arange(1, width + 1, device=ids.device) * _STEP
    own = _mixed(ids * _STEP + (_SEED + (stream << 32)))
    return _mixed(own[:, None] + steps)


def _below(bound: int, draws: torch.Tensor) -> torch.Tensor:
    """Draws as whole numbers from 0 to bound - 1."""
    return ((draws >> 1) & ((1 << 62) - 1)) % bound


def shifted(x: torch.Tensor, pixels: int, stream: int, ids: torch.Tensor) -> torch.Tensor:
    """Pictures (B, C, H, W) moved by up to ``pixels`` down and across, zeros moving in; each is moved at least by one."""
    width = 2 * pixels + 1
    place = _below(width * width - 1, _draws(stream, ids, 1)[:, 0])
    place += place >= (width * width) // 2  # the middle is no shift
    return cut_windows(x, place // width, place % width, pixels)


def gaussian(like: torch.Tensor, stream: int, ids: torch.Tensor) -> torch.Tensor:
    """Standard normal numbers of the shape of ``like`` (B, ...), float32: one of 65,536 quantiles each, within 4.3."""
    size = like[0].numel() if len(like) else 1
    draws = _draws(stream, ids, -(-size // 4))
    levels = torch.stack([(draws >> shift) & (_LEVELS - 1) for shift in (0, 16, 32, 48)], dim=2)
    return _quantiles(like.device)[levels.flatten(1)[:, :size]].reshape(like.shape)


@functools.cache
def _quantiles(device: torch.device) -> torch.Tensor:
    """Of the standard normal, from a table made on the CPU: logarithms and roots differ from device to device."""
    at = (torch.arange(_LEVELS, dtype=torch.float64) + 0.5) / _LEVELS
    levels = torch.special.ndtri(at)
    return (levels / levels.square().mean().sqrt()).float().to(device)


def imputed(
    x: torch.Tensor,
    everything: torch.Tensor,
    donors: torch.Tensor,
    share: float,
    stream: int,
    ids: torch.Tensor,
) -> torch.Tensor:
    """Rows (B, F) with a share of their features, one at least, from rows ``donors`` of ``everything`` (N, F).

    Which features is a matter of the sample alone: its range is what agrees with it on the others. Each value comes
    from a donor of its own, so that columns follow their marginals, independent of one another.
    """
    features = x.shape[1]
    count = max(1, min(round(share * features), features - 1))
    order = _draws(_WHICH_FEATURES, ids, features)
    chosen = order <= order.kthvalue(count, dim=1, keepdim=True).values
    rows = donors[_below(len(donors), _draws(stream, ids, features))]
    return torch.where(chosen, everything[rows, torch.arange(features, device=x.device)], x)
