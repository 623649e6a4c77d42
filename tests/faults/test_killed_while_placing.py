"""A process that dies at any moment of putting outputs in place: the next one finds all of them, or none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ndpass.files.journal import Move, take_back, write_down
from ndpass.files.own_folder import LOCK, OwnFolder, remove_left, temporary_folder

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

EVERY_MOMENT = """
import os, signal, sys
from pathlib import Path
from ndpass.files.own_folder import remove_left
from ndpass.files.staging import Outputs

links, root = sys.argv[1] == "links", Path(sys.argv[2])
NEW = ("m.xml", "m.bin", "r.json", "served/x/1/model.xml")
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod")

def write(folder):
    with Outputs() as outputs:
        stage = outputs.stage(folder / "m.xml")
        for path in (stage.path, stage.path.with_suffix(".bin")):
            path.write_text("new")
        outputs.text(folder / "r.json", "new")
        (outputs.stage_folder(folder / "served" / "x" / "1").path / "model.xml").write_text("new")
        outputs.commit()

def child(folder, last):
    left = [last]
    def hear(event, args):
        if event == "os.link" and not links:
            raise OSError("no hard links here")
        if event in CHANGES:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hear)
    write(folder)
    os._exit(0)

def contents(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}

old = {name: "old" for name in ("m.xml", "m.bin", "r.json")}
seen, number = [], 0
while True:
    number += 1
    folder = root / f"{links}{number}"
    folder.mkdir()
    for name, text in old.items():
        (folder / name).write_text(text)
    if not (pid := os.fork()):
        child(folder, number)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    remove_left(folder, ".m.xml.")
    remove_left(folder, ".r.json.")
    remove_left(folder, ".1.")
    found = contents(folder)
    assert found in (old, dict.fromkeys(NEW, "new")), (number, found)
    folders = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_dir()]
    assert folders == ([] if found == old else ["served", "served/x", "served/x/1"]), (number, folders)
    seen.append(found == old)
    if ended == 0:
        break
assert seen == sorted(seen, reverse=True), seen
print(sum(seen), len(seen))
"""


@pytest.mark.parametrize("links", ["links", "no links"])
def test_all_outputs_or_none_whenever_it_is_killed(links: str, tmp_path: Path) -> None:
    """With and without hard links, at every change of the file system that it makes, older outputs being there."""
    command = [sys.executable, "-B", "-c", EVERY_MOMENT, links, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    none, tried = map(int, done.stdout.split())
    assert 20 < none < tried


LEAVES = """
import os, signal, sys
from ndpass.files.own_folder import new_temporary
made = new_temporary()
(made.path / "half.npy").write_text("half")
print(made.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_temporary_folders_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, check=False, env=env)
    left = Path(done.stdout.strip())
    assert (left / "half.npy").exists()
    alive = OwnFolder(tmp_path, "ndpass-")
    (tmp_path / "ndpass-somebody").mkdir()
    (tmp_path / "ndpass-somebody" / "else").touch()
    (tmp_path / "mine").mkdir()
    remove_left(tmp_path, "ndpass-")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([alive.path.name, "mine", "ndpass-somebody"])
    alive.remove()
    assert not alive.path.exists()


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / LOCK).touch()
    (tmp_path / "ndpass-abcdefgh").symlink_to("mine")
    remove_left(tmp_path, "ndpass-")
    assert (tmp_path / "mine" / LOCK).exists()


def test_what_somebody_has_put_there_since_stays(tmp_path: Path) -> None:
    """After a kill between two renames, the user copies a model to the place."""
    model, new, waits = tmp_path / "m.xml", tmp_path / "hidden" / "m.xml", tmp_path / "hidden" / "old"
    waits.mkdir(parents=True)
    model.write_text("old")
    new.write_text("new")
    write_down([Move(None, model, waits / "0", model), Move(new, model, waits / "1", model)], [])
    model.rename(waits / "0")
    model.write_text("the user's")
    take_back(tmp_path / "hidden")
    assert model.read_text() == "the user's"


@pytest.mark.parametrize("way", ["elsewhere", "up", "link", "first"])
def test_a_journal_that_somebody_has_sent_moves_nothing_out_of_its_folder(tmp_path: Path, way: str) -> None:
    """As it may come out of an archive: the next output there would put a file anywhere, or remove one."""
    home, sent = tmp_path / "home", tmp_path / "sent"
    waits = sent / ".m.abcdefgh" / ".old"
    waits.mkdir(parents=True)
    home.mkdir()
    (home / "kept").write_text("kept")
    (sent / "link").symlink_to(home)
    (waits / "0").write_text("evil")
    places = {"elsewhere": home / "evil", "up": sent / ".." / "home" / "evil", "link": sent / "link" / "evil"}
    write_down([Move(waits / "0", places.get(way, sent / "m.xml"), waits / "0", sent / "m.xml")], [])
    if way == "first":
        journal = waits / "moves.json"
        journal.write_text(json.dumps({**json.loads(journal.read_text()), "first": str(home / "kept")}))
    (sent / ".m.abcdefgh" / LOCK).touch()
    remove_left(sent, ".m.")
    assert {path.name for path in home.iterdir()} == {"kept"}
    assert not (sent / ".m.abcdefgh").exists()


def test_a_temporary_folder_goes_at_the_end_of_its_block() -> None:
    with temporary_folder() as folder:
        (folder / "x").touch()
    assert not folder.exists()
