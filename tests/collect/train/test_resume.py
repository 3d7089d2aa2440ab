"""A training that is stopped, however and wherever, goes on when it is repeated, and ends bit for bit as if it had not been."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from losslake.cli import cli
from losslake.collect.data.training import TrainingData
from losslake.collect.experiment.prepare import prepare_experiment
from losslake.collect.fleet.target_and_shadows import collect_target
from losslake.collect.models.build import build_model
from losslake.collect.recipe import Recipe
from losslake.collect.signals.ask import Recording
from losslake.collect.train import checkpoint
from losslake.collect.train.checkpoint import Checkpointing
from losslake.collect.train.run import RunPlan
from losslake.collect.train.trainer import train_run
from losslake.store.errors import InvalidOption, LosslakeError, TrainingFailed
from losslake.store.files.local import LocalFiles
from losslake.store.format import manifest
from losslake.store.format.paths import run_manifest
from losslake.store.format.records import Run, RunInfo
from losslake.store.lake import Lake
from losslake.store.upkeep.gc import collect_garbage
from losslake.store.upkeep.verify import verify
from losslake.store.write.checkpoints import CheckpointWriter, find_checkpoints, resumable_files
from torch import nn
from trainer_data import lake_with, pictures
from warm import HANGS, warm_python

N, CLASSES = 60, 3
MLP = Recipe(
    model="mlp",
    model_options={"widths": (16,), "dropout": 0.2},
    epochs=5,
    batch_size=8,
    lr=0.05,
    flip=True,
    crop=2,
    early_stop=4,
)
CNN = replace(MLP, model="cnn", model_options={"norm": "batch", "dropout": 0.2}, epochs=4, warmup_epochs=1)
EACH = Checkpointing(every=1)
TRACED = Recording(("original",), traces=True, logits="float32")


DATA = pictures(N, classes=CLASSES, step=40, audit=50)
MEMBERS = (np.arange(N) % 2 == 0) & ~DATA.population

pytestmark = pytest.mark.usefixtures("one_thread", "warm_workers")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lake_with(DATA, tmp_path / "lake")


def train(
    lake: Lake,
    run: str = "target",
    recipe: Recipe = MLP,
    *,
    stop: int = 0,
    notes: list[str] | None = None,
    checkpointing: Checkpointing | None = EACH,
    recording: Recording = TRACED,
    seed: int = 5,
    members: np.ndarray = MEMBERS,
    data: TrainingData = DATA,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> Run:
    """Train; with ``stop`` a Ctrl-C comes while this epoch ends, before its checkpoint."""

    def after(epoch: int, loss: float) -> None:
        on_epoch(epoch)
        if epoch == stop:
            raise KeyboardInterrupt

    return train_run(
        lake,
        "e",
        data,
        recipe,
        RunPlan(run, "target", seed),
        members,
        recording=recording,
        checkpointing=checkpointing,
        on_epoch=after,
        on_note=(notes if notes is not None else []).append,
    )


def stopped(lake: Lake, epoch: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(lake, stop=epoch, **options)


def values(lake: Lake, run: str) -> list[Any]:
    """Signals and traces of a run, bit for bit."""
    found = []
    for file in lake.run("e", run).files:
        table = lake.read_file(file)
        for name in table.column_names:
            column = table[name].combine_chunks()
            flat = column.flatten() if pa.types.is_list(column.type) else column
            if pa.types.is_floating(flat.type):
                bits = flat.to_numpy(zero_copy_only=False).tobytes()
                found.append((name, bits, column.is_null().to_pylist()))
            else:
                found.append((name, column.to_pylist()))
    return found


def checkpoints(lake: Lake) -> list[int]:
    found, damage = find_checkpoints(lake.files, "e", "target")
    assert damage == []
    return [each.epoch for each in found]


def written(lake: Lake) -> list[str]:
    return lake.files.list("checkpoints")


# --- the same values ----------------------------------------------------------------------------------------


class Drawing(nn.Module):
    """A model that draws from every global stream, and keeps a buffer that its state_dict leaves out."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
            noise = random.gauss(0, 1) + np.random.normal() + torch.randn(()) + self.calls / 10
            x = x + 0.1 * noise
        return self.inner(x)


def drawing(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Drawing(build_model("mlp", input_shape=input_shape, classes=classes, options={"widths": (8,)}))


@pytest.mark.parametrize(
    ("recipe", "recording"),
    [
        (MLP, TRACED),
        (CNN, TRACED),
        (CNN, replace(TRACED, grad_norms="eval", queries=("original", "flip"), features=True)),
        (replace(MLP, early_stop=1, lr=0.4, epochs=12), replace(TRACED, grad_norms="train")),
        (replace(MLP, optimizer="adamw", lr=0.01, clip_norm=0.5, flip_order="alternate"), TRACED),
        (replace(MLP, optimizer="sgd", momentum=0.0, schedule="step", step_epochs=(2, 4)), TRACED),
        (replace(MLP, precision="bf16", nesterov=True, bias_lr=4.0, schedule="one-cycle"), TRACED),
        (replace(MLP, dp_noise=0.6, optimizer="adam", lr=0.01), TRACED),
        (replace(CNN, model="fast", model_options={"widths": (8, 8, 8)}), Recording()),
    ],
)
def test_a_run_that_was_stopped_three_times(lake: Lake, recipe: Recipe, recording: Recording) -> None:
    whole = train(lake, "whole", recipe, checkpointing=None, recording=recording)
    last, notes = whole.info.epochs or 0, list[str]()
    assert last > 2
    for epoch in (2, 2, last):
        stopped(lake, epoch, recipe=recipe, recording=recording, notes=notes)
        assert checkpoints(lake) == [each for each in (epoch - 1, epoch - 2) if each], "two, and no more"
        assert lake.files.list("staging") == []
    resumed = train(lake, recipe=recipe, recording=recording, notes=notes)
    assert values(lake, "target") == values(lake, "whole")
    assert notes == [f"resuming run target after epoch {at} of {recipe.epochs}" for at in (1, 1, last - 1)]
    told = {**resumed.info.extra}
    assert told.pop("resumed_after") == [1, last - 1], "the second time came to nothing"
    assert told == whole.info.extra
    assert replace(resumed.info, seconds=None, extra={}) == replace(whole.info, seconds=None, extra={})
    assert written(lake) == []


def test_a_model_of_the_users_own(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("losslake.collect.models.build.load_callable", lambda spec: drawing)
    recipe = replace(MLP, model="mine:drawing", model_options={}, optimizer="adamw", lr=0.01)

    def seed() -> None:
        random.seed(1)
        np.random.seed(2)

    seed()
    random.gauss(0, 1)  # leaves a second number for the next call
    state = random.getstate()
    train(lake, "whole", recipe, checkpointing=None)
    seed()
    random.setstate(state)
    stopped(lake, 4, recipe=recipe)
    seed()
    train(lake, recipe=recipe)
    assert values(lake, "target") == values(lake, "whole")


def test_time_is_added_up(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    for clock in ("monotonic", "perf_counter"):
        monkeypatch.setattr(f"time.{clock}", lambda: now[0])

    def pass_time(epoch: int) -> None:
        now[0] += 10

    stopped(lake, 4, on_epoch=pass_time)
    now[0] += 1000  # nobody trains
    run = train(lake, on_epoch=pass_time)
    assert run.info.seconds == 50


# --- when a checkpoint is made ------------------------------------------------------------------------------


def test_by_time(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    now, cost = [0.0], 1.0
    real = CheckpointWriter.write

    def write(*args: Any) -> bool:
        now[0] += cost
        return real(*args)

    monkeypatch.setattr("losslake.collect.train.checkpoint.time.monotonic", lambda: now[0])
    monkeypatch.setattr(CheckpointWriter, "write", write)
    seen = []

    def pass_time(epoch: int) -> None:
        seen.append(max(checkpoints(lake), default=0))
        now[0] += 11

    recipe = replace(MLP, epochs=13, early_stop=None)
    stopped(lake, 13, recipe=recipe, checkpointing=Checkpointing(), on_epoch=pass_time)
    assert seen == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9, 12], "each 30 s"
    cost, seen = 3.0, []
    stopped(lake, 13, recipe=recipe, checkpointing=Checkpointing(restart=True), on_epoch=pass_time)
    assert seen == [0, 0, 0, 3, 3, 3, 3, 3, 3, 9, 9, 9, 9], "3 s of 60"


def test_by_epochs(lake: Lake) -> None:
    stopped(lake, 5, checkpointing=Checkpointing(every=3))
    assert checkpoints(lake) == [3]
    notes: list[str] = []
    stopped(lake, 5, checkpointing=Checkpointing(every=0), notes=notes)
    assert notes == ["resuming run target after epoch 3 of 5"]
    assert checkpoints(lake) == [3], "none is made, and the one there was is left"
    with pytest.raises(InvalidOption, match="checkpoint_every is -1"):
        Checkpointing(every=-1)


def test_after_the_last_epoch(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    train(lake, "whole", checkpointing=None)
    monkeypatch.setattr("losslake.collect.train.run.append_answers", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(lake)
    monkeypatch.undo()
    notes: list[str] = []
    run = train(lake, notes=notes)
    assert notes == ["resuming run target after epoch 5 of 5"]
    assert values(lake, "target") == values(lake, "whole")
    assert run.info.epochs == 5


# --- what does not fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipe": replace(MLP, lr=0.02)}, "lr 0.05, not 0.02"),
        ({"seed": 6}, "seed 5, not 6"),
        ({"members": MEMBERS & (np.arange(N) > 3)}, "other members"),
        ({"data": replace(DATA, x=DATA.x + 1)}, "other data"),
        ({"recording": replace(TRACED, grad_norms="train")}, "grad_norms 'none', not 'train'"),
    ],
)
def test_another_run_begins_anew_and_leaves_the_checkpoint(
    lake: Lake, options: dict[str, Any], words: str
) -> None:
    stopped(lake, 4)
    notes: list[str] = []
    stopped(lake, 3, notes=notes, **options)
    assert notes == [
        f"run target begins anew: its checkpoint after epoch 3 is of a run with {words}; to go on from it stop this and "
        "give the former options"
    ]
    assert checkpoints(lake) == [3, 2, 2, 1]
    # Either can be gone on with until one of them is committed.
    notes.clear()
    stopped(lake, 4, notes=notes, **options)
    assert notes == ["resuming run target after epoch 2 of 5"]
    train(lake, notes=notes)
    assert notes[1:] == ["resuming run target after epoch 3 of 5"]
    assert written(lake) == []


def test_what_is_asked_of_the_trained_model_may_change(lake: Lake) -> None:
    stopped(lake, 4)
    notes: list[str] = []
    recording = replace(TRACED, queries=("original", "flip"), features=True, logits="none")
    train(lake, notes=notes, recording=recording)
    train(lake, "whole", recording=recording, checkpointing=None)
    assert notes == ["resuming run target after epoch 3 of 5"]
    assert values(lake, "target") == values(lake, "whole")


def test_restart(lake: Lake) -> None:
    stopped(lake, 4)
    notes: list[str] = []
    stopped(lake, 2, checkpointing=Checkpointing(every=1, restart=True), notes=notes)
    assert notes == []
    assert checkpoints(lake) == [1]


def test_a_model_that_has_changed_since(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(MLP, model="mine:model", model_options={})
    build = "losslake.collect.models.build.load_callable"
    monkeypatch.setattr(build, lambda spec: drawing)
    stopped(lake, 3, recipe=recipe)
    monkeypatch.setattr(build, lambda spec: lambda **given: drawing(**given).inner)
    with pytest.raises(InvalidOption, match=r"cannot go on .*other parameters or buffers now.*--restart"):
        train(lake, recipe=recipe)
    assert checkpoints(lake) == [2, 1]


def test_a_model_with_state_that_only_pickle_could_store(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Drawing):
        def get_extra_state(self) -> Any:
            return object()

        def set_extra_state(self, state: Any) -> None: ...

    monkeypatch.setattr(
        "losslake.collect.models.build.load_callable",
        lambda spec: lambda **given: Counting(drawing(**given).inner),
    )
    notes: list[str] = []
    train(lake, recipe=replace(MLP, model="mine:model", model_options={}), notes=notes)
    assert len(notes) == 1
    assert "has no checkpoint after epoch 1: the model (Counting) has state beside its parameters" in notes[0]


def test_another_version_is_told(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(lake, 3)
    now = checkpoint.versions()
    monkeypatch.setattr(checkpoint, "versions", lambda: {**now, "torch": "99"})
    notes: list[str] = []
    train(lake, notes=notes)
    assert notes == [f"resuming run target after epoch 2 of 5, begun with torch {now['torch']}"]


# --- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
@pytest.mark.parametrize(
    ("file", "at"),
    [("epoch-000003.safetensors", 2), ("epoch-000003.json", 2), ("traces-000001.safetensors", None)],
)
def test_a_damaged_checkpoint(lake: Lake, how: str, file: str, at: int | None) -> None:
    train(lake, "whole", checkpointing=None)
    stopped(lake, 4)
    path = next(Path(lake.path).glob(f"checkpoints/*/*/*/{file}"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.unlink() if how == "remove" else path.write_bytes(content if how == "flip" else content[:-9])
    notes: list[str] = []
    train(lake, notes=notes)
    assert values(lake, "target") == values(lake, "whole")
    *damage, last = notes
    if file.endswith("json") and how == "remove":
        assert damage == []
    else:
        assert len(damage) == (1 if at else 2)  # every checkpoint needs the traces
        assert all("a checkpoint of run target cannot be used" in note and file in note for note in damage)
    none = "run target begins anew: none of its checkpoints can be read"
    assert last == (none if at is None else f"resuming run target after epoch {at} of 5")


def test_any_damage_at_all(lake: Lake) -> None:
    train(lake, "whole", checkpointing=None)
    whole = values(lake, "whole")
    stopped(lake, 4)
    kept = {path: Path(lake.files.location(path)).read_bytes() for path in written(lake)}
    rng = random.Random(0)
    said: list[str] = []
    for _ in range(10):
        for path, content in kept.items():
            place = Path(lake.files.location(path))
            place.parent.mkdir(parents=True, exist_ok=True)
            changed = bytearray(content)
            if rng.random() < 0.3:
                changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            place.write_bytes(changed)
        train(lake, notes=said)
        assert values(lake, "target") == whole
        lake.files.delete(run_manifest("e", "target"))
    assert {note.split(" of run")[0] for note in said} >= {"a checkpoint"}
    assert {note[-12:] for note in said if "resuming" in note} == {"epoch 2 of 5", "epoch 3 of 5"}


FORGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no facts": lambda facts: facts.clear(),
    "steps of text": lambda facts: facts.update(steps="x"),
    "steps below 0": lambda facts: facts.update(steps=-1),
    "another epoch": lambda facts: facts.update(epoch=4),
    "an epoch that is true": lambda facts: facts.update(epoch=True),
    "no layout": lambda facts: facts.update(layout={}),
    "a layout beyond its tensor": lambda facts: facts.update(
        layout={name: [kind, [1 << 40 for _ in stride]] for name, (kind, stride) in facts["layout"].items()}
    ),
    "versions of nothing": lambda facts: facts.update(versions=None),
    "python of nothing": lambda facts: facts.update(python=None),
    "python of another kind": lambda facts: facts.update(python=[17, None]),
    "numpy of text": lambda facts: facts.update(numpy=["a", "b", "c"]),
    "time without end": lambda facts: facts.update(seconds=float("inf")),
    "resumed after nothing": lambda facts: facts.update(resumed_after=None),
    "what in a list": lambda facts: facts.update(what=[]),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forged_checkpoint_costs_itself_and_no_more(
    lake: Lake, forge: Callable[[dict[str, Any]], Any]
) -> None:
    train(lake, "whole", checkpointing=None)
    stopped(lake, 4)
    manifests = sorted(path for path in written(lake) if path.endswith(".json"))
    content = manifest.load(lake.files, manifests[-1])
    forge(content["facts"])
    lake.files.put(manifests[-1], manifest.dump({k: v for k, v in content.items() if k != "checksum"}))
    notes: list[str] = []
    train(lake, notes=notes)
    assert values(lake, "target") == values(lake, "whole")
    assert f"{manifests[-1]} is not of a training" in notes[0]
    assert notes[-1] == "resuming run target after epoch 2 of 5"


def test_a_checkpoint_of_another_name_counts_for_nothing(lake: Lake) -> None:
    stopped(lake, 3)
    for folder in Path(lake.path).glob("checkpoints/*"):
        (folder / "run=target").rename(folder / "run=other")
    notes: list[str] = []
    train(lake, "other", notes=notes)
    assert len(notes) == 2
    assert all("speaks of run 'target': it was moved or renamed" in note for note in notes)


def test_a_full_disk_does_not_stop_the_training(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    train(lake, "whole", checkpointing=None)
    real = CheckpointWriter._store
    tries = []

    def store(self: CheckpointWriter, path: str, data: bytes) -> Any:
        tries.append(path)
        if len(tries) in (3, 4):
            raise LosslakeError("No space left on device")
        return real(self, path, data)

    monkeypatch.setattr(CheckpointWriter, "_store", store)
    notes: list[str] = []
    stopped(lake, 5, notes=notes)
    assert notes == [
        f"run target has no checkpoint after epoch {epoch}: No space left on device" for epoch in (2, 3)
    ]
    assert checkpoints(lake) == [4, 1]
    train(lake)
    assert values(lake, "target") == values(lake, "whole")


# --- who else is there --------------------------------------------------------------------------------------


def test_no_reader_sees_it_and_nobody_calls_it_a_leftover(lake: Lake) -> None:
    train(lake, "other", checkpointing=None)
    before = lake.sql("select count(*) from signals")
    stopped(lake, 4)
    assert [run.run for run in lake.runs("e")] == ["other"]
    assert lake.sql("select count(*) from signals").equals(before)
    assert verify(lake).damage == ()
    assert [path for path in verify(lake).leftovers if path.startswith("checkpoints")] == []
    assert resumable_files(lake.files) == set(written(lake))
    # A piece that no checkpoint lists any more, as a kill leaves it.
    last = max(written(lake))
    Path(lake.files.location(f"{last}.extra")).write_bytes(b"")
    assert set(written(lake)) - resumable_files(lake.files) == {f"{last}.extra"}
    # Committed by somebody else: all of it is.
    with lake.write_run("e", "target", members=MEMBERS) as writer:
        ids = np.arange(N)
        writer.append_signals(ids, ids * 0, ids, loss=ids, phi=ids)
        writer.commit(RunInfo(role="target"))
    assert resumable_files(lake.files) == set()


def test_a_run_that_another_process_commits_is_given_up_soon(lake: Lake) -> None:
    seen: list[int] = []

    def commit(epoch: int) -> None:
        seen.append(epoch)
        if epoch == 2:
            train(lake, checkpointing=None)

    with pytest.raises(LosslakeError, match="committed by another process"):
        train(lake, on_epoch=commit)
    assert seen == [1, 2]
    assert written(lake) == []


def test_a_run_that_diverges_leaves_no_checkpoint(lake: Lake) -> None:
    recipe = replace(MLP, lr=30.0, schedule="constant", early_stop=None, epochs=40, momentum=0.99)
    seen: list[int] = []
    with pytest.raises(TrainingFailed, match="diverged"):
        train(lake, recipe=recipe, on_epoch=seen.append)
    assert seen, "there was one"
    assert written(lake) == []


# --- processes that are killed ------------------------------------------------------------------------------

SERVER = """
import json, os, signal, sys, time
import torch
torch.set_num_threads(1)
os.fsync = lambda handle: None
from losslake.collect.data.load import load_dataset
from losslake.collect.fleet.target_and_shadows import collect_target
from losslake.collect.recipe import Recipe
from losslake.store.files.local import LocalFiles
from losslake.store.lake import Lake

load_dataset("digits")  # its imports, once

class Tell:
    def __init__(self, job): self.job = job
    def start(self, total, unit): pass
    def advance(self, n, note):
        if f"epoch {self.job.get('epoch')}/" in note: os.kill(os.getpid(), signal.SIGKILL)
    def note(self, sentence):
        os.write(self.job["pipe"], (sentence + "\\n").encode())
        if "meeting" in self.job:  # nobody goes on before both have found where to
            open(os.path.join(self.job["meeting"], str(os.getpid())), "w").close()
            while len(os.listdir(self.job["meeting"])) < 2:
                time.sleep(0.01)
    def finish(self): pass

def die_at_step(count):
    # A kill before, and one in the middle of, every change to the files of a checkpoint.
    for name in ("put", "create", "delete"):
        def step(self, path, *args, real=getattr(LocalFiles, name), name=name, **options):
            nonlocal count
            if path.startswith("checkpoints/"):
                count -= 1
                if count == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                if count == 1 and name == "create":
                    os.makedirs(os.path.dirname(self.location(path)), exist_ok=True)
                    with open(self.location(path), "wb") as half:
                        half.write(b"half")
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(self, path, *args, **options)
        setattr(LocalFiles, name, step)

def work(job):
    if "step" in job:
        die_at_step(job["step"])
    lake = Lake.open(job["lake"])
    collect_target(lake, "e", recipe=Recipe(**job["recipe"]), checkpoint_every=1, jobs=1, device="cpu", progress=Tell(job))

for line in sys.stdin:
    children, (ear, mouth) = [], os.pipe()
    for job in json.loads(line):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work({**job, "pipe": mouth})
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.close(mouth)
    print(json.dumps([codes, os.fdopen(ear).read().splitlines()]), flush=True)
"""


@pytest.fixture(scope="module")
def processes() -> Iterator[Callable[..., tuple[list[int], list[str]]]]:
    """Give it jobs, each for a process of its own, all at once: their exit codes, and what they said."""
    server = subprocess.Popen(
        [*warm_python(), "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None

    def run(*jobs: dict[str, Any]) -> tuple[list[int], list[str]]:
        server.stdin.write(json.dumps(jobs) + "\n")
        server.stdin.flush()
        codes, said = json.loads(server.stdout.readline())
        return codes, said

    yield run
    server.stdin.close()
    server.wait(HANGS)


DIGITS = replace(MLP, crop=1, epochs=4, early_stop=3)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, list[Any]]:
    """A lake with the data, and what a run ends with that is never stopped."""
    lake = Lake.open(tmp_path_factory.mktemp("digits") / "lake", create=True)
    prepared = prepare_experiment(lake, "e", dataset="digits", samples=60, population=0.2)
    collect_target(lake, "e", recipe=DIGITS, run="whole", prepared=prepared, jobs=1, device="cpu")
    return lake, values(lake, "whole")


@pytest.fixture
def job(digits: tuple[Lake, list[Any]]) -> Iterator[dict[str, Any]]:
    lake, _ = digits
    yield {"lake": lake.path, "recipe": asdict(DIGITS)}
    # The next one trains it again.
    for path in (*lake.files.list("runs/experiment=e"), *lake.files.list("checkpoints")):
        if "target" in path:
            lake.files.delete(path)


def test_killed_in_any_epoch(
    digits: tuple[Lake, list[Any]], job: dict[str, Any], processes: Callable[..., Any]
) -> None:
    lake, whole = digits
    for epoch, resumed in ((1, []), (3, []), (3, [2]), (4, [2])):
        codes, said = processes({**job, "epoch": epoch})
        assert codes == [-9]
        assert said == [f"resuming run target after epoch {each} of 4" for each in resumed]
        assert not lake.has_run("e", "target")
    assert processes(job) == ([0], ["resuming run target after epoch 3 of 4"])
    assert values(lake, "target") == whole
    assert written(lake) == []


def test_killed_at_any_step_of_a_checkpoint(
    digits: tuple[Lake, list[Any]], job: dict[str, Any], processes: Callable[..., Any]
) -> None:
    lake, whole = digits
    step, ended = 0, False
    while not ended:
        step += 3 if step > 7 else 1
        codes, _ = processes({**job, "step": step})
        ended = codes == [0]
        if not lake.has_run("e", "target"):
            assert codes == [-9]
            find_checkpoints(lake.files, "e", "target")
            codes, said = processes(job)
            assert codes == [0]
            assert all("resuming" in sentence for sentence in said), "nothing that was half written is met"
        assert values(lake, "target") == whole
        left = [path for path in written(lake) if path in resumable_files(lake.files)]
        assert left == [], "what a kill after the commit left is nobody's"
        for path in (*lake.files.list("runs/experiment=e"), *written(lake)):
            if "whole" not in path:
                lake.files.delete(path)
    assert step > 10


def test_two_go_on_at_once(
    digits: tuple[Lake, list[Any]], job: dict[str, Any], processes: Callable[..., Any], tmp_path: Path
) -> None:
    lake, whole = digits
    assert processes({**job, "epoch": 3})[0] == [-9]
    codes, said = processes(*[{**job, "meeting": str(tmp_path)}] * 2)
    assert codes == [0, 0]
    assert len(said) == 2
    assert values(lake, "target") == whole
    assert written(lake) == []


def test_one_goes_on_while_the_other_is_killed_again(
    digits: tuple[Lake, list[Any]], job: dict[str, Any], processes: Callable[..., Any]
) -> None:
    lake, whole = digits
    assert processes({**job, "epoch": 3}, {**job, "epoch": 3})[0] == [-9, -9]
    codes, _ = processes({**job, "epoch": 4}, job)
    assert codes[1] == 0
    assert values(lake, "target") == whole


def test_garbage_collection_leaves_what_can_be_gone_on_with(
    digits: tuple[Lake, list[Any]], job: dict[str, Any], processes: Callable[..., Any]
) -> None:
    lake, whole = digits
    assert processes({**job, "epoch": 4})[0] == [-9]
    assert processes({**job, "recipe": {**job["recipe"], "lr": 0.01}, "epoch": 3})[0] == [-9]
    kept = written(lake)
    half = f"{kept[0].rpartition('/')[0]}/traces-000009.safetensors"
    Path(lake.files.location(half)).write_bytes(b"half")
    removed = collect_garbage(lake).removed
    assert half in removed
    assert any(path.startswith("staging/") for path in removed)
    assert written(lake) == kept, "the furthest of either recipe"
    assert processes(job) == ([0], ["resuming run target after epoch 3 of 4"])
    assert values(lake, "target") == whole
    lake.files.delete(run_manifest("e", "target"))
    assert processes({**job, "epoch": 3})[0] == [-9]
    assert collect_garbage(lake, checkpoints=True, older_than=timedelta(0)).removed
    assert written(lake) == []


# --- the command line ---------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["collect", "target", "--lake", str(tmp_path / "lake"), "--experiment", "e"]
    arguments += [
        "--dataset",
        "digits",
        "--samples",
        "60",
        "--model",
        "mlp",
        "--widths",
        "8",
        "--epochs",
        "4",
    ]
    arguments += ["--batch-size", "8", "--device", "cpu", "--checkpoint-every", "2"]
    real = LocalFiles.put

    def put(self: LocalFiles, path: str, data: bytes) -> None:
        real(self, path, data)
        if path.endswith("epoch-000002.json"):
            raise KeyboardInterrupt

    monkeypatch.setattr(LocalFiles, "put", put)
    assert CliRunner().invoke(cli, arguments).exit_code != 0
    monkeypatch.undo()
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0
    assert "e target: resuming run target after epoch 2 of 4\n" in done.stderr
    refused = CliRunner().invoke(cli, [*arguments, "--checkpoint-every", "-1"])
    assert isinstance(refused.exception, InvalidOption)


def test_workers_go_on_too(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake", create=True)
    prepared = prepare_experiment(lake, "e", dataset="digits", samples=60, population=0.2)

    class Stopping:
        def __init__(self, epoch: int) -> None:
            self.epoch, self.notes = epoch, list[str]()

        def start(self, total: int, unit: str) -> None: ...

        def advance(self, n: int, note: str) -> None:
            if f"epoch {self.epoch}/" in note:
                raise KeyboardInterrupt

        def note(self, sentence: str) -> None:
            self.notes.append(sentence)

        def finish(self) -> None: ...

    def collect(progress: Stopping, jobs: int) -> list[Run]:
        options: dict[str, Any] = {"duals": 1, "checkpoint_every": 1, "device": "cpu", "jobs": jobs}
        return collect_target(lake, "e", recipe=DIGITS, prepared=prepared, progress=progress, **options)

    with pytest.raises(KeyboardInterrupt):
        collect(Stopping(3), jobs=1)
    again = Stopping(0)
    assert [run.run for run in collect(again, jobs=2)] == ["target", "target-dual-1"]
    assert again.notes == ["resuming run target after epoch 2 of 4"]
    assert written(lake) == []
