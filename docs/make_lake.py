"""Write arrays.npz: 33 runs on 1,100 records that no model was trained for, the same on every machine.

The records are drawn from a fixed seed so that the pages of this folder can show exact numbers, and so that what an
analysis should find is known: 20 mislabelled records, which a run gets right only if it trained on them; 80 rare ones,
which profit a little; 900 typical ones, which hardly do. 100 more are a population that no run trained on.
"""

import sys

import numpy as np

RUNS, RECORDS, AUDIT, CLASSES, EPOCHS = 33, 1_100, 1_000, 4, 10
rng = np.random.default_rng(2024)

ids = np.arange(RECORDS)
labels = rng.integers(0, CLASSES, RECORDS)
population = ids >= AUDIT
mislabelled = (ids % 50 == 25) & ~population
rare = (rng.permutation(RECORDS) < 100) & ~population & ~mislabelled
rare &= np.cumsum(rare) <= 80
groups = np.where(mislabelled, "mislabelled", np.where(rare, "rare", "typical"))

keep = rng.random((RUNS, RECORDS)) < 0.5
keep[0, mislabelled] = np.arange(mislabelled.sum()) % 2 == 0  # run 0 is the target
keep &= ~population

# How far the logit of a record's label stands above the others: what it is anyway, and what training on it adds.
anyway = np.select([mislabelled, rare], [-2.5, 1.0], 2.5) + rng.normal(0, 0.8, RECORDS)
adds = np.select([mislabelled, rare], [5.0, 1.5], 0.4)
strength = anyway + adds * keep + rng.normal(0, 0.8, (RUNS, RECORDS))
logits = rng.normal(0, 0.5, (RUNS, RECORDS, 2, CLASSES))  # two views of a record: as it is, and mirrored
logits[:, ids, :, labels] += (strength[:, :, None] + rng.normal(0, 0.3, (RUNS, RECORDS, 2))).swapaxes(0, 1)

# The loss after each epoch: from that of a guess to that of the finished model, over a hill for those learnt late.
final = np.logaddexp.reduce(logits[:, :, 0], axis=-1) - logits[:, ids, 0, labels]
start = np.log(CLASSES) + rng.normal(0, 0.1, (RUNS, RECORDS))
learnt = np.array([0, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1, 1, 1])
hill = np.array([0, 0.6, 1, 1, 0.9, 0.7, 0.5, 0.3, 0.1, 0, 0])
height = np.select([mislabelled, rare], [3.0, 1.0], 0.0) * keep
traces = start[..., None] + (final - start)[..., None] * learnt + height[..., None] * hill
traces[..., 1:-1] += np.abs(rng.normal(0, 0.05, (RUNS, RECORDS, EPOCHS - 1)))
grad_norms = traces * (1.5 + rng.normal(0, 0.1, traces.shape).clip(-1, 1))

np.savez(
    sys.argv[1] if len(sys.argv) > 1 else "arrays.npz",
    labels=labels,
    keep=keep,
    population=population,
    groups=groups,
    logits=logits.astype(np.float32),
    traces=traces.astype(np.float32),
    grad_norms=grad_norms.astype(np.float32),
)
