"""Peers that are missing, too old or too new; needs none of them."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version

from calibadv_env.common.peers import Peer, require
from calibadv_env.errors import MissingDependencyError
from calibadv_env.integrations import versions
from calibadv_env.integrations.common import plain_facts, task_options

ROOT = Path(__file__).parents[2]
PEERS = [versions.SKYRL_GYM, versions.GEM, versions.VERIFIERS, versions.OPENENV, versions.NEMO_GYM]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.package)
@pytest.mark.parametrize(
    ("installed", "complaint"),
    [("0.0.1", "too old"), ("9.0", "too new"), (None, "not installed")],
)
def test_other_releases_are_refused_by_the_names_of_the_tested(
    monkeypatch, peer, installed, complaint
):
    def version(package):
        assert package == peer.package
        if installed is None:
            raise metadata.PackageNotFoundError(package)
        return installed

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(ImportError, match=complaint) as caught:
        require(peer)
    assert isinstance(caught.value, MissingDependencyError)
    for tested in peer.tested:
        assert tested in str(caught.value)
    assert peer.package in str(caught.value)


def test_a_release_that_cannot_be_imported_is_refused_too(monkeypatch):
    broken = Peer(package="x", module="no_such_module", tested=("1.2.3",), first="1", before="2")
    monkeypatch.setattr(metadata, "version", lambda package: "1.5")
    with pytest.raises(ImportError, match=r"1\.2\.3.*x 1\.5 is installed.*no_such_module"):
        require(broken)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.package)
def test_tested_releases_are_let_in(peer):
    for tested in peer.tested:
        assert Version(peer.first) <= Version(tested)
        assert Version(tested) < Version(peer.before)


def test_the_core_imports_no_adapter():
    code = (
        "import sys, calibadv_env, calibadv_env.env, calibadv_env.vector\n"
        "print([name for name in sys.modules if 'integrations' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_facts_fit_into_json():
    facts = plain_facts({"a": (1, ("b",)), "c": float("nan"), "d": None, "e": 0.5})
    assert facts == {"a": [1, ["b"]], "c": None, "d": None, "e": 0.5}


def test_the_first_row_that_names_a_task_chooses_it():
    assert task_options(None, {"task_index": 0}, {"task_id": "x"}) == {"task_index": 0}
    assert task_options({"task_index": None}, {"task_id": "x"}) == {"task_id": "x"}
    assert task_options({}, None) is None
