"""What other audits and losslake say of the same models: one that knows none of the records, two that memorise them, one with differential privacy.

    python benchmarks/peers.py [--redraws 20] [--shadows 8] [--auditml PYTHON] [--privacyaudit PYTHON] [--privacyguard PYTHON] [--json FILE]

auditml, privacyaudit (privacylens) and privacyguard-platform are asked as their documentation has it, each by the interpreter named, where it is
installed; one that does not load is left out, with its reason. The last two want pandas below 3, so each is best installed in an environment of its own. All of them see the same network and the same records, and every redraw draws both anew.

    none     trained on other records of the same kind: members and non-members are exchangeable for it, whatever attacks it
    noise    labels are drawn by chance, and the network learns them by heart: what it knows, it knows of single records
    learnt   labels that can be learnt, a tenth of them wrong, until it knows all of them
    private  DP-SGD of epsilon 1 (opacus): no attack has a TPR over e * FPR + delta

What is true of ``none`` follows from how it is made; of the others what can be known is what the attacks find on average.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

KINDS = ("none", "noise", "learnt", "private")
EXACT = ("none", "private")
"""Those of which something is known for sure; the others are drawn a quarter as often."""

RECORDS, FEATURES, CLASSES, HIDDEN = 500, 10, 4, 64
STEPS = 120
EPSILON, DELTA, EPOCHS = 1.0, 1e-3, 4
PEERS = {"auditml": "auditml", "privacyaudit": "privacyaudit", "privacyguard": "privacyguard-platform"}
"""The packages, by what their options are called here."""


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


# --- the models ----------------------------------------------------------------------------------------------


def records(kind: str, rng: np.random.Generator) -> Callable[[int], TensorDataset]:
    """A source of records of one kind, as many as it is asked for."""
    weights = rng.standard_normal((FEATURES, CLASSES))

    def draw(count: int) -> TensorDataset:
        x = rng.standard_normal((count, FEATURES))
        chance = rng.integers(0, CLASSES, count)
        wrong = rng.random(count) < (1.0 if kind == "noise" else 0.1)
        y = np.where(wrong, chance, (x @ weights).argmax(axis=1))
        return TensorDataset(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y))

    return draw


def by_heart(data: Any, seed: int) -> nn.Module:
    """Trained until it knows its records."""
    torch.manual_seed(seed)
    model, (x, y) = network(), next(iter(DataLoader(data, len(data))))
    adam = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(STEPS):
        adam.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        adam.step()
    return model


def privately(data: Any, seed: int) -> nn.Module:
    """Trained by DP-SGD."""
    from opacus import PrivacyEngine

    torch.manual_seed(seed)
    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.5)
    private, sgd, loader = PrivacyEngine(accountant="rdp").make_private_with_epsilon(
        module=model,
        optimizer=sgd,
        data_loader=DataLoader(data, 50),
        target_epsilon=EPSILON,
        target_delta=DELTA,
        epochs=EPOCHS,
        max_grad_norm=1.0,
    )
    for _ in range(EPOCHS):
        for x, y in loader:
            sgd.zero_grad()
            nn.functional.cross_entropy(private(x), y).backward()
            sgd.step()
    plain = network()
    plain.load_state_dict(private._module.state_dict())
    return plain


def drawn(
    kind: str, seed: int
) -> tuple[nn.Module, TensorDataset, TensorDataset, Callable[[Any, int], nn.Module]]:
    """A model, its members, others, and what trains one like it."""
    source = records(kind, np.random.default_rng([seed, KINDS.index(kind)]))
    members, others, elsewhere = (source(RECORDS) for _ in range(3))
    train = privately if kind == "private" else by_heart
    return train(elsewhere if kind == "none" else members, seed), members, others, train


# --- losslake ------------------------------------------------------------------------------------------------


def by_losslake(kind: str, seed: int, shadows: int, folder: Path) -> Iterator[dict[str, Any]]:
    """What losslake says, without shadow models and with them; the model and its records are left in the folder for its peers."""
    import losslake

    model, members, others, train = drawn(kind, seed)
    _write(model, members, others, folder / f"{kind}-{seed}.npz")
    for count in dict.fromkeys((0, shadows)):
        more: dict[str, Any] = {"shadows": count, "train": train, "seed": seed} if count else {}
        audit = losslake.audit(model, members, others, output="logits", **more)
        attack = "lira" if count else "loss"
        rows = audit.metrics().filter(attack=attack)
        auc = rows.filter(metric="auc").row(0, named=True)
        tpr = rows.filter(metric="tpr_at_fpr", fpr=0.01).row(0, named=True)
        yield {
            "tool": f"losslake, {count} shadow models" if count else "losslake",
            "said": str(audit).splitlines()[0],
            "claims": audit.level in ("clear leak", "signs"),
            "denies": audit.level == "none found",
            "auc": auc["value"],
            "interval": [auc["ci_low"], auc["ci_high"]],
            "tpr": tpr["value"],
            "parts": {
                row["attack"]: row["value"]
                for row in audit.metrics().filter(metric="auc").iter_rows(named=True)
            },
            "lowest_tpr": tpr["ci_low"],
        }


# --- peers, each in its own interpreter ----------------------------------------------------------------------


class Estimator:
    """A network as scikit-learn has estimators."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.classes_ = model, np.arange(CLASSES)

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.model(torch.from_numpy(np.asarray(x, dtype=np.float32))).softmax(1).double().numpy()

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.predict_proba(x).argmax(axis=1)


def by_auditml(model: nn.Module, members: TensorDataset, others: TensorDataset) -> dict[str, Any]:
    import auditml

    found = auditml.audit(
        model,
        DataLoader(members, 64),
        DataLoader(others, 64),
        attacks=["mia_threshold", "mia_shadow", "attribute_inference"],  # the fourth takes pictures only
        shadow_model_fn=network,
        device="cpu",
    )
    said = next(line.strip(" ⚠✓") for line in found.summary().splitlines() if "eakage detected" in line)
    threshold = found["mia_threshold"]
    return {
        "said": said,
        "claims": found.is_vulnerable(),
        "denies": not found.is_vulnerable(),
        "auc": threshold.auc_roc,
        "tpr": threshold.tpr_at_1fpr,
        "parts": {name: each.auc_roc for name, each in found.attacks.items()},
    }


def by_privacyaudit(model: nn.Module, members: TensorDataset, others: TensorDataset) -> dict[str, Any]:
    from privacylens import audit

    (x, y), (x_out, y_out) = (tuple(t.numpy() for t in data.tensors) for data in (members, others))
    found = audit(Estimator(model), x, y, x_out, y_out)
    parts = {
        name: found.to_dict()[f"{name}_score"] for name in ("mia", "pii", "inversion", "attribute", "dp")
    }
    return {
        "said": f"Overall Risk: {found.risk_level}",
        "claims": found.risk_level != "LOW",
        "denies": found.risk_level == "LOW",
        "parts": parts,
    }


def by_privacyguard(model: nn.Module, members: TensorDataset, others: TensorDataset) -> dict[str, Any]:
    from privacy_guard.analysis.mia.analysis_node import AnalysisNode
    from privacy_guard.attacks.loss_attack import LossAttack

    scored = LossAttack(model, DataLoader(members, 64), DataLoader(others, 64)).run_attack()
    found = AnalysisNode(scored, delta=DELTA, n_users_for_eval=RECORDS, num_bootstrap_resampling_times=200)
    told = found.compute_outputs()
    return {
        "said": f"AUC {told['auc']:.2f}, eps {told['eps']:.1f}",
        "claims": None,
        "denies": None,
        "auc": float(told["auc"]),
        "interval": [float(each) for each in told["auc_ci"]],
        "parts": {name: float(told[name]) for name in ("eps", "eps_lb", "eps_cp", "eps_fpr_max_ub")},
    }


ASKED = {"auditml": by_auditml, "privacyaudit": by_privacyaudit, "privacyguard": by_privacyguard}


def as_child(name: str, folder: Path) -> None:
    """Ask one peer about every model in the folder, a line of JSON each."""
    folder = folder.resolve()
    os.chdir(tempfile.mkdtemp(prefix="peer-"))
    warnings.simplefilter("ignore")
    print(json.dumps({"version": metadata.version(PEERS[name])}), flush=True)
    # One of each kind after the other, so that a run that is stopped has seen as many of each.
    for path in sorted(folder.glob("*.npz"), key=lambda path: (int(path.stem.rpartition("-")[2]), path.stem)):
        kind, seed = path.stem.rsplit("-", 1)
        with np.load(path) as arrays:
            held = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        sides = [
            TensorDataset(held.pop(f"{side}/x"), held.pop(f"{side}/y")) for side in ("members", "others")
        ]
        model = network()
        model.load_state_dict(held)
        torch.manual_seed(int(seed))
        np.random.seed(int(seed))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = ASKED[name](model.eval(), *sides)
        print(json.dumps({"kind": kind, "seed": int(seed), "tool": name, **found}), flush=True)


def _write(model: nn.Module, members: TensorDataset, others: TensorDataset, path: Path) -> None:
    held = {key: value.numpy() for key, value in model.state_dict().items()}
    for side, data in (("members", members), ("others", others)):
        held |= {f"{side}/x": data.tensors[0].numpy(), f"{side}/y": data.tensors[1].numpy()}
    np.savez(path, **held)


def asked(name: str, python: str, folder: Path) -> tuple[str | None, list[dict[str, Any]]]:
    """A peer's version and what it says; or why it cannot be asked, and nothing."""
    done = subprocess.run(
        [python, "-P", __file__, "--child", name, "--folder", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["stopped"])[-1]
        print(f"{name}: {reason} after {max(len(lines) - 1, 0)} models", flush=True)
    return (lines[0]["version"] if lines else None), lines[1:]


# --- all of it -----------------------------------------------------------------------------------------------


def told(tool: str, kind: str, found: list[dict[str, Any]]) -> str:
    """A line: how often a leak is claimed and denied, and the numbers."""
    line = f"{kind:8} {tool:26} {len(found):3} models"
    if found[0]["claims"] is not None:
        line += f"  leak claimed {sum(one['claims'] for one in found):2}, denied {sum(one['denies'] for one in found):2}"
    for key in ("auc", "tpr"):
        values = [one[key] for one in found if one.get(key) is not None]
        if values:
            line += f"  {key} {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
    if "interval" in found[0]:
        line += f"  AUC's interval above .5 in {sum(one['interval'][0] > 0.5 for one in found)}"
    for part in found[0].get("parts", ()):
        line += f"  {part} {np.mean([one['parts'][part] for one in found]):.2f}"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--redraws", type=int, default=20)
    parser.add_argument("--shadows", type=int, default=8)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every statement in this file")
    for name in PEERS:
        parser.add_argument(f"--{name}", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--child", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.child:
        as_child(given.child, given.folder)
        return
    warnings.filterwarnings("ignore", module="opacus|torch")
    redraws = {kind: given.redraws if kind in EXACT else -(-given.redraws // 4) for kind in KINDS}
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, count in redraws.items():
            for seed in range(count):
                found += (
                    {"kind": kind, "seed": seed, **said}
                    for said in by_losslake(kind, seed, given.shadows, folder)
                )
        for peer in PEERS:
            version, lines = asked(peer, vars(given)[peer], folder)
            if version:
                print(f"{peer}: {PEERS[peer]} {version}")
            found += lines
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    for kind in KINDS:
        for tool in dict.fromkeys(one["tool"] for one in found):
            some = [one for one in found if (one["kind"], one["tool"]) == (kind, tool)]
            if some:
                print(told(tool, kind, some))
                print("         ", some[0]["said"])


if __name__ == "__main__":
    main()
