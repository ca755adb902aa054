"""`layerwise compress`, `layerwise inspect` and `layerwise adapter`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from layerwise.commands.adapter import Brought, compared
from layerwise.commands.adapter_report import LIMITS, report_of, tables_of
from layerwise.commands.card import model_card
from layerwise.commands.compress import Compressed, checked, compressed, refuse_used
from layerwise.commands.inspect import DEFAULT, heat_map, inspected
from layerwise.commands.order import Order, job_of
from layerwise.commands.plan import Plan, plan_of
from layerwise.lab.lab import Lab
from layerwise.lab.store import Store
from layerwise.models.families import FAMILIES, UnsupportedArchitectureError
from layerwise.models.training import TrainingDivergedError
from layerwise.statistics import Outcome

NOT_SHOWN = 1  # exit status where a condition was not shown
WRONG = 2  # where the command cannot be carried out
INTERRUPTED = 130
CANNOT = (OSError, ValueError, ImportError, MemoryError, UnsupportedArchitectureError, TrainingDivergedError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; what it returns is the exit status.

    0: done, and every condition that was asked for is shown; 1: one is not; 2: the command cannot be carried out;
    130: interrupted, finished results are kept.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    transformers_logging.disable_progress_bar()
    console = Console()
    try:
        return int(options.run(options, console, shlex.join(["layerwise", *words])))
    except KeyboardInterrupt:
        console.print("\ninterrupted; what was finished is kept, and the same command goes on there", style="bold")
        return INTERRUPTED
    except CANNOT as error:
        Console(stderr=True, soft_wrap=True).print(f"layerwise: {error}", style="red", markup=False, highlight=False)
        return WRONG


def _compress(options: argparse.Namespace, console: Console, command: str) -> int:
    lab, order = _lab(options), _order(options)
    refuse_used(options.out)
    conditions = checked(dict(options.at_least)) or None
    job = job_of(order)
    if options.dry_run:
        console.print(_plan_table(plan_of(job, lab, options.workers)))
        return 0
    made = compressed(order, lab, options.out, conditions, options.workers)
    full, compact = lab.get(job.full[0]), lab.get(job.compact[0])
    card = model_card(made, full, compact, lab.split(job.subject), command)
    (options.out / "README.md").write_text(card, encoding="utf-8")
    console.print(_result_table(made))
    for name, verdict in made.verdicts.items():
        console.print(f"{name}: {verdict.sentence}", highlight=False)
    for flaw in made.flaws:
        console.print(f"the speedup does not count: {flaw}", style="red", highlight=False)
    if made.straw_man:
        console.print(f"mind this: {made.straw_man}", style="red", highlight=False)
    console.print(f"checkpoint, items.json and model card are in {options.out}", highlight=False)
    shown = all(verdict.outcome is Outcome.SUPPORTED for verdict in made.verdicts.values())
    shown &= not ("speedup" in made.verdicts and made.flaws)
    return 0 if shown or conditions is None else NOT_SHOWN


def _inspect(options: argparse.Namespace, console: Console, command: str) -> int:
    lab, job = _lab(options), job_of(_order(options))
    scores = inspected(job, lab, tuple(options.methods.split(",")), options.workers)
    console.print(heat_map(scores, f"Layers of {job.full[0].describe()}"))
    return 0


def _adapter(options: argparse.Namespace, console: Console, command: str) -> int:
    transformers_logging.set_verbosity_error()  # a new head is no news here: whether it is replaced is checked
    if options.out:
        refuse_used(options.out)
    names = ("model", "adapter", "data", "liked_from", "max_tokens", "batch")
    brought, asked = Brought(**{name: getattr(options, name) for name in names}), dict(options.at_least) or None
    made = compared(brought, _lab(options), asked)
    for title, columns, rows in tables_of(made):
        table = Table(*columns, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for name, verdict in made.verdicts.items():
        console.print(f"{name}: {verdict.sentence}", highlight=False, markup=False)
    for flaw in made.flaws:
        console.print(f"nothing of this counts: {flaw}", style="red", highlight=False, markup=False)
    for remark in (*made.remarks, *LIMITS):
        console.print(f"mind this: {remark}", highlight=False, markup=False)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "README.md").write_text(report_of(made, brought, command), encoding="utf-8")
        console.print(f"the report is in {options.out / 'README.md'}", highlight=False)
    shown = all(verdict.outcome is Outcome.SUPPORTED for verdict in made.verdicts.values()) and not made.flaws
    return 0 if shown or asked is None else NOT_SHOWN


def _lab(options: argparse.Namespace) -> Lab:
    return Lab(Store.at(options.store), options.device)


def _order(options: argparse.Namespace) -> Order:
    names = ("model", "data", "keep", "by", "seeds", "epochs", "learning_rate")
    return Order(**{name: getattr(options, name) for name in names if hasattr(options, name)})


def _plan_table(plan: Plan) -> Table:
    table = Table("to be made", title="Plan", caption="finished results are kept, and a killed run goes on there")
    for name in plan.missing or ["nothing: all results are in the store"]:
        table.add_row(name)
    table.add_section()
    table.add_row(f"about {plan.minutes:.0f} minutes with {plan.workers} worker(s), and a minute of timing")
    table.add_row(f"about {plan.megabytes:.0f} MB of memory per worker, beside 500 MB of libraries")
    table.add_row(f"{plan.storage:.0f} MB of checkpoints in the store")
    return table


def _result_table(made: Compressed) -> Table:
    table = Table("model", "NDCG@5", "NDCG@10", "MRR", "ms per batch", title=made.job.subject.data_name)
    times = {"full": made.timed.full_ms, "compact": made.timed.compact_ms}
    for arm, values in made.quality.items():
        means = [f"{float(values[name].mean()):.4f}" for name in ("ndcg@5", "ndcg@10", "mrr")]
        table.add_row(arm, *means, f"{float(times[arm].mean()):.2f}" if arm in times else "")
    return table


def _share(text: str) -> float:
    """A share such as "25%" or "0.25"."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a share such as 25% or 0.25, got {text!r}") from None


def _points(text: str) -> tuple[str, float]:
    """A condition in points, such as "accuracy=3"."""
    name, _, bound = text.partition("=")
    try:
        return name.lower(), float(bound)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a condition such as accuracy=3, in points, got {text!r}") from None


def _condition(text: str) -> tuple[str, float]:
    """A condition such as "ndcg@10=95%" or "speedup=3.5"."""
    name, mark, bound = text.partition("=")
    if not mark:
        raise argparse.ArgumentTypeError(f"expected a condition such as ndcg@10=95% or speedup=3.5, got {text!r}")
    return name.lower(), _share(bound)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="layerwise", description="Compresses recommenders layer by layer, and shows what that costs."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    compress = commands.add_parser(
        "compress",
        help="make a recommender a few times faster, with proof of what is left of its quality",
        description="Trains or loads a recommender, finds the layers that matter, cuts the others, heals what is left, "
        "measures both side by side, and writes a plain checkpoint with a model card.",
        epilog="exit status: 0 done, and all that --at-least asks for is shown; 1 some is not; 2 it cannot be done",
    )
    _add_common(compress)
    compress.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for checkpoint and model card")
    compress.add_argument(
        "--keep", type=_share, default=0.25, metavar="SHARE", help="share of the layers (default: 25%%)"
    )
    compress.add_argument(
        "--by",
        default="empirical-fisher",
        metavar="METHOD",
        help="what chooses the layers: fisher, empirical-fisher, block-influence, magnitude, first, uniform, ... "
        "(default: empirical-fisher)",
    )
    compress.add_argument(
        "--at-least",
        type=_condition,
        action="append",
        default=[],
        metavar="METRIC=BOUND",
        help="what must be shown at an error rate of 1 %%, such as ndcg@10=95%% of the full model's, or speedup=3.5; "
        "may be repeated (default: the project's own bar is judged, and nothing is required)",
    )
    compress.add_argument("--dry-run", action="store_true", help="print what would be made, with time and memory")
    compress.set_defaults(run=_compress)
    inspect = commands.add_parser(
        "inspect",
        help="print how much each layer matters",
        description="Trains or loads a recommender and scores its layers by several methods.",
    )
    _add_common(inspect)
    inspect.add_argument(
        "--methods", default=",".join(DEFAULT), metavar="A,B", help=f"importances (default: {','.join(DEFAULT)})"
    )
    inspect.set_defaults(run=_inspect)
    _add_adapter(commands)
    return parser


def _add_adapter(commands: Any) -> None:
    parser = commands.add_parser(
        "adapter",
        help="show what an own LoRA adapter of a sequence classifier does to the features of its base",
        description="Asks the frozen base with the adapter's head (A), the LoRA-tuned base with the same head (B) and "
        "the frozen base with a head trained here (C) which items the newest test users will like.",
        epilog="exit status: 0 done, and all that --at-least asks for is shown; 1 some is not; 2 it cannot be done",
    )
    parser.add_argument("--model", required=True, metavar="PATH_OR_ID", help="base that the adapter was trained on")
    parser.add_argument(
        "--adapter",
        required=True,
        metavar="DIR",
        help="folder with adapter_config.json and adapter_model.safetensors, the trained head among its weights",
    )
    parser.add_argument(
        "--data", required=True, metavar="NAME_OR_FILE", help="ratings with titles: ml-100k, a folder or a file"
    )
    parser.add_argument(
        "--liked-from", type=float, default=4.0, metavar="RATING", help="lowest rating that is a like (default: 4)"
    )
    parser.add_argument("--max-tokens", type=int, default=48, metavar="N", help="longest prompt (default: 48)")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="prompts at a time (default: 64)")
    parser.add_argument(
        "--at-least",
        type=_points,
        action="append",
        default=[],
        metavar="METRIC=POINTS",
        help="by how much B must be shown to be ahead of A, and ahead of C at all, at an error rate of 1 %%: "
        "accuracy, f1 or auc-roc; may be repeated (default: 3, 3 and 2 points are judged, and nothing is required)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for a report")
    _add_places(parser)
    parser.set_defaults(run=_adapter)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        metavar="PATH_OR_ID",
        help=f"a pretrained language model, whose layers learn the catalogue; or {', '.join(FAMILIES)}: trained from "
        "scratch",
    )
    parser.add_argument(
        "--data", required=True, metavar="NAME_OR_FILE", help="interactions: ml-100k, a folder or a file"
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="independent trainings (default: 1)")
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="of the full model at most (default: by size of the data)"
    )
    parser.add_argument("--learning-rate", type=float, metavar="RATE", help="of the full model (default: 0.001)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes side by side (default: one per core or GPU)"
    )
    _add_places(parser)


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="DIR", help="folder for finished results (default: the user's cache folder)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where models run (default: cpu)")


if __name__ == "__main__":
    sys.exit(main())
