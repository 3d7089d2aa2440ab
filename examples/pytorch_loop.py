"""A training loop of one's own, recorded: which handwritten digits does this network expose?

python examples/pytorch_loop.py [LAKE] [EPOCHS]
"""

import sys

import losslake
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main(folder: str = "lake", epochs: int = 40) -> None:
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    y = torch.tensor(digits.target)
    everyone = TensorDataset(x, y)  # record i is sample i
    members = torch.randperm(len(y))[: len(y) // 2]  # who is trained on

    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    loader = DataLoader(TensorDataset(x[members], y[members]), batch_size=64, shuffle=True)

    lake = losslake.open(folder)
    with lake.start_run("digits", samples=y, members=members, recipe={"epochs": epochs}) as run:
        loader = run.watch_loader(loader)
        criterion = run.watch_criterion(criterion)
        run.trace_eval(model, everyone)  # every record's loss before training ...
        for _ in range(epochs):
            for inputs, labels in loader:
                optimizer.zero_grad()
                criterion(model(inputs), labels).backward()
                optimizer.step()
            run.trace_eval(model, everyone)  # ... and after each epoch
        run.evaluate(model, everyone)  # what the finished model says of everyone

    print(f"{run.name}: the ten most exposed members")
    scores = lake.scores("lt-iqr", experiment="digits", target=run.name)
    for row in scores.filter(scores["member"]).top_k(10, by="score").iter_rows(named=True):
        print(f"sample {row['sample_id']:4d}  label {y[row['sample_id']]}  score {row['score']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
