"""Fleets of estimators: against the same fitted by hand, as runs of a fleet are; and what they have not is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from losslake.analysis.attacks.lira import lira
from losslake.analysis.scoring.catalogue import open_source
from losslake.auditing import audit
from losslake.cli import _run, cli
from losslake.collect.command_options import _setting
from losslake.collect.estimators.named import make_estimator, with_estimator
from losslake.collect.experiment.prepare import Prepared, prepare_experiment
from losslake.collect.fleet.distilled import collect_distilled
from losslake.collect.fleet.leave_one_out import collect_leave_one_out
from losslake.collect.fleet.references import collect_references
from losslake.collect.fleet.setup import members_of
from losslake.collect.fleet.target_and_shadows import collect_shadows, collect_target
from losslake.collect.importers.layouts import import_layout
from losslake.collect.recipe import Recipe, changed, from_json, to_json
from losslake.store.errors import (
    AlreadyExists,
    InvalidInput,
    InvalidOption,
    LosslakeError,
    NotFound,
    TrainingFailed,
)
from losslake.store.format.records import Run
from losslake.store.lake import Lake
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOREST = Recipe(
    model="sklearn.ensemble:RandomForestClassifier", model_options={"n_estimators": 6, "max_depth": 3}
)
BOOSTED = Recipe(
    model="sklearn.ensemble:HistGradientBoostingClassifier",
    model_options={"max_iter": 5, "min_samples_leaf": 3},
)
HERE: dict[str, Any] = {"jobs": 1, "logits": "float32"}


def pipeline(c: float = 1.0) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=c))


def network(input_shape: Any, classes: int) -> Any:
    raise AssertionError("not to be called")


def distances() -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC()


class OnlyGiven:
    """As CatBoost's: it tells of the parameters that were given alone, and keeps copies of them, so that scikit-learn does not clone it."""

    def __init__(self, rounds: Any = None, columns: Any = None, random_state: Any = None) -> None:
        given = {"rounds": rounds, "columns": columns, "random_state": random_state}
        self._given = {name: value for name, value in given.items() if value is not None}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return json.loads(json.dumps(self._given))

    def set_params(self, **given: Any) -> OnlyGiven:
        self._given |= given
        return self

    def fit(self, x: Any, y: Any) -> OnlyGiven:
        self.classes_ = np.unique(y)
        self._by = np.random.default_rng(self._given.get("random_state", 0)).normal(size=len(self.classes_))
        return self

    def predict_proba(self, x: Any) -> Any:
        z = np.exp(np.asarray(x)[:, :1] * self._by)
        return z / z.sum(axis=1, keepdims=True)


def nothing() -> int:
    return 1


PIPELINE = Recipe(model=f"{__name__}:pipeline", model_options={"c": 0.1})


@pytest.fixture(scope="module", autouse=True)
def importable() -> Any:
    """This module by the name that a user would give."""
    import sys

    there = sys.modules.get(__name__)
    sys.modules[__name__] = there or type(sys)(__name__)
    vars(sys.modules[__name__]).update(
        pipeline=pipeline, network=network, distances=distances, nothing=nothing, OnlyGiven=OnlyGiven,
        any_forest=any_forest, any_network=any_network, any_network_with_defaults=any_network_with_defaults,
    )  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """90 records of three classes, which are names; two of the third."""
    rng = np.random.default_rng(3)
    y = np.array([*([0, 1] * 44), 2, 2])
    x = rng.normal(size=(90, 4)) + 0.7 * y[:, None]
    names = np.array(["blue", "green", "red"])[y]
    path = tmp_path / "table.csv"
    pl.DataFrame(x, schema=list("abcd")).with_columns(
        colour=pl.Series(names), who=pl.Series([f"r{i}" for i in range(90)])
    ).write_csv(path)
    return path


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake", create=True)


@pytest.fixture
def prepared(lake: Lake, table: Path) -> Prepared:
    return prepare_experiment(lake, "e", dataset=str(table), label="colour", key="who", population=0.2)


def logits_of(lake: Lake, run: Run) -> np.ndarray:
    rows = lake.sql(
        "select logits from signals where experiment = $e and run = $run order by sample_id",
        {"e": run.experiment, "run": run.run},
    )
    return np.array(rows["logits"].to_list())


def states(estimator: Any, seed: int) -> Any:
    """The estimator with its random states from a run's seed, as `fitted` says: in the order of their names."""
    stream = np.random.default_rng(seed)
    names = sorted(name for name in estimator.get_params() if name.endswith("random_state"))
    return estimator.set_params(**{name: int(stream.integers(2**31 - 1)) for name in names})


def by_hand(recipe: Recipe, prepared: Prepared, members: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities (N, C) of all records; 0 for a class that no member has."""
    x, y = prepared.data.x, prepared.data.y
    assert isinstance(x, np.ndarray)
    found = np.zeros((len(y), prepared.data.classes))
    made = states(clone(make_estimator(recipe)), seed).fit(x[members], y[members])
    found[:, made.classes_] = made.predict_proba(x)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "recipe",
    [
        FOREST,
        BOOSTED,
        PIPELINE,
        Recipe(model="sklearn.neighbors:KNeighborsClassifier"),
        Recipe(model="sklearn.linear_model:LogisticRegression", model_options={"C": 0.5}),
        Recipe(
            model="sklearn.neural_network:MLPClassifier",
            model_options={"hidden_layer_sizes": (8, 4), "max_iter": 9},
        ),
        Recipe(model="sklearn.ensemble:GradientBoostingClassifier", model_options={"n_estimators": 3}),
    ],
    ids=lambda recipe: recipe.model.rpartition(":")[2],
)
def test_a_fleet_is_what_clones_fitted_by_hand_are(
    lake: Lake, prepared: Prepared, tmp_path: Path, recipe: Recipe
) -> None:
    target = collect_target(lake, "e", recipe=recipe, prepared=prepared, **HERE)
    fleet = collect_shadows(lake, "e", recipe=recipe, prepared=prepared, count=6, **HERE)
    runs, said = [*target, *fleet], []
    least: float | None = None
    for run in runs:
        members = members_of(lake, run)
        assert not members[prepared.data.population].any()
        p = by_hand(recipe, prepared, members, run.info.seed)
        least = least or float(p[p > 0].min()) / 2
        assert run.info.extra["least_probability"] == pytest.approx(min(0.25, least))
        want = np.log(np.where(p > 0, p, min(0.25, least))).astype(np.float32)
        np.testing.assert_allclose(logits_of(lake, run), want, rtol=1e-6, atol=1e-6)
        said.append(want)
    missing = [len(np.unique(prepared.data.y[members_of(lake, run)])) < 3 for run in runs]
    assert any(missing), "two records of a class: some models have never seen it"
    keep = np.stack([members_of(lake, run) for run in runs])
    np.savez(
        tmp_path / "hand.npz",
        labels=prepared.data.y,
        keep=keep,
        logits=np.stack(said)[:, :, None],
        population=prepared.data.population,
    )
    import_layout("arrays", lake, "hand", tmp_path / "hand.npz", target="run-0000")
    with open_source(lake, "e") as one, open_source(lake, "hand") as other:
        scores = [lira(source).frame.sort("sample_id")["score"] for source in (one, other)]
    np.testing.assert_allclose(scores[0].to_numpy(), scores[1].to_numpy(), rtol=1e-4, atol=1e-4)
    assert len(scores[0].drop_nulls().drop_nans()) > 40


def test_the_target_says_what_an_audit_of_the_same_forest_keeps(
    lake: Lake, prepared: Prepared, tmp_path: Path
) -> None:
    (run,) = collect_target(lake, "e", recipe=FOREST, prepared=prepared, **HERE)
    members, data = members_of(lake, run), prepared.data
    others = ~members & ~data.population
    x: Any = data.x
    model = states(make_estimator(FOREST), run.info.seed).fit(x[members], data.y[members])
    made = audit(
        model,
        (x[members], data.y[members]),
        (x[others], data.y[others]),
        population=(x[data.population], data.y[data.population]),
        lake=tmp_path / "audited",
    )
    audited = Lake.open(tmp_path / "audited")
    kept = audited.sql("select logits from signals order by sample_id")["logits"].to_list()
    order = np.concatenate([np.flatnonzero(each) for each in (members, others, data.population)])
    assert made is not None
    np.testing.assert_allclose(np.array(kept), logits_of(lake, run)[order], rtol=1e-6)


@pytest.mark.parametrize("recipe", [FOREST, BOOSTED], ids=["trees", "rounds"])
def test_a_trace_has_what_was_said_after_each_stage(lake: Lake, prepared: Prepared, recipe: Recipe) -> None:
    (run,) = collect_target(lake, "e", recipe=recipe, prepared=prepared, **HERE)
    (shadow,) = collect_shadows(lake, "e", recipe=recipe, prepared=prepared, count=1, traces=True, **HERE)
    rows = lake.sql(
        "select sample_id, loss from traces where run = $run and source = 'eval' order by 1",
        {"run": shadow.run},
    )
    audit_ids = np.flatnonzero(~prepared.data.population)
    assert rows["sample_id"].to_list() == audit_ids.tolist()
    losses = np.array(rows["loss"].to_list())
    final = lake.sql("select loss from signals where run = $run order by sample_id", {"run": shadow.run})[
        "loss"
    ].to_numpy()
    np.testing.assert_allclose(losses[:, -1], final[audit_ids], rtol=1e-4, atol=1e-5)
    members, x, y = members_of(lake, shadow), prepared.data.x, prepared.data.y
    assert isinstance(x, np.ndarray)
    model = states(make_estimator(recipe), shadow.info.seed).fit(x[members], y[members])
    stages = recipe.model_options.get("n_estimators") or recipe.model_options["max_iter"]
    assert losses.shape[1] == stages + 1 == run.info.epochs + 1 == shadow.info.epochs + 1
    assert run.info.extra["epochs_are"] == ("trees" if recipe is FOREST else "boosting rounds")
    least = run.info.extra["least_probability"]
    for k in range(1, stages + 1):
        cut = "n_estimators" if recipe is FOREST else "max_iter"
        part = clone(make_estimator(recipe)).set_params(**{cut: k})
        part = states(part, shadow.info.seed).fit(x[members], y[members])
        p = np.zeros((len(y), 3))
        p[:, part.classes_] = part.predict_proba(x)
        p = np.where(p > 0, p, least)
        want = -np.log(p[np.arange(len(y)), y] / p.sum(axis=1))
        np.testing.assert_allclose(losses[:, k], want[audit_ids], rtol=1e-3, atol=1e-4)
    shares = np.bincount(y[members], minlength=3) / members.sum()
    shares = np.where(shares > 0, shares, least)
    np.testing.assert_allclose(losses[:, 0], -np.log(shares / shares.sum())[y[audit_ids]], rtol=1e-4)
    assert model is not None


@pytest.mark.parametrize(
    "spec", ["xgboost:XGBClassifier", "lightgbm:LGBMClassifier", "catboost:CatBoostClassifier"]
)
def test_boosting_of_other_libraries(lake: Lake, prepared: Prepared, spec: str) -> None:
    pytest.importorskip(spec.partition(":")[0])
    options = {"n_estimators": 4, **({"verbose": -1, "min_child_samples": 2} if "light" in spec else {})}
    if "catboost" in spec:
        options |= {"verbose": False, "allow_writing_files": False}
    recipe = Recipe(model=spec, model_options=options)
    (run,) = collect_target(lake, "e", recipe=recipe, prepared=prepared, **HERE)
    fleet = collect_shadows(lake, "e", recipe=recipe, prepared=prepared, count=4, **HERE)
    assert run.info.recipe["estimator"].startswith(spec.partition(":")[0])
    assert run.info.epochs == 4
    assert run.info.extra["recording"]["traces"]
    for each in fleet:  # where a class is missing, these want labels without a gap
        assert logits_of(lake, each).shape == (90, 3)
        assert np.isfinite(logits_of(lake, each)).all()


def test_an_estimator_that_tells_what_was_given_alone(lake: Lake, prepared: Prepared) -> None:
    model = f"{__name__}:OnlyGiven"
    recipe = Recipe(model=model, model_options={"rounds": 3, "columns": [1, 2]})
    (run,) = collect_target(lake, "e", recipe=recipe, prepared=prepared, **HERE)
    said = [logits_of(lake, run)]
    for each in collect_shadows(lake, "e", recipe=recipe, prepared=prepared, count=2, **HERE):
        said.append(logits_of(lake, each))
        x: Any = prepared.data.x
        state = int(np.random.default_rng(each.info.seed).integers(2**31 - 1))
        members = members_of(lake, each)
        by_hand = OnlyGiven(random_state=state).fit(x[members], prepared.data.y[members])
        want = np.log(by_hand.predict_proba(x))
        np.testing.assert_allclose(said[-1][:, by_hand.classes_], want, rtol=1e-5, atol=1e-6)
    assert not np.allclose(said[0], said[1]), "each run has a seed of its own"
    with pytest.raises(InvalidOption, match="Did you mean 'rounds'"):
        with_estimator(Recipe(model=model, model_options={"round": 3}))
    for name in ("random_state", "random_seed"):
        with pytest.raises(InvalidOption):
            with_estimator(Recipe(model=model, model_options={name: 3}))
    sides = [(np.random.default_rng(i).normal(size=(40, 3)), np.arange(40) % 2) for i in (0, 1)]
    fitted = OnlyGiven(columns=[1, 2]).fit(*sides[0])
    assert len(audit(fitted, *sides, shadows=2).lake.runs("audit", role="shadow")) == 2
    with pytest.raises(InvalidOption, match=r"cannot be cloned.*train="):
        audit(make_pipeline(StandardScaler(), fitted).fit(*sides[0]), *sides, shadows=2)


def test_the_other_fleets_shards_and_what_is_committed(lake: Lake, prepared: Prepared) -> None:
    collect_target(lake, "e", recipe=FOREST, prepared=prepared, duals=1, **HERE)
    from losslake.collect.fleet.design import parse_shard

    def shadows(**given: Any) -> list[Run]:
        return collect_shadows(
            lake, "e", **{"recipe": FOREST, "prepared": prepared, "count": 4, **HERE, **given}
        )

    two = shadows(shard=parse_shard("2/2"))
    assert [run.run for run in two] == ["shadow-0001", "shadow-0003"]
    times = [run.created for run in two]
    assert [run.created for run in shadows()[1::2]] == times, "what is committed is not fitted again"
    with pytest.raises(AlreadyExists, match="model_options"):
        shadows(recipe=Recipe(model=FOREST.model, model_options={"n_estimators": 7}))
    (reference,) = collect_references(lake, "e", recipe=FOREST, prepared=prepared, count=1, size=20, **HERE)
    assert reference.members == 20
    member = int(np.flatnonzero(members_of(lake, lake.run("e", "target")))[0])
    without = collect_leave_one_out(
        lake, "e", samples=[member], repeats=2, recipe=FOREST, prepared=prepared, **HERE
    )
    assert [members_of(lake, run)[member] for run in without] == [False, False]
    assert len({run.info.seed for run in without}) == 2
    told = lake.run("e", "target").info
    assert told.recipe == to_json(with_estimator(FOREST))
    assert set(told.recipe) == {
        "model",
        "model_options",
        "estimator",
    }
    assert "scikit-learn" in told.versions
    assert "torch" not in told.versions
    assert from_json(json.loads(json.dumps(told.recipe))) == with_estimator(FOREST)
    assert changed(from_json(told.recipe), {"model": "mlp"}) == Recipe(model="mlp")


@pytest.mark.parametrize(
    ("given", "recipe", "error", "why"),
    [
        ({"grad_norms": "eval", "traces": True}, {}, InvalidOption, "gradient norms are of networks"),
        ({"features": True}, {}, InvalidOption, "last layer of networks"),
        ({"queries": "original,noise:4"}, {}, InvalidOption, "as they are"),
        ({"device": "cuda"}, {}, InvalidOption, "fitted on the CPU"),
        ({"compiled": True}, {}, InvalidOption, "compiled"),
        ({"stack": 4}, {}, InvalidOption, "stack"),
        ({"checkpoint_every": 2}, {}, InvalidOption, "nothing to go on from"),
        ({}, {"lr": 0.5}, InvalidOption, "lr is of networks"),
        ({}, {"epochs": 3}, InvalidOption, "its own rounds or trees"),  # an estimator takes epochs where it has partial_fit
        ({}, {"epochs": 100}, InvalidOption, "its own rounds or trees"),  # given, though a network's default
        ({}, {"dp_noise": 1.0}, InvalidOption, "is of networks"),
        ({}, {"model_options": {"n_estimater": 3}}, InvalidOption, "Did you mean 'n_estimators'"),
        ({}, {"model_options": {"random_state": 3}}, InvalidOption, "each run's own seed"),
        ({}, {"model_options": {"max_depth": "deep"}}, TrainingFailed, "max_depth"),
        ({}, {"model": "sklearn.linear_model:Ridge", "model_options": {}}, InvalidInput, "predict_proba"),
        ({}, {"model": f"{__name__}:distances", "model_options": {}}, InvalidInput, "Calibrate"),
        ({}, {"model": f"{__name__}:nothing", "model_options": {}}, InvalidInput, "no estimator"),
        ({}, {"model": f"{__name__}:pipeline", "model_options": {"d": 1}}, InvalidOption, "cannot be called"),
        ({}, {"estimator": "scikit-learn 0.1"}, InvalidOption, "the recipe is of scikit-learn 0.1"),
        ({"traces": True}, {"model": PIPELINE.model, "model_options": {}}, InvalidOption, "no trace"),
    ],
)  # fmt: skip
def test_what_estimators_do_not_have_is_refused(
    lake: Lake,
    prepared: Prepared,
    given: dict[str, Any],
    recipe: dict[str, Any],
    error: type[LosslakeError],
    why: str,
) -> None:
    made = Recipe(**{"model": FOREST.model, "model_options": FOREST.model_options, **recipe})
    with pytest.raises(error, match=why):
        collect_target(lake, "e", recipe=made, prepared=prepared, **{"jobs": 1, **given})
    assert lake.runs("e") == []


OF_NETWORKS = (
    "--lr 0.1", "--momentum 0.9", "--weight-decay 0.0005", "--optimizer sgd", "--schedule cosine", "--batch-size 256", "--label-smoothing 0",
    "--no-flip", "--crop 0", "--precision fp32", "--no-compile", "--stack 1", "--grad-norms none", "--checkpoint-every 0", "--restart",
)  # fmt: skip


@pytest.mark.parametrize("command", ["target", "shadows"])
def test_an_option_that_means_nothing_is_refused_whatever_its_value(
    lake: Lake, prepared: Prepared, tmp_path: Path, command: str
) -> None:
    """Each is what networks have unless told: in silence nobody would know that an estimator has no such thing."""
    here = ["collect", command, "--lake", lake.path, "--experiment", "e", "--model", FOREST.model]
    here += ["--count", "2"] if command == "shadows" else []
    file = tmp_path / "recipe.toml"
    file.write_text("lr = 0.1\n")
    of_target = ("--grad-norms", "--checkpoint-every", "--restart")
    for option in (*OF_NETWORKS, f"--recipe {file}"):
        name, *_ = option.split()
        if command == "shadows" and name in of_target:
            continue
        refused = CliRunner().invoke(cli, [*here, *option.split()]).exception
        assert isinstance(refused, InvalidOption), option
        called = {"--no-flip": "--flip", "--no-compile": "--compile", "--recipe": "recipe field lr"}.get(
            name, name
        )
        assert str(refused).startswith(f"{called} is of networks, and {FOREST.model} is an estimator"), option
    assert lake.runs("e") == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("--flip", "--flip is of pictures"),
        ("--crop 0", "--crop is of pictures"),
        ("--optimizer adam --momentum 0.9", "--momentum is of sgd, and the optimizer is adam"),
    ],
)
def test_what_a_network_ignores_is_refused_too(
    lake: Lake, prepared: Prepared, options: str, why: str
) -> None:
    here = ["collect", "target", "--lake", lake.path, "--experiment", "e", "--model", "mlp"]
    refused = CliRunner().invoke(cli, [*here, *options.split()]).exception
    assert isinstance(refused, InvalidOption)
    assert str(refused).startswith(why)


def any_forest(**given: Any) -> Any:
    return RandomForestClassifier(**given)


def any_network(**given: Any) -> Any:
    return network(given["input_shape"], given["classes"])


def any_network_with_defaults(**given: Any) -> Any:
    return object() if given == {} else network(**given)


def test_a_function_of_any_keywords_is_what_it_returns() -> None:
    recipe = Recipe(model=f"{__name__}:any_forest", model_options={"n_estimators": 3})
    assert "scikit-learn" in (with_estimator(recipe).estimator or "")
    for name in ("any_network", "any_network_with_defaults"):
        recipe = Recipe(model=f"{__name__}:{name}")
        assert with_estimator(recipe) == recipe


def test_models_about_a_target_need_one_that_is_an_estimator(lake: Lake, prepared: Prepared) -> None:
    with pytest.raises(NotFound, match="no target yet"):
        collect_shadows(lake, "e", recipe=FOREST, prepared=prepared, count=2, **HERE)
    collect_target(lake, "e", recipe=Recipe(model="mlp", epochs=1), prepared=prepared, device="cpu", **HERE)
    with pytest.raises(InvalidOption, match="no estimator that losslake fitted"):
        collect_shadows(lake, "e", recipe=FOREST, prepared=prepared, count=2, **HERE)
    with pytest.raises(InvalidOption, match="learns labels"):
        collect_distilled(lake, "e", recipe=FOREST, prepared=prepared, count=2, **HERE)


def test_a_function_of_networks_is_no_estimator() -> None:
    recipe = Recipe(model=f"{__name__}:network")
    assert with_estimator(recipe) == recipe
    assert with_estimator(Recipe()) == Recipe()


def test_the_commands(lake: Lake, table: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Values from the shell, canaries, worker processes; and the target's word alone runs no code."""
    where = ["--lake", lake.path, "--experiment", "shell"]
    given = ["--model", FOREST.model, "--set", "n_estimators=5", "--set", "criterion=entropy"]
    data = ["--dataset", str(table), "--label", "colour", "--key", "who", "--canaries", "mislabelled:6"]
    assert _run(["collect", "target", *where, *data, *given, "--logits", "float32"], debug=False) == 0
    assert lake.run("shell", "target").info.recipe["model_options"] == {
        "n_estimators": 5,
        "criterion": "entropy",
    }
    fleet = ["collect", "shadows", *where, "--count", "2", "--logits", "float32"]
    with pytest.raises(InvalidOption, match="runs no code"):
        _raising(fleet)
    capfd.readouterr()
    assert _run([*fleet, "--model", FOREST.model, "--jobs", "2"], debug=False) == 0
    assert "2 shadow runs" in capfd.readouterr().out
    again = prepare_experiment(lake, "shell")
    recipe = from_json(lake.run("shell", "target").info.recipe)
    least = lake.run("shell", "target").info.extra["least_probability"]
    for run in lake.runs("shell", role="shadow"):
        p = by_hand(recipe, again, members_of(lake, run), run.info.seed)
        np.testing.assert_allclose(logits_of(lake, run), np.log(np.where(p > 0, p, least)), rtol=1e-5)


def _raising(arguments: list[str]) -> None:
    """A command, whose error comes as it is."""
    from losslake.cli import cli

    cli.main(arguments, prog_name="losslake", standalone_mode=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("n=200", 200),
        ("n=0.5", 0.5),
        ("n=1e-3", 1e-3),
        ("n=true", True),
        ("n=null", None),
        ("n=sqrt", "sqrt"),
        ("n='two words'", "two words"),
        ('n="200"', "200"),
        ("n=[64, 32]", [64, 32]),
        ("n=a=b", None),
        ("n=True", None),
        ("n=__import__('os')", None),
        ("n=1\nm=2", None),
        ("n=", None),
        ("=3", None),
        ("n", None),
    ],
)
def test_a_setting_is_a_literal(text: str, value: Any) -> None:
    if value is None and text != "n=null":
        with pytest.raises(InvalidOption, match="--set"):
            _setting(text)
    else:
        found = _setting(text)
        assert found == ("n", value)
        assert type(found[1]) is type(value)
