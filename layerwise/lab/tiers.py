"""What is run in each tier: data, sizes, recipes, seeds."""

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from layerwise.compression.distill import HEALING, Distillation
from layerwise.importance.scores import METHODS
from layerwise.models.classifier import ClassifierRecipe
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.lora_classifier import Lora
from layerwise.models.text_fitting import TextRecipe
from layerwise.models.text_recommender import Pooling
from layerwise.models.training import Recipe


@dataclass(frozen=True)
class Subject:
    """A kind of full model on a dataset: everything that its trainings share but the seed.

    Attributes:
        dataset: Name, folder or file that `load_interactions` understands.
        test_targets: Last events of each user that are never trained on; each is ranked from its true prefix.
        family: Architecture.
        shape: Layers and widths of the full model.
        max_length: Number of most recent events that the model reads.
        attention_dropout: Share of attention weights dropped in training.
        training: Recipe for models trained from scratch, full and shallow.
        healing: Recipe for compact models.
        distillation: How much a healed model listens to the full one.
    """

    dataset: str
    test_targets: int
    family: str
    shape: Shape
    max_length: int
    attention_dropout: float
    training: Recipe
    healing: Recipe
    distillation: Distillation

    @property
    def data_name(self) -> str:
        """The dataset in a word, for titles and names of files."""
        return re.sub(r"[^a-z0-9]+", "-", Path(self.dataset).stem.lower()).strip("-")


@dataclass(frozen=True)
class LikeTask:
    """A binary task on a pretrained text model: will a user like an item, given what they liked before?

    Attributes:
        dataset: Name, folder or file that `load_interactions` understands, with ratings and titles.
        base: Pretrained model, see `pretrained_folder`.
        liked_from: Lowest rating that counts as a like.
        per_user: Newest examples of each user, at most, in training, validation and test.
        max_tokens: Longest prompt.
        lora: Size of the adapter.
        recipe: How adapter and heads are trained, all but the learning rate.
        rates: Learning rates of which the first seed's validation chooses for LoRA.
        head_rates: The same for a head on frozen features: more of them, since it costs nothing and wants higher ones.
    """

    dataset: str
    base: str
    liked_from: float
    per_user: tuple[int, int, int]
    max_tokens: int
    lora: Lora
    recipe: ClassifierRecipe
    rates: tuple[float, ...]
    head_rates: tuple[float, ...]

    @property
    def subject(self) -> Subject:
        """What the lab reads the data by."""
        return replace(SUBJECT, dataset=self.dataset)


@dataclass(frozen=True)
class TextTask:
    """Recommending by titles with a pretrained text model, whole and cut.

    Attributes:
        dataset: Name, folder or file that `load_interactions` understands, with titles.
        base: Pretrained model, see `pretrained_folder`.
        pooling: Which state stands for a history; see `TextRecommender`.
        max_tokens: Longest prompt.
        head_examples: Training examples of each user whose frozen states the head is trained on.
        head_recipe: How the head is trained on them.
        lora: Size of the adapter, of the full model's and of the healing one.
        recipe: How adapter and head are trained from the trained head on.
        kept: Share of the layers that the compact model keeps.
        selected_by: Importance that chooses them.
        healing: How the compact model is healed.
        distillation: How much it listens to the full one.
        controls: Number of seeds, the first of the tier's, for which the model with shuffled titles is trained, too.
            With one, it is compared over users, for these trainings only; two seeds are too few for more.
    """

    dataset: str
    base: str
    pooling: Pooling
    max_tokens: int
    head_examples: int
    head_recipe: TextRecipe
    lora: Lora
    recipe: TextRecipe
    kept: float
    selected_by: str
    healing: TextRecipe
    distillation: Distillation
    controls: int

    @property
    def subject(self) -> Subject:
        """What the lab reads the data by."""
        return replace(SUBJECT, dataset=self.dataset)


@dataclass(frozen=True)
class Tier:
    """One size of the suite.

    Attributes:
        name: As given to `--tier`.
        subject: Full model.
        seeds: One independent training each; claims about a method need at least five.
        kept: Share of the layers that the compact model keeps.
        selected_by: Method that chooses the kept layers.
        families: Those whose models are cut, each with every rule of `rules`, and compared.
        rules: Ways to choose the kept layers that are compared there.
        importances: Methods that score the layers of the full models; see `layer_scores`.
        rivals: Ways to choose the kept layers that `selected_by` is to beat.
        shares: Shares of the layers that untrained cuts keep.
        in_detail: Family whose cuts are compared for every share, and healed too; those of the others for `kept`.
        elsewhere: The same full model on further datasets.
        contested: Those of the further datasets on which rivals are compared, too.
        matched: Further subjects on which families are compared with one another, at equal parameters, data and steps;
            their family is the one that the others face.
        transferred: Subjects of one architecture and depth that choose layers for one another, the tier's own among
            them. None where layers stay at home.
        ablated: Families on which parts of our method are left out.
        depths: Numbers of layers that healed models keep where depths are compared.
        weighted_share: Share of the layers that is kept where weights of layers are compared: enough of them to differ.
        likes: Binary task on a pretrained text model; None where the tier has no text model.
        few_bits: Whether LoRA on that task is also quantised, and trained on a base of four bits.
        texts: Recommending with a pretrained text model; None where the tier has none.
        noise: Shares of the events of histories that are replaced by random ones, at test time.
        training_noise: Share of the training events that is replaced; None where no training has noise.
        asks: Parts of `layerwise.lab.asking` that the claims read; matched families, layers that travel, text models
            and noise in training are asked for by their own fields. Without any, the subject serves the controls alone.
    """

    name: str
    subject: Subject
    seeds: tuple[int, ...]
    kept: float
    selected_by: str
    families: tuple[str, ...] = ()
    rules: tuple[str, ...] = ("first", "uniform", "empirical-fisher", "block-influence")
    importances: tuple[str, ...] = ("fisher", "empirical-fisher", "mean-fisher", "gate-fisher", "block-influence")
    rivals: tuple[str, ...] = ("random", "uniform", "first", "block-influence", "magnitude")
    shares: tuple[float, ...] = (0.75, 0.5, 0.25)
    in_detail: str = "llama"
    elsewhere: tuple[Subject, ...] = ()
    contested: tuple[str, ...] = ()
    matched: tuple[Subject, ...] = ()
    transferred: tuple[Subject, ...] = ()
    ablated: tuple[str, ...] = ("llama", "t5")
    depths: tuple[int, ...] = (1, 2, 3, 4, 6)
    weighted_share: float = 0.5
    likes: LikeTask | None = None
    few_bits: bool = False
    texts: TextTask | None = None
    noise: tuple[float, ...] = (0.05, 0.1, 0.2)
    training_noise: float | None = None
    asks: tuple[str, ...] = ()

    @property
    def compared_shares(self) -> tuple[float, ...]:
        """Shares that cuts of the subject keep where rules are compared."""
        return self.shares if self.subject.family == self.in_detail else (self.kept,)

    def subject_of(self, family: str) -> Subject:
        """The same sizes and data with another architecture; families that learn from fewer targets train longer."""
        training = replace(self.subject.training, epochs=EPOCHS.get(family, self.subject.training.epochs))
        return as_patient(replace(self.subject, family=family, training=training))

    @property
    def healing_epochs(self) -> int:
        """Epochs of a student; families that learn from fewer targets heal longer, too."""
        return HEALING_EPOCHS.get(self.subject.family, self.subject.healing.epochs)

    @property
    def healing_rate(self) -> float:
        """Learning rate of a student, in units of the healing recipe's."""
        return HEALING_RATES.get(self.subject.family, 1.0)

    def reading_with(self, base: str, pooling: Pooling = "last") -> "Tier":
        """The same tier, its text claims on another pretrained model, whose state stands where its family has it.

        Args:
            base: Folder or name on the hub.
            pooling: "mean" for a sentence encoder; see `TextRecommender`.

        Raises:
            ValueError: The tier has no text model.
        """
        if not (self.likes or self.texts):
            raise ValueError(f"the {self.name} tier has no claim on a text model; the text tier has")
        likes = replace(self.likes, base=base) if self.likes else None
        texts = replace(self.texts, base=base, pooling=pooling) if self.texts else None
        return replace(self, likes=likes, texts=texts)

    def on(self, dataset: str) -> "Tier":
        """The same tier on another of its datasets, where neither cuts of families nor rules are compared."""
        further = (*self.matched, *self.transferred, *self.elsewhere)
        subjects = {subject.dataset: subject for subject in (*further, self.subject)}
        own = replace(self, subject=subjects[dataset], families=(), elsewhere=(), matched=(), in_detail="")
        return replace(own, likes=None, texts=None, training_noise=None)


# A cloze and a split sequence have fewer targets per window than a causal model, which predicts at every position. In
# pilots on two seeds T5 was still learning after 48 epochs: validation NDCG@10 .095 and .104, after 96 .119 and .116.
# Of the healed T5 of one seed these chose the epochs, 24 or 48 (.090 or .100), and the rate, 1 or 2 (.100 or .105).
EPOCHS = {"bert": 48, "t5": 96}
HEALING_EPOCHS = {"bert": 24, "t5": 48}
HEALING_RATES = {"t5": 2.0}

# T5's validation stands still for tens of epochs and then rises. With a patience of 20 epochs one of five trainings of
# two layers ended on that plateau (.077, the others .099 to .121), and one of five healings early in its cycle (.107,
# the others .110 to .123). Its trainings and healings run to their end, all of them.
PATIENCE = {"t5": 96}


def as_patient(subject: Subject) -> Subject:
    """The subject with the patience that its family needs, in training and healing."""
    patience = PATIENCE.get(subject.family)
    if patience is None:
        return subject
    training, healing = (replace(recipe, patience=patience) for recipe in (subject.training, subject.healing))
    return replace(subject, training=training, healing=healing)


# A low rate, reached late, spreads the work over the layers: at twice the rate with a short warm-up the first two of
# eight did all of it, and cutting the others was free. Attention without dropout is 15 % faster on a CPU.
DEEP = Recipe(epochs=36, learning_rate=1e-3, warmup=0.3, batch_size=32, weight_decay=0.1, dropout=0.2, evaluate_every=4)

SUBJECT = Subject(
    dataset="ml-100k",
    test_targets=5,
    family="llama",
    shape=Shape(num_layers=8, hidden=64, intermediate=172, num_heads=2),
    max_length=50,
    attention_dropout=0.0,
    training=DEEP,
    healing=replace(HEALING, epochs=10),
    distillation=Distillation(),
)

# As many events of fewer users and of six times as many items: one window of a user and epoch sees less of them.
SMALL = replace(
    SUBJECT,
    dataset="ml-latest-small",
    training=replace(DEEP, epochs=64),
    healing=replace(HEALING, epochs=16),
)

# Nine events a user, of which six judge. In pilots on one seed four layers learned most from the rest (validation
# NDCG@10 .053, two .051), with a higher rate, reached early, than on MovieLens; eight had .049, by other recipes.
BEAUTY = replace(
    SUBJECT,
    dataset="amazon14-beauty",
    shape=replace(SUBJECT.shape, num_layers=4),
    training=replace(DEEP, epochs=16, learning_rate=2e-3, warmup=0.1, batch_size=128),
    healing=replace(HEALING, epochs=8, batch_size=64),
)

# As Beauty, from which it has its recipe; it was tuned on Beauty alone.
TOYS = replace(BEAUTY, dataset="amazon14-toys")

# Four or five events a user train, so only the last one is asked. In pilots with Llama on the validation of one seed
# this recipe had NDCG@10 .122; ten epochs with dropout .3 had .112, dropout .5 and more decay .114, and two layers so
# .121. EASE, which needs no training, has .136. No training ends early, so that all families take as many steps.
OFFICE = replace(
    SUBJECT,
    dataset="amazon18-office-recent",
    test_targets=1,
    shape=replace(SUBJECT.shape, num_layers=4),
    max_length=20,
    training=replace(DEEP, epochs=16, learning_rate=2e-3, warmup=0.1, batch_size=64, evaluate_every=2, patience=8),
)

# Where layers travel, every model has eight. This recipe is for minutes, not for the best quality: in pilots on one
# seed it had validation NDCG@10 .087 here and .051 on Instruments; twelve epochs at half the rate had .014 on Toys.
GROCERY = replace(
    SUBJECT,
    dataset="amazon14-grocery-trainpart",
    max_length=20,
    training=replace(DEEP, epochs=10, learning_rate=2e-3, warmup=0.1, batch_size=64, evaluate_every=2),
)

# Ten targets leave the users who have at least twelve events, so that a ranking of all of them is a matter of seconds.
BUSY = replace(GROCERY, test_targets=10)

TRANSFERRED = (
    SUBJECT,
    replace(BUSY, dataset="amazon14-beauty"),
    replace(BUSY, dataset="amazon14-toys"),
    GROCERY,
    replace(BUSY, dataset="amazon18-instruments-order"),
    replace(OFFICE, shape=SUBJECT.shape),
)

# On two cores a step of 32 prompts of 44 tokens takes two thirds of a second, a whole training 3 minutes.
LIKES = LikeTask(
    dataset="ml-100k",
    base="all-MiniLM-L6-v2",
    liked_from=4.0,
    per_user=(6, 4, 10),
    max_tokens=48,
    lora=Lora(),
    recipe=ClassifierRecipe(),
    rates=(3e-4, 1e-3, 3e-3),
    head_rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
)

# In pilots on one seed a head at 1e-3 with little dropout had its best validation NDCG@10 (.072) after three epochs and
# lost a quarter of it in four more; at half the rate with dropout it stays (.075). Whitened titles start worse (.062).
TEXTS = TextTask(
    dataset="ml-100k",
    base="all-MiniLM-L6-v2",
    pooling="mean",
    max_tokens=48,
    head_examples=8,
    head_recipe=TextRecipe(epochs=8, head_rate=5e-4, batch_size=256, dropout=0.3),
    lora=Lora(),
    recipe=TextRecipe(epochs=6, per_user=2, learning_rate=1e-3, head_rate=3e-4, dropout=0.3),
    kept=0.5,
    selected_by="empirical-fisher",
    healing=TextRecipe(epochs=6, per_user=2, learning_rate=1e-3, head_rate=3e-4, dropout=0.3),
    distillation=Distillation(),
    controls=1,
)

_with_five_trainings = partial(Tier, subject=SUBJECT, seeds=(0, 1, 2, 3, 4), kept=0.25, selected_by="empirical-fisher")

TIERS = {
    tier.name: tier
    for tier in (
        _with_five_trainings("quick", asks=("retention", "damage", "robustness")),
        _with_five_trainings(
            "standard",
            asks=("retention", "bare cuts", "robustness"),
            families=tuple(FAMILIES),
            elsewhere=(SMALL, BEAUTY),
        ),
        _with_five_trainings("matrix", asks=("retention",), families=tuple(FAMILIES), elsewhere=(SMALL, BEAUTY, TOYS)),
        _with_five_trainings("layers", asks=("layers",), families=tuple(FAMILIES), importances=tuple(METHODS)),
        _with_five_trainings("ablation", asks=("ablation",)),
        _with_five_trainings("rivals", asks=("rivals",), elsewhere=(SMALL,), contested=(SMALL.dataset,)),
        _with_five_trainings("models", matched=(OFFICE,)),
        _with_five_trainings(
            "robustness",
            rivals=("first", "uniform", "random"),
            shares=(0.5, 0.25),
            transferred=TRANSFERRED,
            training_noise=0.1,
        ),
        _with_five_trainings("text", likes=LIKES, few_bits=True, texts=TEXTS),
    )
}
