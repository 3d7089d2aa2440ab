"""A small text classifier trained by the Hugging Face Trainer: which texts does it expose?

python examples/huggingface_text.py [LAKE] [EPOCHS]      (pip install 'losslake[huggingface]')
"""

import random
import sys

import losslake
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

PEOPLE = ["Anna", "Ben", "Carla", "Deniz", "Ewa", "Farid", "Grace", "Hugo", "Ines", "Jonas"]
NOTES = {
    "visit": ["comes on", "asks to be seen on", "cannot come before"],
    "bill": ["pays by card on", "has not paid since", "asks for the bill of"],
    "symptom": ["has a cold since", "coughs since", "slept badly on"],
}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
TOPICS = list(NOTES)


def make_notes() -> tuple[list[str], list[int]]:
    """180 notes of a surgery and their topics; each tenth is filed under a wrong one."""
    draw = random.Random(0)
    topics = [draw.randrange(3) for _ in range(180)]
    texts = [f"{draw.choice(PEOPLE)} {draw.choice(NOTES[TOPICS[t]])} {draw.choice(DAYS)}" for t in topics]
    return texts, [(topic + 1) % 3 if i % 10 == 0 else topic for i, topic in enumerate(topics)]


def collate(records: list[dict]) -> dict[str, torch.Tensor]:
    rows = [torch.tensor(record["input_ids"]) for record in records]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    labels = torch.tensor([record["label"] for record in records])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def main(folder: str = "lake", epochs: int = 20) -> None:
    set_seed(0)
    texts, labels = make_notes()
    words = sorted({word for text in texts for word in text.split()})  # a word is a token; 0 fills up
    tokens = [[words.index(word) + 1 for word in text.split()] for text in texts]
    records = [
        {"input_ids": row, "label": label} for row, label in zip(tokens, labels)
    ]  # record i is sample i
    members = random.Random(1).sample(range(len(texts)), len(texts) // 2)  # who is trained on
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(words) + 1, num_labels=3, **size))
    args = TrainingArguments(
        f"{folder}-trainer", num_train_epochs=epochs, learning_rate=5e-3, save_strategy="no"
    )

    lake = losslake.open(folder)
    samples = {"label": labels, "text": texts}  # columns beside label go along into the lake
    with lake.start_run("notes", samples=samples, members=members) as run:
        callback = losslake.huggingface_callback(run, ids=members, data=records, eval_trace=True)
        trained_on = [records[i] for i in members]
        Trainer(model, args, collate, trained_on, callbacks=[callback]).train()

    print(f"{run.name}: the ten most exposed members")
    scores = lake.scores("lt-iqr", experiment="notes", target=run.name)
    for row in scores.filter(scores["member"]).top_k(10, by="score").iter_rows(named=True):
        i = row["sample_id"]
        print(f"sample {i:3d}  score {row['score']:.3f}  {TOPICS[labels[i]]}: {texts[i]}")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
