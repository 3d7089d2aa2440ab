"""Queries: deterministic views of a sample at inference, the same for every model, process and device.

A random number in them is a hash of what it is for (query, sample, feature), in integer arithmetic. No generator has a
state that batches, processes or versions of a library could move on, and a GPU computes the same bits as a CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...store.errors import InvalidOption
from ...store.format.ranges import RANGE_FORMS, RANGE_KINDS, Range, parse_range
from ...store.format.schema import ORIGINAL
from ..callables import unknown_choice
from ..data.training import DeviceData, cut_windows

PLAIN = {"original": ORIGINAL, "flip": 1}
"""Name of a plain view to the number that the lake stores. A number never changes its meaning."""

FOR_PICTURES = ("flip", "crop", "flip-crop")
_FOR_ROWS = ("impute",)

_SEED = 0x10551A4E
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
"""The constants of SplitMix64 (Steele, Lea and Flood 2014) as signed integers."""

_WHICH_FEATURES = 0
"""The stream that decides which features are imputed; streams of views are their query numbers."""

_LEVELS = 1 << 16


@dataclass(frozen=True)
class Query:
    """One view. ``number`` is what the lake stores; ``amount`` is a range's pixels, sigma or share."""

    kind: str
    number: int
    amount: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether it shows the record itself rather than a neighbour of it."""
        return self.kind in PLAIN


AS_IT_IS = Query("original", ORIGINAL)


def parse_queries(text: str | Sequence[str] | None, *, pictures: bool) -> tuple[str, ...]:
    """Query specs in canonical form, in the order of their numbers, from a list or from text such as "original,flip".

    original          the record as it is
    flip              mirrored left to right
    crop:N:PIXELS     N shifts of up to so many pixels, zeros moving in as when training; never no shift at all
    flip-crop:N:...   the same of the mirrored picture
    noise:N:SIGMA     N points of a Gaussian around the record, SIGMA standard deviations of each feature or channel
                      wide; pictures are not clipped to black and white
    impute:N:SHARE    N times a share of the features, always the same ones of a record, drawn anew, each from the
                      values that its column has over the population, or over all samples where there is none

    PIXELS, SIGMA and SHARE may be left out (4, 0.1, 0.2). None means all plain views that fit: original and flip for
    pictures, else original. Raises InvalidOption for a name that does not exist, for none at all, for a view that does
    not fit the data, and for ranges without the record as it is.
    """
    if text is None:
        return tuple(PLAIN) if pictures else ("original",)
    given = [part.strip() for part in text.split(",")] if isinstance(text, str) else list(text)
    ranges: dict[str, Range] = {}
    plain = set()
    for spec in given:
        name = spec.partition(":")[0]
        if spec not in PLAIN and name not in RANGE_KINDS:
            raise unknown_choice("query", spec, [*PLAIN, *RANGE_FORMS])
        if name in (_FOR_ROWS if pictures else FOR_PICTURES):
            raise InvalidOption(
                f"query {name!r} is for rows of features that losslake trains on itself: use 'crop:8' or 'noise:8'"
                if pictures
                else f"query {name!r} is for pictures; these records are rows of features: use 'original' or 'noise:8'"
            )
        if spec in PLAIN:
            plain.add(spec)
            continue
        drawn = parse_range(spec)
        if ranges.setdefault(drawn.kind, drawn) != drawn:
            raise InvalidOption(f"queries {ranges[drawn.kind]} and {drawn} have the same numbers; give one")
    if not given:
        raise InvalidOption(f"no query given; valid: {', '.join((*PLAIN, *RANGE_FORMS))}")
    if ranges and "original" not in plain:
        raise InvalidOption("range queries lie around the record as it is: ask for 'original' too")
    ordered = sorted(ranges.values(), key=lambda drawn: drawn.queries.start)
    return (*sorted(plain, key=PLAIN.__getitem__), *map(str, ordered))


def expand_queries(specs: Sequence[str]) -> tuple[Query, ...]:
    """Every single view that canonical specs ask for, in the order of their numbers."""
    found = []
    for spec in specs:
        if spec in PLAIN:
            found.append(Query(spec, PLAIN[spec]))
            continue
        drawn = parse_range(spec)
        found += [Query(drawn.kind, number, drawn.amount) for number in drawn.queries]
    return tuple(sorted(found, key=lambda query: query.number))


def view(x: torch.Tensor, query: Query, ids: torch.Tensor) -> torch.Tensor:
    """The batch x of the samples ``ids`` (B,) mirrored and shifted, (B, C, H, W), as far as the query says so."""
    if query.kind in ("flip", "flip-crop"):
        x = x.flip(3)
    if query.kind in ("crop", "flip-crop"):
        x = shifted(x, int(query.amount), query.number, ids)
    return x


def noisy(
    inputs: torch.Tensor, query: Query, ids: torch.Tensor, spread: torch.Tensor | float = 1.0
) -> torch.Tensor:
    """What a model takes, (B, ...), with the noise of a noise query; itself for any other.

    ``spread`` is one standard deviation of each feature or channel there.
    """
    if query.kind != "noise":
        return inputs
    return inputs + query.amount * spread * gaussian(inputs, query.number, ids)


def model_inputs(held: DeviceData, x: torch.Tensor, query: Query, ids: torch.Tensor) -> torch.Tensor:
    """What a model takes for a query about the stored records x (B, ...), which are the samples ``ids`` (B,)."""
    if query.kind == "impute":
        x = imputed(x, held.x, held.donors, query.amount, query.number, ids)
    return noisy(held.inputs(view(x, query, ids)), query, ids, held.spread)


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


@functools.cache
def _quantiles(device: torch.device) -> torch.Tensor:
    """Of the standard normal, from a table made on the CPU: logarithms and roots differ from device to device."""
    at = (torch.arange(_LEVELS, dtype=torch.float64) + 0.5) / _LEVELS
    levels = torch.special.ndtri(at)
    return (levels / levels.square().mean().sqrt()).float().to(device)


def _draws(stream: int, ids: torch.Tensor, width: int) -> torch.Tensor:
    """Random int64 (B, width), all 64 bits, of the samples ``ids`` (B,)."""
    steps = torch.arange(1, width + 1, device=ids.device) * _STEP
    own = _mixed(ids * _STEP + (_SEED + (stream << 32)))
    return _mixed(own[:, None] + steps)


def _mixed(state: torch.Tensor) -> torch.Tensor:
    """The hash of each int64, in place."""
    # Shifts of signed integers copy the sign; the masks let zeros in.
    state ^= (state >> 30) & ((1 << 34) - 1)
    state *= _FIRST
    state ^= (state >> 27) & ((1 << 37) - 1)
    state *= _SECOND
    state ^= (state >> 31) & ((1 << 33) - 1)
    return state


def _below(bound: int, draws: torch.Tensor) -> torch.Tensor:
    """Draws as whole numbers from 0 to bound - 1."""
    return ((draws >> 1) & ((1 << 62) - 1)) % bound
