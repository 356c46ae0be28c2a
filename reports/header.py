"""What was done in a study: a line for figures and tables, and the details for notes, summary and page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from reports.marks import count_marks
from reports.predictions import describe_images
from reports.row_summary import STATUSES, Settings, compares_recipes, distinct, parts_of, seed_words, settings_of, usual
from reports.statuses import shown

NOT_RECORDED = "not recorded"
_NAMED = 3  # settings in the line, and recipes in the details, that are named
_PER_RUN = 3  # different numbers of images


@dataclass(frozen=True)
class Header:
    """What was done.

    line     study, dataset, recipe with what it changes, images and steps per run, seeds and runs
    details  recipes in full, data, machine, time and software, each under a name; `not recorded` by earlier versions
    """

    line: str
    details: tuple[tuple[str, str], ...]

    @property
    def note(self) -> str:
        """The details as prose."""
        return " ".join(f"{name}: {text}." for name, text in self.details)


def header(runs: pd.DataFrame) -> Header:
    """Describe what was done in a study, from its tidy frame, see `Report`; columns that it lacks were not recorded."""
    return Header(" · ".join(filter(None, _line(runs))), tuple(_details(runs)) if len(runs) else ())


def facts(runs: pd.DataFrame) -> str:
    """Describe what was done in one line."""
    return header(runs).line


def _line(runs: pd.DataFrame) -> Iterator[str]:
    yield f"study {', '.join(distinct(runs, 'study'))}"
    yield f"data {_dataset(runs)}"
    yield describe_images(runs)
    yield "on the validation split" if "validation" in distinct(runs, "evaluate") else ""
    yield _recipe_words(runs)
    images = _each_run(runs, with_batch=False)
    yield f"{images} per run" if images else ""
    yield seed_words(sorted({int(seed) for seed in runs["seed"].dropna()}))
    yield _run_words(runs)
    for weights in starting_weights(runs):
        yield f"starting from weights {weights}"
    yield from count_marks(runs)


def _details(runs: pd.DataFrame) -> Iterator[tuple[str, str]]:
    trained = _distinct_runs(runs)
    done = trained[trained["status"].isin(["done", "not compared"])]
    yield from _recipes(runs)
    yield "Each run", _each_run(runs, with_batch=True) or "no run is finished"
    yield "Data", _data(runs)
    yield "Seeds", ", ".join(str(seed) for seed in sorted({int(seed) for seed in runs["seed"].dropna()}))
    yield "Machine", _by_run(done, "machine")
    yield "Time", f"{_time(done, 'seconds', 'of training')}; {_time(done, 'processor_seconds', 'of processor time')}"
    yield "Software", _by_run(done, "software")


def _recipes(runs: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Name every recipe with what it changes, and the rows that have it; the usual one first."""
    rows: dict[str, list[str]] = {}
    for recipe, _, label in runs[["recipe", "row", "label"]].drop_duplicates().itertuples(index=False, name=None):
        rows.setdefault(str(recipe), []).append(str(label))
    if len(rows) < 2:
        yield "Recipe", next(iter(rows), NOT_RECORDED)
        return
    by_size = sorted(rows.items(), key=lambda one: -len(one[1]))
    texts = [f"{recipe} ({labels[0] if len(labels) == 1 else f'{len(labels)} rows'})" for recipe, labels in by_size]
    more = f"; and {len(texts) - 2 * _NAMED} more" if len(texts) > 2 * _NAMED else ""
    yield "Recipes", "; ".join(texts[: 2 * _NAMED]) + more


def _each_run(runs: pd.DataFrame, with_batch: bool) -> str:
    """Count the images and training steps of a finished run: `59,904 images in 468 steps`; empty if none is known."""
    settings = settings_of(runs)
    done = runs[runs["status"] == "done"]
    if "images_seen" not in runs:
        return ""
    done = done.dropna(subset=["images_seen"])
    counts = {
        (int(images), *_batch(settings, str(recipe)))
        for images, recipe in zip(done["images_seen"], done["recipe"], strict=True)
    }
    if not counts:
        return ""
    if len(counts) > _PER_RUN:
        images = sorted(one[0] for one in counts)
        return f"{images[0]:,} to {images[-1]:,} images" if images[0] < images[-1] else f"{images[0]:,} images"
    if not with_batch and len({images for images, *_ in counts}) == 1 and all(batch for _, batch, _ in counts):
        steps = sorted({images // batch for images, batch, _ in counts})
        many = " or ".join(f"{number:,}" for number in steps)
        return f"{next(iter(counts))[0]:,} images in {many} step{'s' * (steps != [1])}"
    return " or ".join(dict.fromkeys(_images_words(*count, with_batch) for count in sorted(counts)))


def _batch(settings: Settings, recipe: str) -> tuple[int, str]:
    """Return a recipe's batch size and epochs; 0 and nothing if they are not recorded."""
    known = settings.get(recipe, {})
    return int(known.get("batch_size", 0)), known.get("max_epochs", "")


def _images_words(images: int, batch: int, epochs: str, with_batch: bool) -> str:
    if not batch:
        return f"{images:,} images"
    many = images // batch
    steps = f"{images:,} images in {many:,} step{'s' * (many != 1)}"
    return f"{steps} of {batch:,} images ({epochs} epoch{'s' * (epochs != '1')})" if with_batch else steps


def _dataset(runs: pd.DataFrame) -> str:
    """Name the dataset, and the folder of the user's own images."""
    folders = distinct(runs, "data_folder")
    return ", ".join(distinct(runs, "dataset")) + (f" ({', '.join(folders)})" if folders else "")


def _data(runs: pd.DataFrame) -> str:
    parts = [_dataset(runs)]
    split = "validation" if "validation" in distinct(runs, "evaluate") else "test"
    images = pd.to_numeric(runs["test_images"]).dropna() if "test_images" in runs else ()
    parts.append(f"{int(max(images)):,} {split} images" if len(images) else f"{split} split")
    checksums = distinct(runs, "data_checksum")
    parts.append(f"checksum {', '.join(one[:12] for one in checksums)}" if checksums else f"checksum {NOT_RECORDED}")
    return ", ".join(parts)


def _by_run(done: pd.DataFrame, column: str) -> str:
    """Return the distinct texts of a column, each with the number of runs that have it if not all do."""
    counts = done[column].dropna().value_counts(sort=False) if column in done else pd.Series(dtype=int)
    if counts.empty:
        return NOT_RECORDED
    missing = len(done) - int(counts.sum())
    if len(counts) == 1 and not missing:
        return str(counts.index[0])
    texts = [f"{text} ({_runs(int(many))})" for text, many in counts.items()]
    return "; ".join([*texts, *([f"{NOT_RECORDED} ({_runs(missing)})"] if missing else [])])


def _time(done: pd.DataFrame, column: str, what: str) -> str:
    """Return the time of all finished runs together; of how many, if it is not recorded of all."""
    known = pd.to_numeric(done[column]).dropna() if column in done else pd.Series(dtype=float)
    if known.empty:
        return f"{what.removeprefix('of ')} {NOT_RECORDED}"
    of = _runs(len(done)) if len(known) == len(done) else f"{len(known)} of {_runs(len(done))}"
    return f"{duration(float(known.sum()))} {what}, {of}"


def duration(seconds: float) -> str:
    """Format a length of time with its natural unit: `50 s`, `18 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def starting_weights(runs: pd.DataFrame) -> list[str]:
    """Describe the weights that runs start from; nothing if these are newly initialized, or the labels say it."""
    return distinct(runs, "weights") if "weights" in runs and runs["weights"].notna().all() else []


def _run_words(runs: pd.DataFrame) -> str:
    trained = _distinct_runs(runs)
    statuses = [(status, int((trained["status"] == status).sum())) for status in ("done", *STATUSES)]
    return f"{_runs(len(trained))}: " + ", ".join(f"{number} {shown(status)}" for status, number in statuses if number)


def _distinct_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one line per run, which several rows may share."""
    return runs.drop_duplicates("run") if "run" in runs else runs.drop_duplicates(["row", "seed"])


def _runs(number: int) -> str:
    return f"{number} run{'s' * (number != 1)}"


def _recipe_words(runs: pd.DataFrame) -> str:
    """Name the usual recipe; if rows change settings of one recipe, what they share."""
    recipes = {str(name): tuple(distinct(group, "recipe")) for name, group in runs.groupby("row", sort=False)}
    if compares_recipes(runs):
        return f"{len(recipes)} recipes"
    most = usual(recipes)
    named = dict.fromkeys(parts_of(one)[0] for row in recipes.values() for one in row)
    if len(named) > 1 and "designs" in distinct(runs, "kind"):  # each row has the recipe that it names
        return f"recipes {', '.join(named)}"
    base = parts_of(most[0])[0] if most else ""
    used = list(dict.fromkeys(one for row in recipes.values() for one in row if parts_of(one)[0] == base))
    if len(used) < 2:
        return f"recipe {', '.join(map(brief, most))}"
    shared = set.intersection(*(set(parts_of(one)[1].items()) for one in used))
    same = [f"{key}={value}" for key, value in parts_of(used[0])[1].items() if (key, value) in shared]
    return f"recipe {brief(','.join([base, *same]))}, whose {'other ' if same else ''}settings differ between rows"


def brief(recipe: str) -> str:
    """Shorten a recipe's name to a few of its settings: `quick,batch_size=32`, `mine.yaml,… + 9 settings`."""
    base, settings = parts_of(recipe)
    texts = [f"{key}={value}" for key, value in settings.items()]
    more = len(texts) - _NAMED
    shortened = ",".join([base, *(texts if more <= 1 else texts[:_NAMED])])
    return shortened if more <= 1 else f"{shortened} and {more} more settings"
