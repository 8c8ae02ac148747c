"""Splits of the data: class-stratified, drawn once from a seed, the same everywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from study import spec
from study.errors import StudyError
from study.images.files import LEFT_OUT, Images
from study.images.sources import UNKNOWN


def stratified(
    candidates: NDArray[np.int64], labels: NDArray[np.int64], total: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw samples so that every class keeps its share, to within one sample.

    Args:
        candidates: int64 [n], indices to draw from.
        labels: int64 [count], class of every sample of the file.
        total: how many to draw.
        generator: source of randomness.

    Returns:
        int64 [total], sorted indices.

    Raises:
        ValueError: more is asked for than there is.
    """
    if total > len(candidates):
        raise ValueError(f"{total} images of {len(candidates)}")
    groups = [candidates[labels[candidates] == label] for label in np.unique(labels[candidates])]
    exact = np.array([len(group) * total / max(1, len(candidates)) for group in groups])
    counts = np.floor(exact).astype(int)
    # What rounding down left over goes to the classes that lost most by it.
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    drawn = [generator.permutation(group)[:n] for group, n in zip(groups, counts, strict=True)]
    return np.sort(np.concatenate(drawn)) if drawn else candidates


def _total(amount: float, of: int) -> int:
    """How many samples an amount is: up to 1 a share, above 1 a number."""
    return round(amount * of) if amount <= 1 else int(amount)


def transfer_size(train: int, classes: int, splits: spec.Splits) -> int:
    """How many of so many training images, as many of each class, the transfer set will hold."""
    zoo = _total(splits.zoo, train)
    tune = _total(splits.tune, train - zoo) if splits.tune_of == "train" else 0
    kept = zoo if splits.imbalance is None else round(zoo * profile(classes, splits.imbalance).mean())
    return _total(splits.transfer, kept or train - zoo - tune)


def profile(classes: int, imbalance: float) -> NDArray[np.float64]:
    """Images of the class of each rank, over those of the largest: ρ^(−r / (K − 1)), float64 [classes]."""
    return imbalance ** (-np.arange(classes) / max(1, classes - 1))


def long_tailed(
    samples: NDArray[np.int64], labels: NDArray[np.int64], imbalance: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Of samples, sorted, as many of each class as the `profile` says, at least one, in ranks that are drawn.

    Exponential, as the long-tailed CIFAR of Cui et al. (arXiv 1901.05555, section 5.1); the sets of Shen et
    al. (arXiv 2104.00676) follow a Pareto distribution. A class that has fewer keeps them all.
    """
    present, counts = np.unique(labels[samples], return_counts=True)
    wanted = np.rint(counts.max(initial=0) * profile(len(present), imbalance)).astype(int).clip(min=1)
    ranked = zip(generator.permutation(present), wanted, strict=True)
    kept = [generator.permutation(samples[labels[samples] == label])[:n] for label, n in ranked]
    return np.sort(np.concatenate(kept)) if kept else samples


def split(images: Images, splits: spec.Splits) -> dict[str, NDArray[np.int64]]:
    """The indices of every split: 'zoo', 'tune', 'fit', 'transfer', 'evaluation' (see `spec.Splits`).

    Depends on the labels and the splits' own seed alone.

    Raises:
        StudyError: a split asks for more images than there are, or would hold images without a class where
            others have one. Where none has, nothing is measured that needs classes.
    """
    train, test = (np.arange(*images.subsets[name]) for name in ("train", "test"))
    train, test = (part[images.labels[part] != LEFT_OUT] for part in (train, test))
    generator, beside = np.random.default_rng(splits.seed), np.random.default_rng((splits.seed, 1))

    def draw(
        name: str, candidates: NDArray[np.int64], amount: float, by: np.random.Generator = generator
    ) -> NDArray[np.int64]:
        try:
            return stratified(candidates, images.labels, _total(amount, len(candidates)), by)
        except ValueError as error:
            raise StudyError(f"data.splits.{name}: asks for {error}; ask for fewer") from error

    zoo = draw("zoo", train, splits.zoo)
    outside = np.setdiff1d(train, zoo)
    if splits.imbalance is not None:
        zoo = long_tailed(zoo, images.labels, splits.imbalance, np.random.default_rng((splits.seed, 2)))
    tune = draw("tune", outside if splits.tune_of == "train" else test, splits.tune)
    outside, test = (np.setdiff1d(part, tune) for part in (outside, test))
    fit = draw("fit", tune, splits.fit, beside)  # by numbers of its own: other splits are as without it
    tune = np.setdiff1d(tune, fit)
    transfer = draw("transfer", zoo if len(zoo) else outside, splits.transfer)
    rest = np.setdiff1d(outside, transfer)
    evaluation = np.union1d(test, rest) if splits.evaluate_rest else test
    found = {"zoo": zoo, "tune": tune, "fit": fit, "transfer": transfer, "evaluation": evaluation}
    some_known = (images.labels >= 0).any()
    for name, part in found.items():
        if name != "transfer" and some_known and (images.labels[part] == UNKNOWN).any():
            raise StudyError(
                f"data.splits: '{name}' would hold images of which nobody has said the classes, and only "
                "'transfer' may; take zoo: 0, evaluate_rest: false, and tune_of: test"
            )
    return found


def watched(
    splits: dict[str, NDArray[np.int64]], labels: NDArray[np.int64], watch: spec.Watch
) -> NDArray[np.int64]:
    """The samples of a split that are watched: all, or some, the same in every trial; sorted indices.

    Raises:
        StudyError: more are asked for than there are.
    """
    pool = splits[watch.split]
    if watch.samples is None:
        return pool
    try:
        return stratified(pool, labels, watch.samples, np.random.default_rng(0))
    except ValueError as error:
        raise StudyError(f"watch.samples: asks for {error} in '{watch.split}'; ask for fewer") from error


def for_training(
    splits: dict[str, NDArray[np.int64]], labels: NDArray[np.int64], images: int | None, seed: int
) -> NDArray[np.int64]:
    """The images a model is trained on: the transfer set, and more of the zoo split, if there is one.

    With fewer images than the transfer set holds, a part of that.

    Args:
        splits: as `split` gives them.
        labels: int64 [count], class of every sample of the file.
        images: how many; None: all.
        seed: of the draw.

    Returns:
        int64 [images], sorted indices.

    Raises:
        StudyError: more are asked for than there are.
    """
    name = "zoo" if len(splits["zoo"]) else "transfer"
    pool, transfer = splits[name], splits["transfer"]
    wanted = len(pool) if images is None else images
    if wanted > len(pool):
        raise StudyError(
            f"weights.images: asks for {wanted}, but data.splits.{name} holds {len(pool)}; ask for fewer"
        )
    generator = np.random.default_rng(seed)
    if wanted <= len(transfer):
        return stratified(transfer, labels, wanted, generator)
    more = stratified(np.setdiff1d(pool, transfer), labels, wanted - len(transfer), generator)
    return np.union1d(transfer, more)
