"""Masks: what an adversary reads is that of a loop over single answers, and every analysis sees it and nothing else."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from losslake.analysis.attacks.masking import masked_signals, masked_source, parse_mask
from losslake.analysis.commands import analyze_group
from losslake.analysis.evaluations.per_model import per_model
from losslake.analysis.evaluations.quantile_ablation import quantile_ablation
from losslake.analysis.scores import Scores
from losslake.analysis.scoring.catalogue import find, open_source
from losslake.analysis.scoring.run import run_analysis
from losslake.analysis.scoring.stored import keep_scores
from losslake.store.errors import InvalidOption, NotEnoughData
from losslake.store.lake import Lake

MakeLake = Callable[..., Lake]
MASKS = ("top-k:1", "top-k:2", "round:1", "round:0", "temperature:4", "label-only")
RUNS, N, CLASSES = 10, 50, 4


def by_hand(mask: str, z: list[float]) -> list[float]:
    """The probabilities an adversary reads, one answer at a time."""
    total = sum(math.exp(v) for v in z)
    p = [math.exp(v) / total for v in z]
    kind, _, value = mask.partition(":")
    if kind == "temperature":
        heat = [math.exp(v / float(value)) for v in z]
        return [h / sum(heat) for h in heat]
    if kind == "label-only":
        return [0.99 if c == p.index(max(p)) else 0.01 / (len(z) - 1) for c in range(len(z))]
    if kind == "top-k":
        kept = sorted(range(len(z)), key=lambda c: (-z[c], c))[: int(value)]
        left = 1 - sum(p[c] for c in kept)
        return [p[c] if c in kept else left / (len(z) - len(kept)) for c in range(len(z))]
    step = 10 ** -int(value)
    shown = [round(v, int(value)) for v in p]
    zeros = shown.count(0)
    left = max(1 - sum(shown), step / 4)
    filled = [left / zeros if v == 0 else v for v in shown]
    return [v / sum(filled) for v in filled]


def fleet(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    keep = rng.random((RUNS, N)) < 0.5
    keep[:, 0], keep[:2, 0], keep[2:4, 0] = False, True, False
    population = np.arange(N) >= 40
    keep &= ~population
    labels = rng.integers(0, CLASSES, N).astype(np.int32)
    z = rng.normal(0, 1.5, (RUNS, N, CLASSES))
    z[..., :] += 2.5 * keep[:, :, None] * np.eye(CLASSES)[labels]
    return {"keep": keep, "logits": z.astype(np.float32), "labels": labels, "population": population}


@pytest.fixture(scope="module")
def lake(lake_of: MakeLake) -> Lake:
    return lake_of(**fleet())


def scores(lake: Lake, name: str, **options: Any) -> Scores:
    with open_source(lake, "tests") as source:
        return run_analysis(source, find(name), options).scores


# --- what is read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS)
def test_an_answer_is_what_it_is_by_hand(mask: str) -> None:
    given = fleet()["logits"][0]
    label = fleet()["labels"]
    hidden, loss, phi, correct = masked_signals(given, label, parse_mask(mask))
    expected = np.array([by_hand(mask, row.astype(float).tolist()) for row in given])
    np.testing.assert_allclose(np.exp(hidden), expected, rtol=1e-9)
    own = expected[np.arange(N), label]
    np.testing.assert_allclose(loss, -np.log(own), rtol=1e-9)
    np.testing.assert_allclose(phi, np.log(own) - np.log1p(-own), rtol=1e-6, atol=1e-9)
    assert correct.tolist() == [
        row.index(max(row)) == y for row, y in zip(expected.tolist(), label, strict=True)
    ]


def test_rounding_by_example() -> None:
    rows = [
        ([0.96, 0.02, 0.01, 0.01], [1, 0.025 / 3, 0.025 / 3, 0.025 / 3]),  # nothing missing: a quarter of 0.1
        ([0.91, 0.03, 0.03, 0.03], [0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3]),
        ([0.36, 0.36, 0.26, 0.02], [0.4, 0.4, 0.3, 0.025]),  # 1.1 in all
        ([0.25, 0.25, 0.24, 0.26], [0.2, 0.2, 0.2, 0.3]),
    ]
    for p, expected in rows:
        found = np.exp(parse_mask("round:1").apply(np.log([p]) + 5))[0]
        np.testing.assert_allclose(found, np.array(expected) / sum(expected), rtol=1e-9)


@pytest.mark.parametrize("mask", MASKS)
def test_extreme_logits_stay_finite(mask: str) -> None:
    z = np.array([[1e4, 0, 0], [np.inf, 0, -np.inf], [-np.inf, 0, 1], [0, 0, 0], [-6e4, 6e4, 0]])
    for label in range(3):
        for column in masked_signals(z, np.full(len(z), label), parse_mask(mask)):
            assert np.isfinite(column.astype(np.float32)).all()
    assert np.isfinite(masked_signals(np.array([[3.0, -5.0]]), np.array([1]), parse_mask(mask))[2]).all()


def test_masks_that_hide_nothing() -> None:
    z, label = fleet()["logits"][0], fleet()["labels"]
    plain = masked_signals(z, label, parse_mask("temperature:1"))
    for mask in ("top-k:4", "top-k:9", "round:12"):
        for found, expected in zip(masked_signals(z, label, parse_mask(mask)), plain, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    tied = np.exp(parse_mask("top-k:2").apply(np.array([[1.0, 1.0, 1.0, 0.0]])))[0]
    assert tied[0] == tied[1] > tied[2] == tied[3], "of equal classes the first are shown"


@pytest.mark.parametrize(
    "spec",
    ["", "top-k", "top-k:0", "top-k:x", "round:-1", "round:13", "round:0.5", "temperature:0",
     "temperature:nan", "temperature:inf", "label-only:1", "blur:2"],
)  # fmt: skip
def test_specs_that_are_none(spec: str) -> None:
    with pytest.raises(InvalidOption, match="is none of top-k:K"):
        parse_mask(spec)


# --- analyses under a mask --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["top-k:2", "round:1", "label-only"])
def test_an_analysis_sees_what_a_lake_of_masked_answers_holds(
    lake: Lake, lake_of: MakeLake, mask: str
) -> None:
    given = fleet()
    p = [[by_hand(mask, row.astype(float).tolist()) for row in run] for run in given["logits"]]
    logits = np.log(np.array(p)).astype(np.float32)
    correct = logits.argmax(axis=2) == given["labels"]
    written = lake_of(**{**given, "logits": logits}, correct=correct)
    for name in ("lira", "rmia", "entropy", "memorization"):
        masked, expected = scores(lake, name, mask=mask), scores(written, name)
        assert masked.frame["member"].to_list() == expected.frame["member"].to_list()
        np.testing.assert_allclose(
            masked.frame["score"].cast(float).fill_null(-99),
            expected.frame["score"].cast(float).fill_null(-99),
            rtol=1e-4,
            atol=1e-5,
            err_msg=name,
        )


def test_what_masks_leave_and_take(lake: Lake) -> None:
    with open_source(lake, "tests") as source:
        with masked_source(source, parse_mask("label-only")) as (hidden, notes):
            assert notes == ()
            assert hidden.connection.sql("select distinct phi from signals").pl().shape == (2, 1)
            found = hidden.connection.sql(
                "select run, sample_id, correct from signals order by all"
            ).fetchall()
            folder = Path(hidden.lake.path)
            assert folder.parent.stat().st_mode & 0o077 == 0
        assert not folder.parent.exists()
        expected = given = fleet()
        expected = given["logits"].argmax(axis=2) == given["labels"]
        assert [c for _, _, c in found] == expected.ravel().tolist()
        with masked_source(source, parse_mask("temperature:9")) as (hidden, _):
            warm = hidden.connection.sql("select phi, correct from signals order by run, sample_id").pl()
    assert warm["correct"].to_list() == expected.ravel().tolist(), "temperature leaves the order of classes"
    assert warm["phi"].abs().max() < 9


def test_a_mask_is_a_variant_of_its_own(lake: Lake) -> None:
    with open_source(lake, "tests") as source:
        outcome = run_analysis(source, find("lira"), {"mask": "round:1"})
        assert outcome.label == "lira[mask=round:1]"
        kept = keep_scores(source, ["lira[mask=round:1]", "lira"])
        assert kept["lira[mask=round:1]"].variant == "mask=round:1"
        masked, plain = (kept[name].scores.frame["score"].to_list() for name in kept)
        assert masked == outcome.scores.frame["score"].to_list() != plain
    assert not list(
        Path(tempfile.gettempdir()).glob("losslake-mask-*/lake/runs/experiment=tests/run-0009.json")
    )


def test_attacks_on_each_run_are_masked_too(lake: Lake) -> None:
    with open_source(lake, "tests") as source:
        finding = per_model(source, ("lira[mask=label-only]", "lira"), fpr=(0.1,))
        of_target = {
            m.parameters["score"]: m.value
            for m in finding.metrics
            if m.metric == "auc" and m.parameters["run"] == "run-0000"
        }
        for name, value in of_target.items():
            options = {"mask": "label-only"} if "mask" in name else {}
            alone = run_analysis(source, find("lira"), options).metrics[0].value
            assert value == pytest.approx(alone, abs=1e-9)
        assert len(set(of_target.values())) == 2
        with pytest.raises(InvalidOption, match="leave duals out"):
            per_model(source, ("lira[duals=true]",))
        with pytest.raises(InvalidOption, match="leave mask out"):
            quantile_ablation(source, ("lt-iqr[mask=label-only]",))


def test_duals_under_a_mask(lake_of: MakeLake) -> None:
    given = fleet()
    given["keep"][1:3] = given["keep"][0]
    names = ["t", "t-dual-1", "t-dual-2", *(f"s{number}" for number in range(RUNS - 3))]
    roles, parents = ["target"] * 3 + ["shadow"] * (RUNS - 3), [None, "t", "t"] + [None] * (RUNS - 3)
    lake = lake_of(**given, names=names, roles=roles, parents=parents)
    together = scores(lake, "loss", mask="round:2", duals=True).frame["score"]
    with open_source(lake, "tests") as source:
        each = []
        for name in names[:3]:
            with open_source(lake, "tests", name) as aimed:
                frame = run_analysis(aimed, find("loss"), {"mask": "round:2"}).scores.frame
                each.append(frame["score"].to_numpy())
        assert source.target_name == "t"
    np.testing.assert_allclose(together, np.mean(each, axis=0), atol=1e-12)


def test_what_cannot_be_masked(lake: Lake, lake_of: MakeLake) -> None:
    given = fleet()
    without = lake_of(given["keep"], np.zeros((RUNS, N)))
    with pytest.raises(NotEnoughData, match=r"'run-0000'.*has no logits.*--logits float16"):
        scores(without, "loss", mask="round:1")
    traced = lake_of(**given, traces={"loss": np.ones((N, 4))})
    with pytest.raises(NotEnoughData, match=r"no traces.*masked answers alone: no traces, no features"):
        scores(traced, "lt-iqr", mask="round:1")
    with pytest.raises(InvalidOption, match="mask 'blur' is none of"):
        scores(lake, "loss", mask="blur")


def test_runs_without_logits_are_left_out_and_told(lake: Lake, lake_of: MakeLake) -> None:
    given = fleet()
    mixed = lake_of(
        **{name: values[:8] if name in ("keep", "logits") else values for name, values in given.items()}
    )
    lake_of(given["keep"][8:9], np.zeros((1, N)), labels=given["labels"], population=given["population"],
            lake=mixed, names=["bare"], roles=["shadow"])  # fmt: skip
    found = scores(mixed, "lira", mask="round:1")
    assert "1 of 9 runs kept no logits to mask and are left out: bare" in found.notes


def test_command(lake: Lake) -> None:
    command = ["lira", "--lake", lake.path, "--experiment", "tests", "--mask", "top-k:1"]
    answer = CliRunner().invoke(analyze_group, command)
    assert answer.exit_code == 0, answer.output
    assert "lira[mask=top-k:1]" in answer.stdout
