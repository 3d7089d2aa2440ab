"""The page and the picture of what `science.py` measured: means over targets with their intervals, and what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from losslake.analysis.charts.style import BLUE, GREEN, GREY, PURPLE, VERMILION, theme
from scipy.stats import t as student

Cell = Mapping[str, Any]
Key = tuple[str, str, int]
Floats = npt.NDArray[np.float64]

INK = "#7d8590"
"""Read on light and on dark pages alike."""

FULL, DASHED = [1, 0], [5, 3]
DRAWN = {
    "loss": (PURPLE, FULL),
    "residual": (GREY, FULL),
    "lira": (BLUE, FULL),
    "lira[mode=offline]": (BLUE, DASHED),
    "rmia": (VERMILION, FULL),
    "rmia[mode=offline]": (VERMILION, DASHED),
    "calibrated[tau=out]": (GREEN, DASHED),
}
"""The attacks of the picture: a colour for each kind, dashed where it looks only at models without the record."""
MEASURES = {
    "tpr_at_fpr@0.001": "TPR at an FPR of 0.1%",
    "tpr_at_fpr@0.01": "TPR at an FPR of 1%",
    "auc": "AUC",
}
LEAST = 3
"""Targets from which on an interval is given."""


def write_page(page: Path, cells: Sequence[Cell], titles: Mapping[str, str], most: int, wanted: int) -> None:
    """Write the page to ``page``, and the picture into the folder pictures beside it.

    ``most`` is the greatest number of shadow models, ``wanted`` how many cells a data set has when all is done.
    """
    values = by_key(cells)
    there = [name for name in titles if any(key[0] == name for key in values)]
    lines = [
        "# What each shadow model buys",
        "",
        *opening(cells, values, there, titles, most, wanted),
    ]
    if there:
        picture = page.parent / "pictures" / "shadow-models.svg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        if draw(values, there, titles, picture):
            lines += [f"![TPR against the number of shadow models](pictures/{picture.name})", ""]
        lines += [*against_default(values, there, titles), *free_table(values, there, titles)]
        for measure, words in MEASURES.items():
            lines += [f"## {words}", ""]
            for name in there:
                lines += table(values, name, titles[name], measure)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines).rstrip() + "\n")


def by_key(cells: Iterable[Cell]) -> dict[Key, dict[int, Cell]]:
    """The cells that have figures: by data set, score and number of shadow models, then by target."""
    found: dict[Key, dict[int, Cell]] = {}
    for cell in cells:
        if "failed" not in cell:
            found.setdefault((cell["data"], cell["score"], cell["shadows"]), {})[cell["target"]] = cell
    return found


def opening(
    cells: Sequence[Cell],
    values: Mapping[Key, Mapping[int, Cell]],
    there: Sequence[str],
    titles: Mapping[str, str],
    most: int,
    wanted: int,
) -> list[str]:
    """What a reader should take home, how it was measured, and what is missing."""
    counts = {
        name: (
            len({cell["target"] for cell in cells if cell["data"] == name}),
            sum(cell["data"] == name for cell in cells),
        )
        for name in titles
    }
    said = ", ".join(
        f"{titles[name]} ({targets} targets)" for name, (targets, _) in counts.items() if targets
    )
    missing = [
        f"{titles[name]} {wanted - done:,} of {wanted:,}"
        for name, (_, done) in counts.items()
        if done < wanted
    ]
    return [
        *(f"**{line}**" for line in take_home(values, there, most)),
        "",
        "An attack claims of records that the target was trained on them. Its TPR at an FPR of 1% is the share of the training records that it",
        "names while it wrongly accuses 1 of 100 others. [LiRA](analyses/lira.md) and most attacks compare the target with shadow models, trained",
        "alike on halves of the data; the others need the target alone. [analyses/](analyses/README.md) says of each what it computes.",
        "",
        f"Measured on {said or 'nothing yet'}.",
        "MLPs of 256 and 128 trained for 25 epochs by `losslake collect shadows`, a coin a model and record, on 4,000 records with a",
        f"population of 400 (digits: 1,611 and 179). {most + 1} models; one after the other is the target, and the 1, 2, 4, ... after it are its shadow models.",
        "A column is headed by the number of shadow models, which is what it costs; scores under 0 are free. A figure is the mean over the targets,",
        "± half of its 95% t interval. That holds for these records and this recipe alone: the targets are each other's shadow models, so they are",
        "not independent. A record without a score is never claimed; records that tie are claimed together or not at all, which leaves attacks that",
        "rank by a share of few models (`attack-r`) nothing at a low FPR.",
        "Made by `python benchmarks/science.py FOLDER`, two hours on two cores, which goes on where it stopped.",
        "",
        f"A cell is one score of one target at one number of shadow models. Cells that are missing: {'; '.join(missing) if missing else 'none'}.",
        "",
    ]


def take_home(values: Mapping[Key, Mapping[int, Cell]], there: Sequence[str], most: int) -> list[str]:
    """One sentence of the figures: how much of what the default attack finds with most shadow models is found with few."""
    measure = "tpr_at_fpr@0.01"
    parts = []
    for shadows, score, words in (
        (0, "loss", "the loss attack, which needs none, finds"),
        (0, "residual", "the residual attack, which needs none either,"),
        (1, "lira[mode=offline]", "LiRA offline with one shadow model"),
        (4, "lira", "LiRA with four"),
        (16, "lira", "LiRA with sixteen"),
    ):
        shares = []
        for name in there:
            few, many = (
                mean_of(values, (name, score, shadows), measure),
                mean_of(values, (name, "lira", most), measure),
            )
            if few is not None and many:
                shares.append(few / many)
        if shares and shadows < most:
            low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
            parts.append(f"{words} {low}" + (f" to {high}" if low != high else ""))
    if not parts:
        return []
    said = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    return [f"Of what LiRA finds at an FPR of 1% with {most} shadow models, {said}, depending on the data."]


def mean_of(values: Mapping[Key, Mapping[int, Cell]], key: Key, measure: str) -> float | None:
    """The mean over targets, None where it is not known."""
    known = figures(values, key, measure)
    return float(known.mean()) if len(known) else None


def figures(values: Mapping[Key, Mapping[int, Cell]], key: Key, measure: str) -> Floats:
    """A measure of each target that has it."""
    of = values.get(key, {})
    return np.array([of[target][measure] for target in sorted(of) if of[target].get(measure) is not None])


def told(known: Floats, *, signed: bool = False) -> str:
    """A mean with half of its interval."""
    if len(known) == 0:
        return "–"
    mean = f"{known.mean():+.3f}" if signed else f"{known.mean():.3f}"
    mean = mean.replace("0.", ".", 1)
    if len(known) < LEAST:
        return mean
    return f"{mean} ± {half_interval(known):.3f}".replace("± 0.", "± .")


def table(values: Mapping[Key, Mapping[int, Cell]], name: str, title: str, measure: str) -> list[str]:
    """Scores by number of shadow models."""
    columns = sorted({key[2] for key in values if key[0] == name and key[2]})
    attacks = list(dict.fromkeys(key[1] for key in ordered(values) if key[0] == name and key[2]))
    free = [score for score in ("loss", "attack-p", "residual") if (name, score, 0) in values]
    if not any(len(figures(values, (name, score, n), measure)) for score in attacks for n in columns):
        return [f"{title}: its non-members do not resolve this rate.", ""]
    lines = [
        f"| {title}; shadow models: | 0 | " + " | ".join(map(str, columns)) + " |",
        "| --- " * (len(columns) + 2) + "|",
    ]
    for score in free:
        lines.append(
            f"| `{score}` | {told(figures(values, (name, score, 0), measure))} |" + " |" * len(columns)
        )
    for score in attacks:
        row = [told(figures(values, (name, score, n), measure)) for n in columns]
        lines.append(f"| `{score}` | | " + " | ".join(row) + " |")
    return [*lines, ""]


def ordered(values: Mapping[Key, Mapping[int, Cell]]) -> list[Key]:
    """Keys with the scores that find most at the top: by mean TPR over data sets, with most shadow models."""
    most = max((key[2] for key in values), default=0)

    def rank(score: str) -> float:
        many = [
            mean_of(values, key, "tpr_at_fpr@0.01")
            for key in values
            if key[1] == score and key[2] in (0, most)
        ]
        known = [value for value in many if value is not None]
        return -float(np.mean(known)) if known else 0.0

    return sorted(values, key=lambda key: (rank(key[1]), key[1], key[2]))


RIVALS = (
    ("residual", "loss"),
    ("attack-p", "loss"),
    ("lira[variance=pooled]", "lira"),
    ("lira[variance=sample]", "lira"),
    ("lira[mode=offline]", "lira"),
    ("rmia", "lira"),
    ("rmia[mode=offline]", "rmia"),
    ("rmia[rank=share]", "rmia"),
    ("calibrated[tau=out]", "calibrated"),
)
"""What could be a default in place of what is one."""


def against_default(
    values: Mapping[Key, Mapping[int, Cell]], there: Sequence[str], titles: Mapping[str, str]
) -> list[str]:
    """How far what could be a default is above what is one, on the same targets and shadow models."""
    measure = "tpr_at_fpr@0.01"
    columns = sorted({key[2] for key in values if key[2] != 1})
    rows, compared = [], 0
    better: dict[tuple[str, str], dict[str, list[str]]] = {}
    for score, default in RIVALS:
        for name in there:
            row = []
            for n in columns:
                mine, theirs = values.get((name, score, n), {}), values.get((name, default, n), {})
                both = sorted(
                    t for t in mine if t in theirs and None not in (mine[t][measure], theirs[t][measure])
                )
                gap = np.array([mine[t][measure] - theirs[t][measure] for t in both])
                sure = len(gap) >= LEAST and abs(gap.mean()) > half_interval(gap)
                row.append(
                    ""
                    if not len(gap)
                    else f"**{told(gap, signed=True)}**"
                    if sure
                    else told(gap, signed=True)
                )
                compared += len(gap) > 0
                if sure and gap.mean() > 0:
                    better.setdefault((score, default), {}).setdefault(titles[name], []).append(str(n))
            if any(row):
                rows.append(f"| `{score}` less `{default}`, {titles[name]} | " + " | ".join(row) + " |")
    return [
        "## The defaults, and what could be in their place",
        "",
        "Difference in TPR at an FPR of 1% on the same targets with the same shadow models; bold where its interval is without 0.",
        "Surely above a default, with these numbers of shadow models:"
        if better
        else "None is surely above a default.",
        "",
        *(
            f"- `{score}` above `{default}`: "
            + "; ".join(f"{data} {', '.join(counts)}" for data, counts in where.items())
            for (score, default), where in better.items()
        ),
        "",
        f"Of {compared} comparisons about one in forty would be so by chance alone. With 2 models a coin leaves half of the records without a model",
        "with them or without one, and so without a score of `lira` or `rmia`; `collect shadows` by itself (`--design balanced`) has both of each.",
        "",
        "| difference; shadow models: | " + " | ".join(map(str, columns)) + " |",
        "| --- " * (len(columns) + 1) + "|",
        *rows,
        "",
    ]


def half_interval(known: Floats) -> float:
    """Half of the 95% t interval of a mean over targets."""
    return float(student.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)))


def free_table(
    values: Mapping[Key, Mapping[int, Cell]], there: Sequence[str], titles: Mapping[str, str]
) -> list[str]:
    """What costs no shadow model: precision of the top members against LiRA's finds."""
    scores = list(dict.fromkeys(key[1] for key in values if key[2] == 0))
    share = {
        name: mean_of(values, next(key for key in values if key[0] == name), "vulnerable") for name in there
    }
    lines = [
        "## Free scores: who is found, before a shadow model is trained",
        "",
        "`trace[signal=..., aggregate=...]` are what [trace](analyses/trace.md) makes of a record's values after each epoch. Precision at the top 1% and 5% of the members: the share of them that LiRA with every shadow model finds at an FPR of 0.1%. Picking at random: "
        + ", ".join(f"{titles[name]} {value:.3f}" for name, value in share.items() if value is not None)
        + ". Scores of the target's own training; none needs another model. `lt-iqr` is the paper's: the interquartile range of the loss after each epoch and before the first.",
        "",
        "| score | " + " | ".join(f"{titles[name]}, 1% | 5%" for name in there) + " |",
        "| --- " * (1 + 2 * len(there)) + "|",
    ]
    rows = []
    for score in scores:
        parts = [
            figures(values, (name, score, 0), f"precision@{k}") for name in there for k in ("0.01", "0.05")
        ]
        known = [part.mean() for part in parts if len(part)]
        rows.append(
            (
                -float(np.mean(known)) if known else 0.0,
                f"| `{score}` | " + " | ".join(map(told, parts)) + " |",
            )
        )
    return [*lines, *(row for _, row in sorted(rows)), ""]


def draw(
    values: Mapping[Key, Mapping[int, Cell]], there: Sequence[str], titles: Mapping[str, str], out: Path
) -> bool:
    """TPR at 1% by number of shadow models, a panel a data set; False where no data set resolves it."""
    import altair as alt
    import vl_convert

    rows = []
    for (name, score, shadows), of in values.items():
        known = figures({(name, score, shadows): of}, (name, score, shadows), "tpr_at_fpr@0.01")
        if score not in DRAWN or name not in there or len(known) == 0:
            continue
        rows.append(
            {"data": titles[name], "attack": score, "shadows": str(shadows), "tpr": float(known.mean())}
        )
    if not rows:
        return False
    shown = [score for score in DRAWN if any(row["attack"] == score for row in rows)]
    colours, dashes = zip(*(DRAWN[score] for score in shown), strict=True)
    legend = alt.Legend(symbolType="stroke", symbolStrokeWidth=2, columns=4)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "shadows:O",
            sort=["0", "1", "2", "4", "8", "16", "32", "64"],
            title="shadow models",
            axis=alt.Axis(labelAngle=0),
        ),
        y=alt.Y("tpr:Q", title="TPR at an FPR of 1%"),
        color=alt.Color(
            "attack:N",
            sort=shown,
            scale=alt.Scale(domain=shown, range=list(colours)),
            title=None,
            legend=legend,
        ),
        strokeDash=alt.StrokeDash(
            "attack:N",
            sort=shown,
            scale=alt.Scale(domain=shown, range=list(dashes)),
            title=None,
            legend=legend,
        ),
    )
    chart = (
        (base.mark_line() + base.mark_circle(size=40, opacity=1).encode(strokeDash=alt.value(FULL)))
        .properties(width=220, height=170)
        .facet(
            facet=alt.Facet(
                "data:N", sort=[titles[name] for name in there], title=None, header=alt.Header(labelColor=INK)
            ),
            columns=2 if len(there) in (2, 4) else 3,
        )
        .resolve_scale(y="independent")
    )
    spec = {**chart.to_dict(), "config": theme(INK, "sans-serif")}
    picture = re.sub(r' (aria-[a-z]+|role)="[^"]*"', "", vl_convert.vegalite_to_svg(spec))
    out.write_text(re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", picture))
    return True
