"""Which news items does a small GPT-2 remember? LiRA, RMIA and the loss attack over the Hugging Face callback.

A GPT-2 of a few layers learns to write AG News from scratch, once as the target and again as shadow models, each on a
random half of the audit set (shadows in pairs: a half, and the other half). The population is set aside: no model trains
on it. The tokens are byte-level BPE, learnt from texts that are in neither. What is committed stays: the same command
completes what was interrupted.

    pip install 'losslake[huggingface]'
    python benchmarks/ag_news_gpt2.py AG_NEWS.parquet --lake lake --shadows 16 --jobs 2

AG_NEWS.parquet has the columns text and label (the topic, 0 to 3).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import losslake
import numpy as np
import polars as pl
import torch

EXPERIMENT = "ag-news"


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--lake", default="ag-news-lake")
    parser.add_argument("--shadows", type=int, default=16, help="models beside the target, an even number")
    parser.add_argument("--jobs", type=int, default=2, help="models that train at a time, one thread each")
    parser.add_argument("--audit", type=int, default=2000, help="texts that may be trained on")
    parser.add_argument("--population", type=int, default=1000, help="texts set aside for RMIA")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--context", type=int, default=48, help="tokens that a text is cut to")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one run, in a process of its own
    given = parser.parse_args()
    if given.only is not None:
        train(given, given.only)
        return
    lake = losslake.open(given.lake)
    names = ["target", *(f"shadow-{number:03d}" for number in range(given.shadows))]
    missing = [name for name in names if not lake.has_run(EXPERIMENT, name)]
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(train_apart, missing))
    show(lake)


def train_apart(name: str) -> None:
    """One run in a process of its own, whose threads are its own too."""
    subprocess.run([sys.executable, *sys.argv, "--only", name], check=True)
    print(f"{name} is committed", file=sys.stderr, flush=True)


def train(given: argparse.Namespace, name: str) -> None:
    """Train one model on its half of the audit set, recorded by the callback."""
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    samples, rest = texts(given)
    tokenizer = byte_pairs(rest, given.vocabulary, pad_token="<pad>")
    every = [
        {"input_ids": ids}
        for ids in tokenizer(samples["text"].to_list(), truncation=True, max_length=given.context)[
            "input_ids"
        ]
    ]
    members = members_of(name, given.audit)
    seed = 0 if name == "target" else 1 + int(name.rpartition("-")[2])
    transformers.set_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=given.context,
        n_embd=given.width,
        n_layer=given.layers,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    args = transformers.TrainingArguments(
        output_dir=f"{given.lake}.out",
        num_train_epochs=given.epochs,
        per_device_train_batch_size=given.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=given.lr,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        weight_decay=0.01,
        seed=seed,
        train_sampling_strategy="group_by_length",
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    with losslake.open(given.lake).start_run(
        EXPERIMENT,
        samples=samples.select("label", "pool"),
        members=members,
        run=name,
        role="target" if name == "target" else "shadow",
        model=f"gpt2-{given.layers}x{given.width}",
        dataset="ag_news",
        seed=seed,
        recipe=vars(given) | {"data": given.data.name},
    ) as run:
        transformers.Trainer(
            transformers.GPT2LMHeadModel(config),
            args,
            train_dataset=[every[number] for number in members],
            data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
            callbacks=[losslake.huggingface_callback(run, data=every, eval_trace=name == "target")],
        ).train()


def texts(given: argparse.Namespace) -> tuple[pl.DataFrame, list[str]]:
    """The samples, audit set first, then population; and all other texts. The same in every process."""
    frame = pl.read_parquet(given.data).select("text", pl.col("label").cast(pl.Int32))
    order = np.random.default_rng(0).permutation(len(frame))
    taken = given.audit + given.population
    pool = ["audit"] * given.audit + ["population"] * given.population
    samples = frame[order[:taken]].with_columns(pool=pl.Series(pool))
    return samples, frame[order[taken:]]["text"].to_list()


def byte_pairs(corpus: list[str], vocabulary: int, *, start: bool = True, **more: Any) -> Any:
    """A byte-level BPE tokenizer as GPT-2 has it, learnt from the corpus; ``start``: each text begins with one token of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<start>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(corpus, trainer)
    if start:
        inner.post_processor = processors.TemplateProcessing(
            single="<start> $A", special_tokens=[("<start>", inner.token_to_id("<start>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<start>", **more)


def members_of(name: str, audit: int) -> np.ndarray:
    """Half of the audit set; shadows 2k and 2k + 1 share it out."""
    if name == "target":
        return np.sort(np.random.default_rng([1, 0]).permutation(audit)[: audit // 2])
    number = int(name.rpartition("-")[2])
    order = np.random.default_rng([2, number // 2]).permutation(audit)
    return np.sort(order[: audit // 2] if number % 2 == 0 else order[audit // 2 :])


def show(lake: losslake.Lake) -> None:
    """Loss of members and others, then a row an attack: AUC and TPR at 1% FPR, with 95% intervals."""
    print(
        lake.sql(
            "select run, member, avg(loss) as loss from signals join samples using (experiment, sample_id) "
            "where pool = 'audit' and run = 'target' group by all order by all"
        )
    )
    print(f"\n{len(lake.runs(EXPERIMENT)) - 1} shadow models\n")
    print("| attack | AUC | 95% | TPR at 1% FPR | 95% |\n| --- | --- | --- | --- | --- |")
    for attack in ("loss", "calibrated", "lira", "rmia"):
        found = lake.analyze(attack, experiment=EXPERIMENT, target="target").metrics
        cells = []
        for metric in found:
            if metric.metric == "auc" or (metric.metric == "tpr_at_fpr" and metric.parameters["fpr"] == 0.01):
                value = "not resolved" if metric.value is None else f"{metric.value:.3f}"
                cells += [value, f"{metric.ci_low:.3f} to {metric.ci_high:.3f}"]
        print(f"| {attack} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
