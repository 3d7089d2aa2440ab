"""Queries: specs, numbers and views, the same in any batch and on any device; and the small facts that runs store."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pytest
import torch
from losslake.collect.data.training import DeviceData, TrainingData
from losslake.collect.fleet.many_runs import check_same
from losslake.collect.hook.recorder import Background
from losslake.collect.hook.start import start_run
from losslake.collect.recipe import Recipe
from losslake.collect.run_facts import available_cpus, choose_device, versions
from losslake.collect.signals.ask import Recording, append_answers
from losslake.collect.signals.queries import (
    AS_IT_IS,
    PLAIN,
    Query,
    expand_queries,
    gaussian,
    imputed,
    model_inputs,
    parse_queries,
    shifted,
    view,
)
from losslake.collect.train.run import RunPlan
from losslake.collect.train.trainer import train_run
from losslake.store.errors import AlreadyExists, InvalidOption
from losslake.store.format.ranges import RANGE_KINDS
from losslake.store.format.records import RunInfo
from losslake.store.lake import Lake
from torch import nn

IDS = torch.arange(100, 164)
PICTURES = torch.arange(64 * 2 * 5 * 6, dtype=torch.float32).reshape(64, 2, 5, 6) + 1
ROWS = torch.arange(64 * 10, dtype=torch.float32).reshape(64, 10)


def test_names_in_any_form() -> None:
    assert parse_queries("flip, original", pictures=True) == ("original", "flip")
    assert parse_queries(["flip", "flip"], pictures=True) == ("flip",)
    assert parse_queries(None, pictures=True) == ("original", "flip")
    assert parse_queries(None, pictures=False) == ("original",)


def test_ranges_become_canonical() -> None:
    given = "noise:3, flip-crop:1:2,crop:8 ,original,crop:8:4.0"
    assert parse_queries(given, pictures=True) == ("original", "crop:8:4", "flip-crop:1:2", "noise:3:0.1")
    assert parse_queries("original,impute:2,noise:1:0.30", pictures=False) == (
        "original",
        "noise:1:0.3",
        "impute:2:0.2",
    )
    canonical = parse_queries(given, pictures=True)
    assert parse_queries(canonical, pictures=True) == canonical


@pytest.mark.parametrize(
    ("text", "pictures", "message"),
    [
        ("originl", True, "unknown query 'originl'. Did you mean 'original'"),
        ("crp:3", True, "unknown query 'crp:3'"),
        ("flip", False, "for pictures"),
        ("original,crop:3", False, "'crop' is for pictures"),
        ("original,impute:3", True, "'impute' is for rows of features"),
        ([], True, "no query"),
        ("original,crop", True, r"'crop' is not understood; write one of crop:N\[:PIXELS\]"),
        ("original,crop:1:2:3", True, "not understood"),
        ("original,crop:0", True, "must ask for 1 to 1024 views, not '0'"),
        ("original,crop:1025", True, "must ask for 1 to 1024 views"),
        ("original,crop:-1", True, "must ask for 1 to 1024 views"),
        (
            "original,crop:2:1.5",
            True,
            "PIXELS of query 'crop:2:1.5' must be a whole number from 1 to 64, not '1.5'",
        ),
        (
            "original,noise:2:0",
            True,
            "SIGMA of query 'noise:2:0' must be a number above 0 and below 1000, not '0'",
        ),
        ("original,noise:2:nan", True, "SIGMA"),
        ("original,noise:2:inf", True, "SIGMA"),
        ("original,noise:2:much", True, "SIGMA"),
        ("original,impute:2:1", False, "SHARE of query 'impute:2:1' must be a number above 0 and below 1"),
        ("original,crop:2:3,crop:2:4", True, "crop:2:3 and crop:2:4 have the same numbers"),
        ("flip,crop:2", True, "ask for 'original' too"),
    ],
)
def test_specs_that_do_not_fit(text: str | list[str], pictures: bool, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        parse_queries(text, pictures=pictures)


def test_numbers_stand_in_lakes_and_never_change() -> None:
    assert PLAIN == {"original": 0, "flip": 1}
    assert {name: kind.first for name, kind in RANGE_KINDS.items()} == {
        "crop": 1024,
        "flip-crop": 2048,
        "noise": 3072,
        "impute": 4096,
    }
    queries = expand_queries(("original", "flip", "crop:2:3", "noise:1:0.5"))
    assert queries == (
        Query("original", 0),
        Query("flip", 1),
        Query("crop", 1024, 3),
        Query("crop", 1025, 3),
        Query("noise", 3072, 0.5),
    )
    assert Recording(("original", "crop:2:3")).views() == expand_queries(("original", "crop:2:3"))
    assert max(query.number for query in expand_queries(("impute:1024:0.5",))) < np.iinfo(np.int16).max


def test_plain_views() -> None:
    assert torch.equal(view(PICTURES, AS_IT_IS, IDS), PICTURES)
    flipped = view(PICTURES, Query("flip", 1), IDS)
    assert np.array_equal(flipped.numpy(), PICTURES.numpy()[:, :, :, ::-1])


# --- neighbours ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["crop", "flip-crop"])
def test_crops_are_shifts_with_zeros(kind: str) -> None:
    moved = view(PICTURES, Query(kind, 1024, 2), IDS).numpy()
    x = PICTURES.numpy()[..., ::-1] if kind == "flip-crop" else PICTURES.numpy()
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    places = set()
    for n in range(64):
        found = [
            (down, across)
            for down in range(5)
            for across in range(5)
            if np.array_equal(padded[n, :, down : down + 5, across : across + 6], moved[n])
        ]
        assert len(found) == 1
        places |= set(found)
    assert (2, 2) not in places, "no shift at all is the record itself"
    assert len(places) > 15, "all over the place"


def test_every_shift_is_as_likely() -> None:
    ids = torch.arange(8000)
    x = torch.zeros(8000, 1, 3, 3)
    x[:, :, 1, 1] = 1
    counts = shifted(x, 1, 1024, ids).sum(dim=0).flatten()
    assert counts[4] == 0
    # 8 shifts over 8000 pictures: 1000 each, standard deviation 30.
    assert ((counts[[0, 1, 2, 3, 5, 6, 7, 8]] - 1000).abs() < 130).all()


def test_noise_is_standard_normal_and_independent() -> None:
    like = torch.zeros(64, 3, 8, 9)
    one, other = gaussian(like, 3072, IDS), gaussian(like, 3073, IDS)
    assert one.shape == like.shape
    assert one.dtype == torch.float32
    flat = one.flatten().double()
    assert abs(flat.mean()) < 5 / len(flat) ** 0.5
    assert abs(flat.std() - 1) < 0.03
    assert (flat.abs() > 1.96).double().mean().item() == pytest.approx(0.05, abs=0.01)
    rows = one.flatten(1)
    for first, second in (
        (one, other),  # views
        (rows[1:], rows[:-1]),  # samples
        (rows[:, 1:], rows[:, :-1]),  # features of one hash
        (rows[:, 4:], rows[:, :-4]),
    ):
        together = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
        assert abs(together) < 0.05


def test_features_come_from_the_donors_columns() -> None:
    everything = torch.arange(1000.0)[:, None] * 10 + torch.arange(
        10
    )  # the last digit says which column it was
    donors = torch.arange(900, 1000)
    views = [imputed(ROWS, everything, donors, 0.3, 4096 + nth, IDS) for nth in range(5)]
    masks = torch.stack([made != ROWS for made in views])
    for made, mask in zip(views, masks, strict=True):
        assert (mask.sum(dim=1) == 3).all()
        assert (made[mask] >= 9000).all()
        assert torch.equal((made % 10)[mask], (torch.arange(10.0).expand(64, 10))[mask])
    assert (masks == masks[0]).all(), "which features is a matter of the sample"
    assert len(masks[0].unique(dim=0)) > 30
    taken = torch.stack([made[mask] for made, mask in zip(views, masks, strict=True)])
    assert len((taken // 10).unique()) > 95, "from all donors"
    assert len((taken - taken[0]).abs().sum(dim=1).unique()) > 1, "each view its own"


def test_one_feature_at_least_and_never_all() -> None:
    everything = torch.full((5, 10), -1.0)
    for share, count in ((0.001, 1), (0.999, 9)):
        made = imputed(ROWS, everything, torch.arange(5), share, 4096, IDS)
        assert ((made == -1).sum(dim=1) == count).all()
    assert (imputed(ROWS[:, :1], everything, torch.arange(5), 0.5, 4096, IDS) == -1).all()


def data(*, pictures: bool) -> TrainingData:
    rng = np.random.default_rng(0)
    x = (
        rng.integers(0, 255, (64, 3, 5, 6)).astype(np.uint8)
        if pictures
        else rng.normal(7, [1, 2, 3, 4], (64, 4)).astype(np.float32)
    )
    channels = x.shape[1]
    mean, std = np.full(channels, 0.4, np.float32), np.arange(1, channels + 1).astype(np.float32)
    return TrainingData("made", 2, x, np.zeros(64, np.int64), np.arange(64) > 50, mean, std)


SPECS = {
    True: ("original", "flip", "crop:2:1", "flip-crop:1:2", "noise:2:0.5"),
    False: ("original", "noise:2:0.5", "impute:2:0.5"),
}


@pytest.mark.parametrize("pictures", [True, False])
def test_views_depend_on_sample_and_number_alone(pictures: bool) -> None:
    """Not on the batch, its order, other views, or what random streams did before."""
    held = DeviceData(data(pictures=pictures), torch.device("cpu"), normalize=True)
    ids = torch.arange(64)
    seen = []
    for query in expand_queries(SPECS[pictures]):
        whole = model_inputs(held, held.x, query, ids)
        torch.manual_seed(1)
        for part in (ids[:7], ids[7:40], torch.tensor([63]), ids.flip(0)):
            assert torch.equal(model_inputs(held, held.x[part], query, part), whole[part])
        seen.append(whole)
    for n, first in enumerate(seen):
        assert all(not torch.equal(first, second) for second in seen[:n])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("pictures", [True, False])
def test_views_are_the_same_on_a_gpu(pictures: bool) -> None:
    cpu, gpu = (
        DeviceData(data(pictures=pictures), torch.device(device), normalize=True)
        for device in ("cpu", "cuda")
    )
    ids = torch.arange(64)
    like = torch.zeros(64, 11)
    for query in expand_queries(SPECS[pictures]):
        if query.kind == "noise":
            there = gaussian(like.cuda(), query.number, ids.cuda()).cpu()
            assert torch.equal(gaussian(like, query.number, ids), there)
        here = model_inputs(cpu, cpu.x, query, ids)
        there = model_inputs(gpu, gpu.x, query, ids.cuda()).cpu()
        torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pictures", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_noise_is_in_standard_deviations(pictures: bool, normalize: bool) -> None:
    held = DeviceData(data(pictures=pictures), torch.device("cpu"), normalize=normalize)
    ids = torch.arange(64)
    plain = model_inputs(held, held.x, AS_IT_IS, ids)
    noise = model_inputs(held, held.x, Query("noise", 3072, 0.25), ids) - plain
    spread = (
        torch.ones(1)
        if normalize
        else torch.from_numpy(held.spread.numpy().ravel()).reshape(-1, *[1] * (noise.ndim - 2))
    )
    torch.testing.assert_close(noise / spread / 0.25, gaussian(plain, 3072, ids), rtol=1e-3, atol=1e-3)


def test_donors_are_the_population_or_else_everyone() -> None:
    held = DeviceData(data(pictures=False), torch.device("cpu"), normalize=True)
    assert held.donors.tolist() == list(range(51, 64))
    everyone = data(pictures=False)
    everyone.population[:] = False
    assert DeviceData(everyone, torch.device("cpu"), normalize=True).donors.tolist() == list(range(64))


def split_mix(state: int) -> int:
    """One output of SplitMix64 in integers without bounds."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
    return state ^ (state >> 31)


def test_the_numbers_are_these_for_good() -> None:
    """Lakes are added to for years: what is drawn must not change with versions of anything."""
    step = 0x9E3779B97F4A7C15
    for sample, found in zip(
        (0, 12345), gaussian(torch.zeros(2, 5), 3072, torch.tensor([0, 12345])), strict=True
    ):
        own = split_mix((sample * step + 0x10551A4E + (3072 << 32)) % 2**64)
        draws = [split_mix((own + n * step) % 2**64) for n in (1, 2)]
        levels = [(draws[n // 4] >> 16 * (n % 4)) % 2**16 for n in range(5)]
        expected = [NormalDist().inv_cdf((level + 0.5) / 2**16) for level in levels]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert gaussian(torch.zeros(1, 1), 3072, torch.tensor([0])).item() == pytest.approx(-1.1381056)


# --- in the lake --------------------------------------------------------------------------------------------


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    opened = Lake.open(tmp_path / "lake", create=True)
    pool = ["population" if n > 50 else "audit" for n in range(64)]
    opened.create_experiment("e", pa.table({"label": np.zeros(64, np.int64), "pool": pool}))
    return opened


def losses(lake: Lake, run: str) -> dict[int, np.ndarray]:
    frame = lake.sql("select * from signals where run = $run order by query, sample_id", {"run": run})
    return {query: part["loss"].to_numpy() for (query,), part in frame.group_by("query", maintain_order=True)}


def test_a_run_stores_every_view_and_how_it_was_drawn(lake: Lake) -> None:
    members = np.arange(64) < 25
    recipe = Recipe(model="mlp", model_options={"widths": (8,)}, epochs=1, batch_size=16)
    made = data(pictures=False)
    specs = ("original", "noise:2:0.5", "impute:1:0.5")
    for name, chosen in (("one", specs), ("again", specs), ("fewer", ("original", "noise:1:0.5"))):
        plan = RunPlan(name, "shadow", 3)
        run = train_run(lake, "e", made, recipe, plan, members, recording=Recording(chosen))
        assert run.info.extra["recording"]["queries"] == list(chosen)
    one, again, fewer = (losses(lake, name) for name in ("one", "again", "fewer"))
    assert list(one) == [0, 3072, 3073, 4096]
    assert list(fewer) == [0, 3072]
    for query, values in one.items():
        assert len(values) == 64
        np.testing.assert_array_equal(values, again[query])
        if query in fewer:
            np.testing.assert_array_equal(values, fewer[query])
        assert query == 0 or (values != one[0]).mean() > 0.9
    wanted = Recording(("original", "noise:2:0.4", "impute:1:0.5"))
    with pytest.raises(AlreadyExists, match=r"recording.queries = .*noise:2:0.5"):
        check_same(lake.run("e", "one"), RunPlan("one", "shadow", 3), recipe, wanted)


def test_wide_logits_of_neighbours_are_cut_off(lake: Lake) -> None:
    """The type of a run's logits is that of its plain views; loss and phi are of what the model said."""
    logits = np.zeros((64, 2), np.float32)
    recording = Recording(("original", "noise:1:0.5"))
    with lake.write_run("e", "run", members=np.arange(64) < 25) as writer:
        found = append_answers(
            writer,
            np.zeros(64, np.int64),
            lambda query: (logits if query.plain else logits - [0, 1e6], None),
            recording,
        )
        writer.commit(RunInfo(role="shadow"))
    assert (found.phi == 0).all()
    rows = lake.sql("select phi, logits from signals where query = 3072")
    assert rows["phi"].unique().to_list() == [1e6]
    assert rows["logits"][0].to_list() == [0, -65504]


def test_the_hook_stores_ranges_too(lake: Lake) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 6, 2))
    x = torch.rand(64, 3, 5, 6)
    labels = torch.zeros(64, dtype=torch.int64)
    queries = "original,crop:1:1,noise:1:0.5"
    with start_run(lake, "e", members=np.arange(25), queries=queries) as run:
        run.evaluate(model, (x, labels))
    assert lake.run("e", "target").info.extra["recording"] == {
        "queries": ["original", "crop:1:1", "noise:1:0.5"]
    }
    found = losses(lake, "target")
    ids = torch.arange(64)
    for query, seen in ((1024, shifted(x, 1, 1024, ids)), (3072, x + 0.5 * gaussian(x, 3072, ids))):
        with torch.no_grad():
            expected = nn.functional.cross_entropy(model(seen), labels, reduction="none")
        np.testing.assert_allclose(found[query], expected, rtol=1e-4)
    for name, wrong, message in (
        ("rows", x.flatten(1), r"query 'crop' needs pictures"),
        ("bytes", (x * 9).to(torch.uint8), "query 'noise' needs records of floating-point numbers"),
    ):
        run = start_run(lake, "e", members=np.arange(25), queries=queries, run=name)
        inner = nn.Sequential(nn.Flatten(), Floats(), model[1])
        with pytest.raises(InvalidOption, match=message):
            run.evaluate(inner, (wrong, labels))
        run.discard()


class Floats(nn.Module):
    """Takes bytes as numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


def test_devices_and_versions() -> None:
    assert choose_device("cpu").type == "cpu"
    for name in ("abacus", "cuda:99"):
        with pytest.raises(InvalidOption, match=name):
            choose_device(name)
    assert available_cpus() >= 1
    assert versions()["torch"] == torch.__version__
    assert versions().keys() - versions(trained=False).keys() == {"torch"}


def test_background_keeps_order_and_passes_errors_on() -> None:
    done: list[int] = []
    background = Background("test")
    for number in range(20):
        background.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    background.finish()
    assert done == list(range(20))

    def fail() -> None:
        raise ValueError("seven")

    background = Background("test")
    background.submit(fail)
    background.submit(lambda: done.append(-1))
    with pytest.raises(ValueError, match="seven"):
        background.finish()
    assert -1 not in done, "what follows a failure is not done"
    background.finish()  # told once
