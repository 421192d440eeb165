# SPDX-License-Identifier: Apache-2.0
"""`dpt-jax data` as a person calls it: which data is meant, where reports go, words in errors."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from dpt_jax.data.cli import add_commands
from dpt_jax.data.sources import DatasetError
from dpt_jax.data.sources.rooms_layouts import LAYOUTS

sys.path.insert(0, str(Path(__file__).parent))

from bad_inputs_layouts import ade20k, folder, nyuv2, pascal_context


def call(*arguments):
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    parsed = parser.parse_args(["data", *map(str, arguments)])
    return parsed.run(parsed)


def refused(*arguments):
    with pytest.raises(DatasetError) as error:
        call(*arguments)
    assert "config.data" not in str(error.value)
    return str(error.value)


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def prepared_voc(tmp_path):
    pascal_context(tmp_path / "voc")
    out = tmp_path / "copies" / "voc60"
    out.parent.mkdir()
    assert call("prepare", "pascal_context", "--source", tmp_path / "voc", "--background",
                "--split=train", "--out", out) == 0  # fmt: skip
    return out


def test_a_prepared_copy_is_what_its_name_says(here, tmp_path, capsys):
    copy = prepared_voc(tmp_path)
    for arguments in (["pascal_context", "--source", copy, "--background"], [copy]):
        call("check", *arguments, "--split=train")
        assert "pascal_context background=True" in capsys.readouterr().out
    assert sorted(p.name for p in here.iterdir()) == [
        "pascal_context_prepared_check",
        "voc60_prepared_check",
    ]
    message = refused("check", "pascal_context", "--source", copy, "--split=train")
    assert "set NAME and --background as before" in message
    assert "'pascal_context background=False'" in message
    assert "'ade20k'" in refused("check", "ade20k", "--source", copy, "--split=train")
    assert "prepared copy already" in refused("prepare", copy, "--out", tmp_path / "again")


def test_lists_and_descriptions_are_not_for_prepared_copies(here, tmp_path):
    folder(tmp_path / "mine")
    nyuv2(tmp_path / "nyu")
    for arguments in (
        ["folder", "--source", tmp_path / "mine", "--description", tmp_path / "mine/dataset.json"],
        ["nyuv2", "--source", tmp_path / "nyu", "--train_list=nyudepthv2_train_files_with_gt.txt"],
    ):
        name, _, _, *option = arguments
        copy = tmp_path / f"{name}_copy"
        assert call("prepare", *arguments, "--split=train", "--out", copy) == 0
        call("check", name, "--source", copy, "--split=train")
        message = refused("check", name, "--source", copy, "--split=train", *option)
        assert f"unset {option[0].partition('=')[0]} or" in message and str(copy) in message


def test_a_folder_stands_for_itself(here, tmp_path, capsys):
    folder(tmp_path / "mine")
    assert call("prepare", tmp_path / "mine", "--out", tmp_path / "copy") == 0
    assert f"--config.data.root={tmp_path / 'copy'}" in capsys.readouterr().out
    call("check", "folder", "--source", tmp_path / "mine")
    first = json.loads((here / "mine_check/check.json").read_text())
    (here / "mine_check/check.json").unlink()
    call("check", tmp_path / "mine")
    assert json.loads((here / "mine_check/check.json").read_text()) == first
    for words in (["nothing"], ["nothing", "--source", tmp_path], [tmp_path, "--source", "x"]):
        assert "nor a folder" in refused("prepare", *words, "--out", tmp_path / "new")


@pytest.mark.parametrize(
    "inside, name",
    [
        ("images/training", "ade20k"),
        ("leftImg8bit", "cityscapes"),
        ("VOCdevkit", "pascal_context"),
        ("VOC2010", "pascal_context"),
        ("official_splits", "nyuv2"),
        ("data_depth_annotated", "kitti"),
    ],
)
@pytest.mark.parametrize("command", [["check"], ["prepare", "--out=out"]], ids=["check", "prepare"])
def test_a_known_layout_is_recognised(here, inside, name, command):
    (here / "set" / inside).mkdir(parents=True)
    assert f"`{name} --source set`" in refused(*command, "set")
    (here / "set" / "dataset.json").write_text("{}")
    assert name not in refused(*command, "set")


def test_errors_speak_of_the_flags_that_there_are(here, tmp_path):
    assert "pass --source=DIR with DIR" in refused("check", "ade20k")
    assert "Pass --source=DIR" in refused("check", "folder", "--source=nowhere")
    for split in ("train", "validation"):
        flag = f"--{split}_list"
        message = refused("check", "nyuv2", "--source", tmp_path, f"--split={split}")
        assert f"{flag}=FILE" in message
        message = refused("check", "nyuv2", "--source", tmp_path, f"{flag}=x", f"--split={split}")
        assert f"{flag}=x is neither" in message


@pytest.mark.parametrize("lost, kept", [("training", "validation"), ("validation", "training")])
def test_a_split_that_can_be_read_alone_is_named(here, lost, kept):
    ade20k(here / "ade")
    (here / "ade/images" / lost).rename(here / "elsewhere")
    message = refused("check", "ade20k", "--source=ade")
    split = {"training": "train", "validation": "validation"}[kept]
    assert f"images/{lost} is not" in message and f"--split={split})" in message
    assert call("prepare", "ade20k", "--source=ade", f"--split={split}", "--out=copy") == 0
    (here / "ade/objectInfo150.txt").unlink()
    assert "--split" not in refused("check", "ade20k", "--source=ade")


def test_the_layouts_of_rooms_are_described(capsys):
    with pytest.raises(SystemExit):
        call("rooms", "--help")
    shown = capsys.readouterr().out
    for name, layout in LAYOUTS.items():
        assert any(line.split() == [name, *layout.about.split()] for line in shown.split("\n"))
