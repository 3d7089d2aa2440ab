"""A torchvision model on photographs: the audit says what the long way says, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import losslake
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from places import SHARED_DATA
from torch import nn
from torch.utils.data import DataLoader

MEMBERS, ALL = 30, 60
KEYS = [f"photo {i}" for i in range(ALL)]
SCORES = ("lira", "rmia", "loss", "entropy")


@pytest.fixture(scope="module")
def photos() -> Any:
    """CIFAR-10 (JPEG) as a Hugging Face Dataset that decodes, transforms and makes tensors as it is read."""
    datasets, transforms = pytest.importorskip("datasets"), pytest.importorskip("torchvision.transforms")
    source = SHARED_DATA / "cifar10" / "test-00000-of-00001.parquet"
    if not source.exists():
        pytest.skip(f"no shared data at {source}")
    rows = next(pq.ParquetFile(source).iter_batches(ALL)).to_pydict()
    data = datasets.Dataset.from_dict({"photo": rows["img"], "label": rows["label"], "name": KEYS})
    see = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)])
    return data.cast_column("photo", datasets.Image()).with_transform(
        lambda batch: {**batch, "photo": [see(photo.convert("RGB")) for photo in batch["photo"]]}
    )


def forward(model: nn.Module, batch: Any) -> Any:
    return model(batch["photo"]), batch["label"]


def train(data: Any, seed: int) -> nn.Module:
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(seed)
    model = mobilenet_v3_small(weights=None, num_classes=10)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for batch in DataLoader(data, 10, shuffle=True):
        adam.zero_grad()
        nn.functional.cross_entropy(*forward(model, batch)).backward()
        adam.step()
    return model.eval()


def test_a_torchvision_model_on_photographs(photos: Any, tmp_path: Path) -> None:
    made: list[nn.Module] = []

    def kept(data: Any, seed: int) -> nn.Module:
        made.append(train(data, seed))
        return made[-1]

    target = train(photos.select(range(MEMBERS)), 0)
    sides = photos.select(range(MEMBERS)), photos.select(range(MEMBERS, ALL))
    audit = losslake.audit(target, *sides, key="name", forward=forward, shadows=2, train=kept)
    assert audit.scores()["key"].to_list() == KEYS
    assert set(audit.exposed(5)["key"]) <= set(KEYS[:MEMBERS])

    lake = losslake.open(tmp_path / "lake")
    held = audit.lake.sql("select run, sample_id, member from signals order by run, sample_id")
    models = {"target": target, **{f"shadow-{i:04d}": model for i, model in enumerate(made)}}
    for name, model in models.items():
        members = held.filter(run=name)["member"].to_numpy()
        if name == "target":
            assert members.tolist() == [i < MEMBERS for i in range(ALL)]
        with lake.start_run(
            "long", samples={"label": photos["label"], "key": KEYS}, members=members,
            role=name.partition("-")[0], run=name, forward=forward,
        ) as run:  # fmt: skip
            run.evaluate(model, photos)
    rows = "select run, sample_id, member, label, loss, phi, correct, logits from signals order by run, sample_id"
    assert audit.lake.sql(rows).equals(lake.sql(rows))
    for score in SCORES:
        ours, theirs = audit.lake.scores(score, experiment="audit"), lake.scores(score, experiment="long")
        assert np.array_equal(ours["score"], theirs["score"], equal_nan=True), score
