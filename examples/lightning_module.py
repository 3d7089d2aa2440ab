"""A Lightning module, recorded by a callback: which handwritten digits does this network expose?

python examples/lightning_module.py [LAKE] [EPOCHS]      (pip install 'losslake[lightning]')
"""

import sys

import lightning
import losslake
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Digits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        self.loss_fn = nn.CrossEntropyLoss(label_smoothing=0.05)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        inputs, labels = batch
        return self.loss_fn(self(inputs), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def main(folder: str = "lake", epochs: int = 20) -> None:
    lightning.seed_everything(0, verbose=False)
    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    y = torch.tensor(digits.target)
    members = torch.randperm(len(y))[: len(y) // 2]  # who is trained on
    loader = DataLoader(TensorDataset(x[members], y[members]), batch_size=64, shuffle=True)

    lake = losslake.open(folder)
    with lake.start_run("digits", samples=y, members=members) as run:
        everyone = TensorDataset(x, y)  # record i is sample i
        callback = losslake.lightning_callback(run, criterion="loss_fn", data=everyone, eval_trace=True)
        trainer = lightning.Trainer(
            max_epochs=epochs, callbacks=[callback], logger=False, enable_checkpointing=False
        )
        trainer.fit(Digits(), loader)

    print(f"{run.name}: the ten most exposed members")
    scores = lake.scores("lt-iqr", experiment="digits", target=run.name)
    for row in scores.filter(scores["member"]).top_k(10, by="score").iter_rows(named=True):
        print(f"sample {row['sample_id']:4d}  label {y[row['sample_id']]}  score {row['score']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
