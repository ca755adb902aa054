"""What a training step costs: our loop, the plain `transformers` Trainer, and SASRec in RecTools' Lightning loop.

Aim: no slower than either. Times on a shared processor are printed, not judged; agreement decides the test. A step is
from one moment of the loop to the same moment of the next step, so making the batch, the optimiser and what the loop
does around them are counted, and validation, set-up and the end are not. Each round takes every way once.

Equal in all: the newest events of users of MovieLens-100K, up to 50 targets of each, in batches of 32; a softmax over
all items among these events; eight layers 64 wide with two heads; no dropout, one thread. Our loop and the Trainer
share model, batches, optimiser, schedule and clipping as well, and must arrive at the same weights; only the Trainer
reads one token more, since `transformers` expects the last target among the tokens. RecTools has a network of its own,
whose layers the GPT-2 here equals in arithmetic, another order of users, padding to 50 on the left, and plain Adam
without schedule or clipping. It must see as many targets.
"""

import copy
import statistics
import time
from collections import defaultdict
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer, TrainerCallback, TrainingArguments

from layerwise.data.readers import load_interactions
from layerwise.data.splits import leave_last_out
from layerwise.models import training
from layerwise.models.families import Shape
from layerwise.models.inputs import IGNORED
from layerwise.models.recommender import build_recommender
from layerwise.models.training import Recipe, next_item_loss, train

ROUNDS, NUM_USERS, BATCH, LENGTH = 5, 448, 32, 50
RECIPE = Recipe(epochs=1, learning_rate=1e-3, batch_size=BATCH, dropout=0.0)
MODELS = {
    "llama": ("Llama, 8 x 64, as in the quick tier", Shape(8, 64, 172, 2)),
    "gpt2": ("GPT-2, 8 x 64, feed-forward 64 wide as in SASRec", Shape(8, 64, 43, 2)),
}


class Steps:
    """Wall and processor time at the same moment of each step, and how many targets it had."""

    def __init__(self):
        self.moments, self.targets = [], 0

    def tick(self):
        self.moments.append((time.perf_counter(), time.process_time()))

    def median(self):
        """Wall and processor seconds of a step."""
        return np.median(np.diff(self.moments, axis=0), axis=0)


def data():
    """The newest training events of some users, and how many items are among them: RecTools would read no others."""
    split = leave_last_out(load_interactions("ml-100k", min_events=7))
    events = [sequence[-LENGTH - 1 :] for sequence in split.train_sequences()[:NUM_USERS]]
    items, codes = np.unique(np.concatenate(events), return_inverse=True)
    return np.split(codes, np.cumsum([len(sequence) for sequence in events])[:-1]), len(items)


# Ways: one epoch from the same start


def ours(recommender, sequences, loss=next_item_loss):
    steps = Steps()

    def noting(student, states, windows):
        steps.tick()
        steps.targets += len(windows.items)
        return loss(student, states, windows)

    trained = train(recommender, sequences, lambda student: 0.0, RECIPE, seed=0, loss=noting)
    return steps, trained.recommender.model


class Stretches(torch.utils.data.Dataset):
    """The windows of our loop, in its order, if they are asked for one after another."""

    def __init__(self, recommender, sequences):
        self.inputs, self.sequences = recommender.inputs, sequences
        self.rng = np.random.default_rng(0)
        self.order = self.rng.permutation(len(sequences))

    def __len__(self):
        return len(self.sequences)

    def __getitem__(self, index):
        window = self.inputs.window(self.sequences[self.order[index]], self.rng)
        return torch.from_numpy(np.append(window.inputs["input_ids"], window.items[-1]))


def trainer(recommender, sequences, folder, masked):
    """The labels are the tokens themselves, as `transformers` expects; nothing predicts the first."""
    steps, model = Steps(), copy.deepcopy(recommender.model)

    class Ticking(TrainerCallback):
        def on_step_end(self, *_, **__):
            steps.tick()

    def collate(rows):
        labels = pad_sequence(rows, batch_first=True, padding_value=IGNORED)
        valid = labels != IGNORED
        labels[:, 0] = IGNORED
        steps.targets += int(valid[:, 1:].sum())
        batch = {"input_ids": pad_sequence(rows, batch_first=True, padding_value=recommender.num_items)}
        return batch | {"labels": labels} | ({"attention_mask": valid.long()} if masked else {})

    optimizer = training._optimizer(model, RECIPE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: training._one_cycle(step / (len(sequences) // BATCH), RECIPE.warmup)
    )
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        max_grad_norm=RECIPE.gradient_clip,
        train_sampling_strategy="sequential",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    Trainer(
        model,
        arguments,
        data_collator=collate,
        train_dataset=Stretches(recommender, sequences),
        optimizers=(optimizer, schedule),
        callbacks=[Ticking()],
    ).train()
    return steps, model


def sasrec(recommender, sequences, shape):
    pandas, lightning = import_module("pandas"), import_module("pytorch_lightning")
    steps, (dataset, models) = Steps(), map(import_module, ("rectools.dataset", "rectools.models"))

    class Ticking(lightning.Callback):
        def on_train_batch_end(self, loop, module, outputs, batch, index):
            steps.tick()
            steps.targets += int((batch["y"] != 0).sum())

    def loop():
        """As RecTools makes it, and the callback."""
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        return lightning.Trainer(
            max_epochs=1,
            min_epochs=1,
            devices=1,
            accelerator="cpu",
            enable_checkpointing=False,
            **quiet,
            callbacks=[Ticking()],
        )

    rows = [(user, item, time) for user, items in enumerate(sequences) for time, item in enumerate(items)]
    events = pandas.DataFrame(rows, columns=["user_id", "item_id", "datetime"]).assign(weight=1.0)
    events["datetime"] = pandas.to_datetime(events["datetime"], unit="s")
    model = models.SASRecModel(
        n_blocks=shape.num_layers,
        n_heads=shape.num_heads,
        n_factors=shape.hidden,
        session_max_len=LENGTH,
        dropout_rate=0.0,
        loss="softmax",
        lr=RECIPE.learning_rate,
        batch_size=BATCH,
        get_trainer_func=loop,
    )
    model.fit(dataset.Dataset.construct(events))
    return steps, model.torch_model


# Agreement


def vocabulary_loss(recommender, states, windows):
    """As `transformers` computes it: the padding token is in the softmax, too."""
    return torch.nn.functional.cross_entropy(recommender.model.get_output_embeddings()(states), windows.items)


def apart(start, one, other):
    """Distance of two trained models, as a share of the way that they came."""
    start, one, other = (
        torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) for model in (start, one, other)
    )
    return float((one - other).norm() / (one - start).norm())


# Measuring


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def table(title, rounds, parameters):
    shown = Table(
        "way",
        "parameters",
        "targets a step",
        "ms a step",
        "of ours",
        "wall ms",
        "targets / s",
        title=f"{title}; processor time, median of {ROUNDS} rounds of {NUM_USERS // BATCH} steps",
    )
    for way, found in rounds.items():
        wall, cpu = np.median([steps.median() for steps in found], axis=0)
        ratio = statistics.median(
            theirs.median()[1] / ours.median()[1] for theirs, ours in zip(found, rounds["ours"], strict=True)
        )
        targets = found[0].targets / (NUM_USERS // BATCH)
        figures = [
            f"{targets:,.0f}",
            f"{1000 * cpu:.1f}",
            f"{ratio:.2f} x",
            f"{1000 * wall:.1f}",
            f"{targets / cpu:,.0f}",
        ]
        shown.add_row(way, f"{parameters[way]:,}", *figures)
    if len(rounds) < 4:
        shown.caption = "RecTools is not installed; it has an environment of its own: tox run -e benchmarks-rectools"
    return shown


@pytest.mark.parametrize("family", MODELS)
def test_training_step_against_other_loops(family, tmp_path, benchmark, capsys):
    title, shape = MODELS[family]
    sequences, num_items = data()
    recommender = build_recommender(family, num_items, LENGTH, shape, seed=0)
    ways = {
        "ours": lambda: ours(recommender, sequences),
        "Trainer, with mask": lambda: trainer(recommender, sequences, tmp_path, masked=True),
        "Trainer, no mask": lambda: trainer(recommender, sequences, tmp_path, masked=False),
    } | ({"RecTools SASRec": lambda: sasrec(recommender, sequences, shape)} if find_spec("rectools") else {})

    _, expected = ours(recommender, sequences, vocabulary_loss)
    found = {way: run() for way, run in ways.items()}
    for way in ("Trainer, with mask", "Trainer, no mask"):
        assert apart(recommender.model, expected, found[way][1]) < 1e-3
    assert len({steps.targets for steps, _ in found.values()}) == 1
    parameters = {way: sum(p.numel() for p in model.parameters()) for way, (_, model) in found.items()}

    rounds = defaultdict(list)
    for _ in range(ROUNDS):
        for way, run in ways.items():
            rounds[way].append(run()[0])
    benchmark.group = "training step"
    benchmark.extra_info["torch"] = torch.__version__
    benchmark.pedantic(ways["ours"])
    with capsys.disabled():
        Console(width=130).print("\n", table(title, rounds, parameters))
