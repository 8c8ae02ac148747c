"""Published accuracies: timm's own numbers, and plain words where there are none."""

from __future__ import annotations

import functools
import http.server
import socket
import threading

import pytest

from study import spec
from study.errors import StudyError
from study.models import published

# Lines of timm's results/results-imagenet.csv as they are there, but for the last two: one model, two crops.
TIMM = """\
model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation
eva_giant_patch14_336.clip_ft_in1k,89.466,10.534,98.826,1.174,"1,013.01",336,1.000,bicubic
convnext_small.fb_in22k_ft_in1k,85.262,14.738,97.682,2.318,50.22,288,1.000,bicubic
convnext_small.in12k_ft_in1k,85.330,14.670,97.546,2.454,50.22,288,1.000,bicubic
nobodys_model.in1k,80.5,19.5,95,5,1.00,224,1.000,bicubic
nobodys_model.in1k,80.0,20.0,95,5,1.00,224,0.875,bicubic
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(TIMM)
    return path


@pytest.fixture
def server(tmp_path):
    """The address of a server of the files in `tmp_path`."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_the_shipped_table_has_every_model_of_the_papers_studies():
    accuracies = published.top1()
    named = {name for name, _ in accuracies if "." in name}
    assert len(named) == 40
    for study in ("paper_subset10", "paper_full"):
        assert {model.timm for model in spec.load(f"studies/{study}.yaml").zoo.values()} <= named
    assert accuracies["resnetv2_50.a1h_in1k", 224] == pytest.approx(0.8041)
    assert all(0.7 < value < 0.9 for value in accuracies.values())


def test_timms_own_format_is_read(table):
    accuracies = published.top1(str(table))
    assert accuracies["eva_giant_patch14_336.clip_ft_in1k", 336] == pytest.approx(0.89466)
    assert ("convnext_small.in12k_ft_in1k", 224) not in accuracies
    assert accuracies["nobodys_model.in1k", 224] == pytest.approx(0.805)


def test_a_bare_name_means_timms_default_tag(table):
    accuracies = published.top1(str(table))
    assert accuracies["convnext_small", 288] == accuracies["convnext_small.in12k_ft_in1k", 288]
    assert ("nobodys_model", 224) not in accuracies
    table.write_text(TIMM + "convnext_small,70,30,90,10,50.22,288,1.000,bicubic\n")
    assert published.top1(str(table))["convnext_small", 288] == pytest.approx(0.7)


def test_an_address_is_read_like_a_file(table, server):
    assert published.top1(f"{server}/results.csv") == published.top1(str(table))


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!DOCTYPE html>\n<p>hello</p>", "no column model, top1, img_size"),
        ("<p>" * 100_000, "field larger than field limit"),
        ("model,top1\nresnet50.a1_in1k,80", "no column img_size"),
        ("model,top1,img_size\n", "no rows"),
        ("", "no column model, top1, img_size"),
        ("model,top1,img_size\na,80,224\nb,eighty,224\n", "line 3: top1 eighty, img_size 224"),
        ("model,top1,img_size\na,nan,224\n", "line 2: top1 nan"),
        ("model,top1,img_size\na,180,224\n", "line 2: top1 180"),
        ("model,top1,img_size\na,80\n", "line 2: top1 80, img_size None"),
    ],
)
def test_another_file_is_refused(tmp_path, text, words):
    path = tmp_path / "results.csv"
    path.write_text(text)
    with pytest.raises(StudyError, match=rf"results\.csv: not a table of results in timm's .*{words}"):
        published.top1(str(path))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "results.csv"
    path.write_bytes(b"\x80\x81\xff")
    with pytest.raises(StudyError, match=r"results\.csv: not a table .*not a text file"):
        published.top1(str(path))


def test_what_cannot_be_read_is_told(tmp_path, server):
    missing = tmp_path / "none.csv"
    with pytest.raises(StudyError, match=r"none\.csv: .* cannot be read \(No such file or directory\)"):
        published.top1(str(missing))
    with pytest.raises(StudyError, match=r"none\.csv: the address answers 404"):
        published.top1(f"{server}/none.csv")
    with pytest.raises(StudyError, match=r"cannot be read \(.*Is a directory"):
        published.top1(str(tmp_path))


def test_an_address_nobody_answers_is_told(monkeypatch):
    monkeypatch.setattr(published, "SECONDS", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/results.csv"
        with pytest.raises(StudyError, match=r"cannot be read \(.*[Rr]efused.*\); check the path or the net"):
            published.top1(address)
        silent.listen()
        with pytest.raises(StudyError, match=r"cannot be read \(timed out\)"):
            published.top1(address)
    with pytest.raises(StudyError, match=r"cannot be read"):
        published.top1("http://nobody.invalid/results.csv")
    with pytest.raises(StudyError, match=r"cannot be read"):
        published.top1("http://[::1")
