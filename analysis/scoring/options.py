"""The options of all analyses together, for those who call them in Python; a test holds them to the declarations."""

from __future__ import annotations

from typing import Literal, TypedDict


class AnalysisOptions(TypedDict, total=False):
    """What an analysis may be given; each takes some of it, as ``losslake analyze NAME --help`` says."""

    first: int
    last: int | None
    source: Literal["auto", "eval", "train"]
    low: float
    high: float
    duals: bool
    mask: str | None
    without: tuple[str, ...]
    signal: Literal["loss", "grad_norm", "margin", "probability", "error", "held-loss"]
    aggregate: Literal[
        "iqr",
        "mean",
        "std",
        "final",
        "max",
        "delta",
        "ratio",
        "slope",
        "l1",
        "l2",
        "l3",
        "l4",
        "linf",
        "first-below",
        "first-half-minus-final",
        "early-minus-final",
        "forgets",
    ]
    mode: Literal["online", "offline"]
    variance: Literal["auto", "bayes", "sample", "pooled"]
    center: Literal["mean", "median"]
    queries: Literal["mean", "gaussian", "original"]
    a: float | None
    rank: Literal["log-ratio", "share"]
    gamma: float | None
    trim_low: float
    trim_high: float
    ranges: Literal["all", "crop", "flip-crop", "noise", "impute"]
    epochs: int
    features: Literal["auto", "phi", "margin", "both"]
    regression: Literal["linear", "quantile"]
    quantile: float
    fraction: float
    seed: int
    loss: Literal["cross-entropy", "probability", "normalised"]
    reference: Literal["all", "class"]
    alpha: tuple[float, ...]
    interpolate: bool
    rows: int
    tau: Literal["both", "out"]
    k: float
    plus_plus: bool
    group: str
    of: Literal["correct", "probability"]
    on: Literal["population", "audit"]
    top: int
    detector: Literal["msp", "energy"]
    temperature: float
    clusters: int
    components: int
    among: str | None
    neighbours: int
    attack: str
    at_fpr: float
    targets: int | None
    over: Literal["fleet", "duals"]
