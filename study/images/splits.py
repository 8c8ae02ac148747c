"""Splits of the data: class-stratified, drawn once from a seed, the same everywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from study import spec
from study.errors import StudyError
from study.images.files import Images


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


def split(images: Images, splits: spec.Splits) -> dict[str, NDArray[np.int64]]:
    """The indices of every split: 'zoo', 'tune', 'transfer', 'evaluation' (see `spec.Splits`).

    Depends on the labels and the splits' own seed alone.

    Raises:
        StudyError: a split asks for more images than there are.
    """
    train, test = (np.arange(*images.subsets[name]) for name in ("train", "test"))
    generator = np.random.default_rng(splits.seed)

    def draw(name: str, candidates: NDArray[np.int64], amount: float) -> NDArray[np.int64]:
        total = round(amount * len(candidates)) if amount <= 1 else int(amount)
        try:
            return stratified(candidates, images.labels, total, generator)
        except ValueError as error:
            raise StudyError(f"data.splits.{name}: asks for {error}; ask for fewer") from error

    zoo = draw("zoo", train, splits.zoo)
    outside = np.setdiff1d(train, zoo)
    tune = draw("tune", outside, splits.tune)
    outside = np.setdiff1d(outside, tune)
    transfer = draw("transfer", zoo if len(zoo) else outside, splits.transfer)
    rest = np.setdiff1d(outside, transfer)
    evaluation = np.union1d(test, rest) if splits.evaluate_rest else test
    return {"zoo": zoo, "tune": tune, "transfer": transfer, "evaluation": evaluation}


def images_of_recipe(
    splits: dict[str, NDArray[np.int64]], labels: NDArray[np.int64], recipe: spec.Recipe
) -> NDArray[np.int64]:
    """The images a recipe trains on: the transfer set, and more of the zoo split drawn by its seed.

    With fewer images than the transfer set holds, a part of that.

    Raises:
        StudyError: the zoo split holds fewer images than the recipe asks for.
    """
    zoo, transfer = splits["zoo"], splits["transfer"]
    wanted = len(zoo) if recipe.images is None else recipe.images
    if wanted > len(zoo):
        raise StudyError(
            f"recipe.images: asks for {wanted}, but data.splits.zoo holds {len(zoo)}; ask for fewer"
        )
    generator = np.random.default_rng(recipe.seed)
    if wanted <= len(transfer):
        return stratified(transfer, labels, wanted, generator)
    more = stratified(np.setdiff1d(zoo, transfer), labels, wanted - len(transfer), generator)
    return np.union1d(transfer, more)
